"""The options of one local cluster, read once from the command line."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path


class Runner(str, Enum):
    """How pods run."""

    PROCESS = "process"
    """Each container is a local process."""

    SIMULATE = "simulate"
    """Each container is a timer."""

    def __str__(self) -> str:
        return self.value


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
    """Holds journal, logs, token and port, and outlives the server. None: a temporary directory, removed at the end."""

    watch_window: int = 10_000
    """Events kept per resource, from which a watch can resume. Older versions are 410 Expired."""

    bookmark_interval_s: float = 60.0
    """A real API server sends a bookmark about once a minute to watches that request bookmarks."""

    crash_backoff_s: float = 10.0
    """First pause before a container that crashed twice restarts. Doubles up to 300 s, as in the kubelet."""

    token: str | None = None
    """Bearer token; None: a random token."""
