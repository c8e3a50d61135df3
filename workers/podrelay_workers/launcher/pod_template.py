"""Pod template files: read once per version, errors that name the option. Used by `pod_manifest`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import yaml

from podrelay.errors import PodrelayError
from podrelay.protocol.messages import Json
from podrelay_workers.launcher.fast_rendering import Proof

_MESSAGE_MAX = 500
_CONFIGURED = "[kubernetes_executor] pod_template_file"
_REQUESTED = "pod_template_file of this task's executor_config, or of its queue's coordinator,"


class ManifestError(PodrelayError):
    """The request has no valid manifest; trying again would not help. `reason` is one word, for the task's event log.

    `pod` is the manifest that was rendered, but may not be created.
    """

    def __init__(self, reason: str, message: str, pod: Json | None = None) -> None:
        super().__init__(message[:_MESSAGE_MAX].encode("utf-8", "replace").decode())
        self.reason = reason
        self.pod = pod


@dataclass
class Template:
    """One version of a template file: its text, and the pod in it. `proof` is None until there is one."""

    stamp: tuple[int, int, int]
    text: str
    document: Json
    proof: Proof | None = None


class PodTemplates:
    """The current version of each template file: an edit to a file takes effect with the next pod."""

    def __init__(self, configured: str | None) -> None:
        """:param configured: path of the template for launches that request none."""
        self._configured = configured
        self._known: dict[str, Template] = {}

    def get(self, requested: str | None) -> Template:
        """The template at the requested path, else the configured one.

        :raises ManifestError: names the option to change.
        """
        path = requested or self._configured
        option = _REQUESTED if requested else _CONFIGURED
        if not path:
            raise ManifestError("InvalidPod", f"{_CONFIGURED} is empty: set it to a file with the pod of a worker.")
        try:
            stat = os.stat(path)  # noqa: PTH116 - called for each pod; twice as fast as Path.stat
        except OSError as error:
            raise _unreadable(path, option, error) from error
        stamp = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        known = self._known.get(path)
        if known is None or known.stamp != stamp:
            text = _read(path, option)
            known = self._known[path] = Template(stamp, text, _document(text, path, option))
        return known


def _read(path: str, option: str) -> str:
    try:
        return Path(path).read_text("utf-8")
    except OSError as error:
        raise _unreadable(path, option, error) from error
    except UnicodeDecodeError as error:
        raise ManifestError(
            "InvalidPod", f"{option} names {path}, which is not one YAML document: {type(error).__name__}."
        ) from error


def _document(text: str, path: str, option: str) -> Json:
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        why = getattr(error, "problem", None) or type(error).__name__
        raise ManifestError(
            "InvalidPod", f"{option} names {path}, which is not one YAML document{where}: {why}."
        ) from error
    if not isinstance(document, dict) or not document:
        raise ManifestError("InvalidPod", f"{option} names {path}, which does not contain a pod.")
    return document


def _unreadable(path: str, option: str, error: OSError) -> ManifestError:
    return ManifestError("InvalidPod", f"{option} names {path}, which this launcher cannot read ({error.strerror}).")
