"""Secrets and ConfigMaps as files. A container is a local process without a file system of its own.

The files are written to a private folder. Wherever the container's command line, variables or working directory name the path
of the mount, the process gets the path of that folder instead; a program that knows the path by itself finds nothing there.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from podrelay_local_cluster.kubelet.environment import Lookup, volume_data
from podrelay_local_cluster.objects.json_text import Json


class VolumeDirectory:
    """The volumes of all pods: one folder per pod uid and volume. What an earlier server left behind is deleted."""

    def __init__(self, root: Path) -> None:
        self._root = root
        shutil.rmtree(root, ignore_errors=True)

    def mount(self, pod: Json, container: Json, lookup: Lookup) -> dict[str, str]:
        """Write the volumes of a container, and return mount path -> folder. Raises OSError."""
        try:
            return self._mount(pod, container, lookup)
        except (ValueError, TypeError, AttributeError) as exc:  # a ConfigMap may hold anything
            raise OSError(f"a volume cannot be written: {exc}") from exc

    def _mount(self, pod: Json, container: Json, lookup: Lookup) -> dict[str, str]:
        volumes = {volume["name"]: volume for volume in pod["spec"].get("volumes") or []}
        mounts = {}
        for item in container.get("volumeMounts") or []:
            data = volume_data(volumes.get(item["name"]) or {}, lookup)
            if data is not None:
                folder = self._root / pod["metadata"]["uid"] / item["name"]
                _write(folder, data)
                mounts[item["mountPath"].rstrip("/")] = str(folder)
        return mounts

    def remove(self, uid: str) -> None:
        """Delete the volumes of a pod whose containers have ended."""
        shutil.rmtree(self._root / uid, ignore_errors=True)


def translated(text: str, mounts: Mapping[str, str]) -> str:
    """The text with each path below a mount replaced by that of its file."""
    for path, folder in mounts.items():
        if path in text:
            text = re.sub(rf"(?<![\w./-]){re.escape(path)}(?![\w.-])", folder.replace("\\", r"\\"), text)
    return text


def _write(folder: Path, data: Mapping[str, bytes]) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path, content in _files(folder, data):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)


def _files(folder: Path, data: Mapping[str, bytes]) -> Iterator[tuple[Path, bytes]]:
    """Raises OSError for a path that leads out of the folder; a real API server refuses it."""
    for name, content in data.items():
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not path.parts:
            raise OSError(f"a volume cannot hold a file {name}")
        yield folder / path, content
