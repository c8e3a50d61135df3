"""The pods of the one node: starts each, and ends it when its object is marked for deletion or removed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator

from podrelay_local_cluster.kubelet.container_run import NodeServices
from podrelay_local_cluster.kubelet.node_object import NODE_NAME
from podrelay_local_cluster.kubelet.pod_run import HOLD_DELETION_ANNOTATION, PodRun
from podrelay_local_cluster.objects.json_text import Json
from podrelay_local_cluster.objects.record import Record
from podrelay_local_cluster.objects.resources import TERMINAL_PHASES

log = logging.getLogger(__name__)


class LocalNode:
    """Runs pods that name no other node. An error of this program while it runs a pod fails that pod alone."""

    def __init__(self, services: NodeServices, after_pod_gone: Callable[[Record], None]) -> None:
        self._services = services
        self._after_pod_gone = after_pod_gone
        self._runs: dict[str, tuple[PodRun, asyncio.Task[None]]] = {}

    @property
    def running(self) -> int:
        return len(self._runs)

    def pod_created(self, record: Record) -> None:
        if _is_ours(record):
            self._start(record, PodRun(record, self._services))

    def pod_restored(self, record: Record) -> None:
        """Continue a pod of an earlier server, unless it has ended."""
        if record.obj["status"].get("phase") in TERMINAL_PHASES or not _is_ours(record):
            return
        run = PodRun(record, self._services)
        run.restore(record.obj["status"])
        self._start(record, run)
        if record.is_being_deleted:
            self.pod_terminating(record, 0.0)

    def pod_terminating(self, record: Record, grace_s: float) -> None:
        """End the pod: SIGTERM, and SIGKILL after `grace_s`."""
        if record.annotations.get(HOLD_DELETION_ANNOTATION) == "true" or not _is_ours(record):
            return
        entry = self._runs.get(record.uid)
        if entry is not None:
            entry[0].terminate(grace_s)
        else:
            asyncio.get_running_loop().call_soon(self._services.pods.finish, record)

    def pod_gone(self, record: Record) -> None:
        """Kill what still runs for a removed pod, and delete its files."""
        entry = self._runs.get(record.uid)
        if entry is not None:
            entry[0].abandon()
        if self._services.runtime.keeps_logs:
            self._services.logs.remove(record.uid)
        self._services.volumes.remove(record.uid)
        self._after_pod_gone(record)

    def force_end(self, record: Record, status: Json) -> None:
        """Give the pod this final status and kill what runs for it."""
        entry = self._runs.pop(record.uid, None)
        if entry is not None:
            entry[0].abandon()
        changed = self._services.pods.set_status(record, status)
        if changed is not None and changed.is_being_deleted:
            self._services.pods.finish(changed)

    def end_all(self, exit_code: int, chosen: Callable[[Record], bool]) -> int:
        """Let the containers of all running pods that are `chosen` exit with this code; returns the number of pods."""
        return sum(run.end(exit_code) for record, run in self._running_now() if chosen(record))

    def _running_now(self) -> Iterator[tuple[Record, PodRun]]:
        for run, _ in list(self._runs.values()):
            record = self._services.pods.latest(run.record)
            if record is not None and record.obj["status"].get("phase") == "Running":
                yield record, run

    async def stop(self, grace_s: float) -> None:
        """End the processes of all pods and wait for them: SIGTERM, and SIGKILL after `grace_s`."""
        entries = list(self._runs.values())
        for run, _ in entries:
            run.terminate(grace_s)
        await asyncio.gather(*(task for _, task in entries), return_exceptions=True)

    def _start(self, record: Record, run: PodRun) -> None:
        task = asyncio.create_task(run.run(), name=f"pod {record.namespace}/{record.name}")
        self._runs[record.uid] = (run, task)
        task.add_done_callback(lambda done: self._ended(record, done))

    def _ended(self, record: Record, task: asyncio.Task[None]) -> None:
        entry = self._runs.get(record.uid)
        if entry is not None and entry[1] is task:
            del self._runs[record.uid]
        if not task.cancelled() and task.exception() is not None:
            where = f"{record.namespace}/{record.name}"
            log.error("Internal error while running pod %s; failing the pod", where, exc_info=task.exception())
            self._fail(record, task.exception())

    def _fail(self, record: Record, error: BaseException | None) -> None:
        current = self._services.pods.latest(record)
        if current is not None:
            text = f"the local cluster cannot run this pod: {type(error).__name__}: {error}"
            self.force_end(
                current, {**current.obj["status"], "phase": "Failed", "reason": "InternalError", "message": text}
            )


def _is_ours(record: Record) -> bool:
    """A pod of another node stays as it is: nothing runs it, and nothing confirms its deletion."""
    return record.obj["spec"].get("nodeName") in (None, "", NODE_NAME)
