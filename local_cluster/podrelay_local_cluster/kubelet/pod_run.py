"""Drive one pod through its life, as a scheduler and a kubelet would.

After "Pod Lifecycle", "Init Containers" and "Sidecar Containers". One task per pod. It only reports what it sees; the pod's
object may be changed or removed under it at any moment.
"""

from __future__ import annotations

import asyncio
import signal
from typing import Any

from podrelay_local_cluster.kubelet import environment, pod_status
from podrelay_local_cluster.kubelet.container_run import RETRY_S, ContainerRun, NodeServices, PodContext
from podrelay_local_cluster.kubelet.pod_status import NODE_NAME, TERMINAL_PHASES, ContainerState, Kind
from podrelay_local_cluster.storage.pods import DEFAULT_GRACE_S
from podrelay_local_cluster.storage.record import Record

Json = dict[str, Any]

HOLD_ANNOTATION = "local-cluster/hold"
"""A pod with this annotation ("true") is accepted by the node and then left alone: a test writes its status."""
HOLD_DELETION_ANNOTATION = "local-cluster/hold-deletion"
"""A pod with this annotation ("true") stays as it is when it is deleted gracefully, as on a node that does not answer."""


class PodRun:
    """The life of one pod on this node."""

    def __init__(self, record: Record, node: NodeServices) -> None:
        self._record = record
        self._node = node
        self._spec = record.obj["spec"]
        self._stopping = asyncio.Event()
        self._context = PodContext(record, node, self._stopping, self._publish)
        specs = (self._spec.get("initContainers") or []) + self._spec["containers"]
        self._states = pod_status.container_states(self._spec)
        pairs = zip(specs, self._states, strict=True)
        self._containers = [ContainerRun(spec, state, self._context) for spec, state in pairs]
        self._abandoned = False
        self._failure = ("", "")
        self._sidecars: list[asyncio.Task[None]] = []
        self._kill_timer: asyncio.TimerHandle | None = None
        self._deadline_timer: asyncio.TimerHandle | None = None

    def take_over(self, status: Json) -> None:
        """Begin where an earlier server left off: a process that ran then is lost, and counts as killed."""
        both = (status.get("initContainerStatuses") or []) + (status.get("containerStatuses") or [])
        known = {item["name"]: item for item in both}
        for state in self._states:
            if state.name in known:
                self._take_over(state, known[state.name])

    def _take_over(self, state: ContainerState, old: Json) -> None:
        state.restart_count = old["restartCount"]
        state.last_state = old["lastState"]
        if "terminated" in old["state"]:
            state.state = old["state"]
        elif "running" in old["state"]:
            state.state, state.container_id = old["state"], old["containerID"]
            if not self._node.starter.outlives_server:
                text = "The container could not be located when the local cluster started again"
                state.set_terminated(137, "ContainerStatusUnknown", text)

    async def run(self) -> None:
        """From scheduling to the last report; returns when nothing of the pod runs any more."""
        try:
            if await self._admit():
                await self._run_containers()
        finally:
            for timer in (self._kill_timer, self._deadline_timer):
                if timer is not None:
                    timer.cancel()
        if not self._abandoned:
            self._node.pods.finish(self._record)

    def terminate(self, grace_s: float) -> None:
        """SIGTERM now, SIGKILL after `grace_s`; a later call can only shorten the time."""
        self._stopping.set()
        if grace_s <= 0:
            self.kill()
            return
        self._arm_kill(grace_s)
        for container in self._of_kind(Kind.INIT, Kind.MAIN):
            container.send(signal.SIGTERM)

    def kill(self) -> None:
        self._stopping.set()
        for container in self._containers:
            container.send(signal.SIGKILL)

    def abandon(self) -> None:
        """Kill, and report nothing more: somebody else decides what the pod's status says."""
        self._abandoned = True
        self.kill()

    async def _admit(self) -> bool:
        """Schedule and report the pod as accepted; False when it never gets as far as its containers."""
        bound = bool(self._spec.get("nodeName"))
        why = pod_status.why_unschedulable(self._spec, self._node.labels)
        if why and not bound:
            self._node.pods.set_status(self._record, pod_status.unschedulable(self._record.obj, why))
            await self._stopping.wait()
            return False
        held = (self._record.obj["metadata"].get("annotations") or {}).get(HOLD_ANNOTATION) == "true"
        if not (held and "startTime" in self._record.obj["status"]):
            status = pod_status.build(self._record.obj, self._states)
            self._node.pods.bind_with_status(self._record, NODE_NAME, status)
        if held:
            await self._stopping.wait()
            return False
        deadline_s = self._spec.get("activeDeadlineSeconds")
        if deadline_s is not None:
            self._deadline_timer = asyncio.get_running_loop().call_later(deadline_s, self._exceed_deadline)
        while environment.missing_volume_source(self._spec, self._context.lookup):
            if await self._context.stopped_within(RETRY_S):
                break
        return True

    async def _run_containers(self) -> None:
        if await self._run_init_containers() and not self._stopping.is_set():
            mains = self._of_kind(Kind.MAIN)
            for container in mains:
                if "waiting" in container.state.state:
                    container.state.set_waiting("ContainerCreating")
            if len(mains) == 1:
                await mains[0].keep()
            else:
                await asyncio.gather(*(container.keep() for container in mains))
        await self._stop_sidecars()
        self._publish(ended_for_good=True)

    async def _run_init_containers(self) -> bool:
        """In order; False when one failed for good or the pod is stopping."""
        for container in self._of_kind(Kind.INIT, Kind.SIDECAR):
            if container.state.kind is Kind.SIDECAR:
                self._sidecars.append(asyncio.create_task(container.keep()))
                await self._started_or_stopping(container)
            else:
                await container.keep()
                if container.state.exit_code != 0:
                    return False
            if self._stopping.is_set():
                return False
        return True

    async def _stop_sidecars(self) -> None:
        """When the main containers have ended, the sidecars go too, the last one started first."""
        if not self._sidecars:
            return
        self._stopping.set()
        if self._kill_timer is None:
            self._arm_kill(self._grace_s)
        for container in reversed(self._of_kind(Kind.SIDECAR)):
            container.send(signal.SIGTERM)
        await asyncio.gather(*self._sidecars)

    def _exceed_deadline(self) -> None:
        self._failure = ("DeadlineExceeded", "Pod was active on the node longer than the specified deadline")
        self.terminate(self._grace_s)

    def _arm_kill(self, grace_s: float) -> None:
        loop = asyncio.get_running_loop()
        if self._kill_timer is not None:
            if self._kill_timer.when() <= loop.time() + grace_s:
                return
            self._kill_timer.cancel()
        self._kill_timer = loop.call_later(grace_s, self.kill)

    def _publish(self, ended_for_good: bool = False) -> None:
        current = self._node.pods.latest(self._record)
        if self._abandoned or current is None:
            return
        if ended_for_good and current.obj["status"].get("phase") in TERMINAL_PHASES:
            return  # the last container's end has said it all
        still_running = any(state.is_running for state in self._states)
        reason, message = ("", "") if still_running else self._failure
        status = pod_status.build(
            current.obj, self._states, ended_for_good=ended_for_good, reason=reason, message=message
        )
        self._node.pods.set_status(current, status)

    def _of_kind(self, *kinds: Kind) -> list[ContainerRun]:
        return [container for container in self._containers if container.state.kind in kinds]

    @property
    def _grace_s(self) -> float:
        return float(self._spec.get("terminationGracePeriodSeconds", DEFAULT_GRACE_S))

    async def _started_or_stopping(self, container: ContainerRun) -> None:
        waits = [asyncio.ensure_future(event.wait()) for event in (container.started, self._stopping)]
        _, pending = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in pending:
            wait.cancel()
