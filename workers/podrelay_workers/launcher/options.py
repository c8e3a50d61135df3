"""What a launcher gets from Airflow's configuration, as plain values. Read by `start`, used by `process`."""

from __future__ import annotations

from dataclasses import dataclass, replace

from podrelay_workers.kube.loader_process import LoaderProcess
from podrelay_workers.launcher.template_proof import BegunProof
from podrelay_workers.launcher.wait_limit import WaitLimit
from podrelay_workers.runtime.logs import LogOptions
from podrelay_workers.runtime.worker_options import WorkerOptions


@dataclass(frozen=True)
class PodOptions:
    """The options of `[kubernetes_executor]` that decide what a pod is; named as there."""

    kube_image: str | None = None
    pod_template_file: str = ""


@dataclass(frozen=True)
class LauncherOptions:
    """`first_load`: of the credentials. `proof`: of the configured template. Both come from `start.answer_first`."""

    worker: WorkerOptions
    pods: PodOptions
    wait_limit: WaitLimit
    has_hook: bool = False
    proof: BegunProof | None = None
    first_load: LoaderProcess | None = None

    @property
    def log(self) -> LogOptions:
        return self.worker.log

    def answered_by(self, pid: int, credentials: int, proof: int) -> LauncherOptions:
        """With the sockets to the process that works on both."""
        return replace(self, first_load=LoaderProcess(pid, credentials), proof=BegunProof(proof))
