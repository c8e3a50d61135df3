"""The kubeconfig by which every client reaches the local cluster; used by `server`."""

from __future__ import annotations

import base64
import json
import os
import tempfile
from pathlib import Path

NAME = "local-cluster"


def server_url(port: int) -> str:
    """The address of the server."""
    return f"https://127.0.0.1:{port}"


def text(port: int, authority: str, token: str, namespace: str) -> str:
    """A kubeconfig as JSON, which is also valid YAML. `authority`: the CA of the server's certificate, as PEM."""
    cluster = {
        "server": server_url(port),
        "certificate-authority-data": base64.b64encode(authority.encode("ascii")).decode("ascii"),
    }
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": NAME, "cluster": cluster}],
        "users": [{"name": NAME, "user": {"token": token}}],
        "contexts": [{"name": NAME, "context": {"cluster": NAME, "user": NAME, "namespace": namespace}}],
        "current-context": NAME,
    }
    return json.dumps(config, indent=2) + "\n"


def write_private(path: Path, content: str) -> None:
    """Replace the file atomically, mode 0600: a reader sees the old or the new content, never a part. Makes no folder."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(content)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
