"""The settings of one local cluster: read once from the command line, then only passed on."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path


class RunnerKind(str, Enum):
    """What stands behind a pod."""

    PROCESS = "process"
    SIMULATE = "simulate"


@dataclass(frozen=True)
class Options:
    """Everything a local cluster is told at its start."""

    port: int
    """TCP port on 127.0.0.1; 0 takes a free one (or, with a data directory used before, the one of last time)."""

    kubeconfig_out: Path
    """Where the kubeconfig is written, mode 0600."""

    namespaces: tuple[str, ...] = ("default",)
    """Namespaces that exist from the start; ``default`` always does."""

    runner: RunnerKind = RunnerKind.PROCESS

    data_dir: Path | None = None
    """Journal, logs, token and port are kept here and outlive the server; None: a temporary directory, removed at the end."""

    watch_window: int = 10_000
    """Events kept per resource, from which a watch can resume; older versions answer 410 Expired."""

    bookmark_interval_s: float = 60.0
    """A real API server sends a bookmark about once a minute to watches that ask for them."""

    crash_backoff_s: float = 10.0
    """First pause before a container that crashed twice starts again; doubles up to 300 s, as the kubelet's does."""

    token: str | None = None
    """Bearer token; None makes a random one."""
