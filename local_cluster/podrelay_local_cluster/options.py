"""The options of one local cluster, read once from the command line."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from podrelay_local_cluster.objects.validation import check_metadata

MAX_START_DELAY_S = 3600.0


class Runner(str, Enum):
    """How pods run."""

    PROCESS = "process"
    """Each container is a local process."""

    SIMULATE = "simulate"
    """Each container is a timer."""

    def __str__(self) -> str:
        return self.value


class StartError(Exception):
    """The server cannot start with these options. The message is one line for the user."""


@dataclass(frozen=True)
class ClusterOptions:
    """The options of one local cluster."""

    port: int
    """TCP port on 127.0.0.1. 0 takes a free port, or the port stored in a data directory that was used before."""

    kubeconfig_out: Path
    """Where to write the kubeconfig, mode 0600."""

    namespaces: tuple[str, ...] = ("default",)
    """Namespaces that exist from the start; ``default`` always does. The first is the default of the kubeconfig."""

    runner: Runner = Runner.PROCESS

    data_dir: Path | None = None
    """Holds all that outlives the server: journal, logs, token, certificate, port. None: a temporary directory."""

    watch_window: int = 10_000
    """Events kept per resource, from which a watch can resume. Older versions are 410 Expired."""

    bookmark_interval_s: float = 60.0
    """A real API server sends a bookmark about once a minute to watches that request bookmarks."""

    crash_backoff_s: float = 10.0
    """First pause before a container that crashed twice restarts. Doubles up to 300 s, as in the kubelet."""

    pod_start_delay_s: float = 0.0
    """How long each pod stays ContainerCreating before its first container starts: stands for the pull of images and for init
    containers. A test can change it through the control API."""

    token: str | None = None
    """Bearer token; None: a random token."""

    def check(self) -> None:
        """Raises `StartError` for values with which no server can start. Changes nothing on disk."""
        if not 0 <= self.port <= 65_535:
            raise StartError(f"--port must be between 0 and 65535: {self.port}")
        for name in self.namespaces:
            for error in check_metadata("namespaces", {"name": name}):
                raise StartError(f"--namespaces: {error.message}")
        if self.watch_window < 1:
            raise StartError(f"--watch-window must be at least 1: {self.watch_window}")
        for option, seconds in (
            ("bookmark-interval-s", self.bookmark_interval_s),
            ("crash-backoff-s", self.crash_backoff_s),
        ):
            if not (seconds > 0 and math.isfinite(seconds)):
                raise StartError(f"--{option} must be a number of seconds above 0: {seconds:g}")
        if not 0 <= self.pod_start_delay_s <= MAX_START_DELAY_S:
            allowed = f"a number of seconds from 0 to {MAX_START_DELAY_S:g}"
            raise StartError(f"--pod-start-delay-s must be {allowed}: {self.pod_start_delay_s:g}")
        self._check_kubeconfig()

    def _check_kubeconfig(self) -> None:
        path, folder = self.kubeconfig_out, self.kubeconfig_out.absolute().parent
        if not folder.is_dir():
            raise StartError(f"--kubeconfig-out {path}: the folder {folder} does not exist")
        if path.is_dir():
            raise StartError(f"--kubeconfig-out {path} is a folder; name a file")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise StartError(f"--kubeconfig-out {path}: no permission to write in the folder {folder}")
