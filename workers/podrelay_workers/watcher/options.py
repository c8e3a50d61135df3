"""What a watcher gets from Airflow's configuration, as plain values. Read by `start`, used by `process`."""

from __future__ import annotations

from dataclasses import dataclass, replace

from podrelay_workers.kube.loader_process import LoaderProcess
from podrelay_workers.runtime.logs import LogOptions
from podrelay_workers.runtime.worker_options import WorkerOptions


@dataclass(frozen=True)
class WatcherOptions:
    """`fatal_reasons`: what a container that waits for one of them will never recover from.

    `first_load`: of the credentials, which comes from `start.answer_first`.
    """

    worker: WorkerOptions
    fatal_reasons: frozenset[str] = frozenset()
    first_load: LoaderProcess | None = None

    @property
    def log(self) -> LogOptions:
        return self.worker.log

    def answered_by(self, pid: int, credentials: int) -> WatcherOptions:
        """With the socket to the process that loads the credentials."""
        return replace(self, first_load=LoaderProcess(pid, credentials))
