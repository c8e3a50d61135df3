"""The one node of the cluster: which pods it runs, and what happens to them when their objects are marked or removed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from podrelay_local_cluster.kubelet.container_run import NodeServices
from podrelay_local_cluster.kubelet.ending import Ending
from podrelay_local_cluster.kubelet.pod_run import HOLD_DELETION_ANNOTATION, PodRun
from podrelay_local_cluster.kubelet.pod_status import TERMINAL_PHASES
from podrelay_local_cluster.storage.record import Record

Json = dict[str, Any]

log = logging.getLogger(__name__)


class LocalNode:
    """Runs every pod of the cluster. `failed` is set by a run that ended by a mistake of ours, which ends the server."""

    def __init__(self, services: NodeServices, after_pod_gone: Callable[[str], None]) -> None:
        self._services = services
        self._after_pod_gone = after_pod_gone
        self._runs: dict[str, tuple[PodRun, asyncio.Task[None]]] = {}
        self.failed = asyncio.Event()

    @property
    def running(self) -> int:
        return len(self._runs)

    def pod_created(self, record: Record) -> None:
        self._start(record, PodRun(record, self._services))

    def pod_found(self, record: Record) -> None:
        """A pod that an earlier server knew: go on with it, unless it has ended."""
        if record.obj["status"].get("phase") in TERMINAL_PHASES:
            return
        run = PodRun(record, self._services)
        run.take_over(record.obj["status"])
        self._start(record, run)
        if "deletionTimestamp" in record.obj["metadata"]:
            self.pod_terminating(record, 0.0)

    def pod_terminating(self, record: Record, grace_s: float) -> None:
        if (record.obj["metadata"].get("annotations") or {}).get(HOLD_DELETION_ANNOTATION) == "true":
            return
        entry = self._runs.get(record.uid)
        if entry is not None:
            entry[0].terminate(grace_s)
        else:
            asyncio.get_running_loop().call_soon(self._services.pods.finish, record)

    def pod_gone(self, record: Record) -> None:
        entry = self._runs.get(record.uid)
        if entry is not None:
            entry[0].abandon()
        if self._services.starter.keeps_logs:
            self._services.logs.remove(record.uid)
        self._after_pod_gone(record.namespace)

    def end(self, record: Record, ending: Ending) -> None:
        """Make the pod look as if it had ended in the given way; whatever ran for it is killed."""
        entry = self._runs.pop(record.uid, None)
        if entry is not None:
            entry[0].abandon()
        changed = self._services.pods.set_status(record, ending.status_of(record.obj))
        if changed is not None and "deletionTimestamp" in changed.obj["metadata"]:
            self._services.pods.finish(changed)

    async def stop(self, grace_s: float) -> None:
        """End every pod's processes and wait for their end: SIGTERM, and SIGKILL after `grace_s`."""
        entries = list(self._runs.values())
        for run, _ in entries:
            run.terminate(grace_s)
        await asyncio.gather(*(task for _, task in entries), return_exceptions=True)

    def _start(self, record: Record, run: PodRun) -> None:
        task = asyncio.get_running_loop().create_task(run.run())
        self._runs[record.uid] = (run, task)
        task.add_done_callback(lambda done: self._ended(record, done))

    def _ended(self, record: Record, task: asyncio.Task[None]) -> None:
        entry = self._runs.get(record.uid)
        if entry is not None and entry[1] is task:
            del self._runs[record.uid]
        if not task.cancelled() and task.exception() is not None:
            log.error("running pod %s/%s failed", record.namespace, record.name, exc_info=task.exception())
            self.failed.set()
