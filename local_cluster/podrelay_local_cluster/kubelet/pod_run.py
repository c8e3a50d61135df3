"""Run one pod from scheduling to its last report, as a scheduler and a kubelet do.

Follows "Pod Lifecycle", "Init Containers" and "Sidecar Containers". One task per pod. It only reports statuses: clients may
change or remove the pod's object at any moment.
"""

from __future__ import annotations

import asyncio
import signal

from podrelay_local_cluster.kubelet import environment, pod_status
from podrelay_local_cluster.kubelet.container_run import RETRY_S, ContainerRun, NodeServices, PodContext
from podrelay_local_cluster.kubelet.node_object import NODE_NAME, ROOM
from podrelay_local_cluster.kubelet.pod_status import ContainerKind, ContainerStatus
from podrelay_local_cluster.objects.json_text import Json
from podrelay_local_cluster.objects.record import Record
from podrelay_local_cluster.objects.resources import DEFAULT_GRACE_S, TERMINAL_PHASES
from podrelay_local_cluster.registry.events import SCHEDULER

HOLD_ANNOTATION = "local-cluster/hold"
"""Set to "true": the node accepts the pod but does not start its containers; a test writes its status."""
HOLD_DELETION_ANNOTATION = "local-cluster/hold-deletion"
"""Set to "true": the node ignores a graceful deletion of the pod, as an unresponsive node does."""

_STEP_S = 0.01
"""Between two reports of a pod that is not held up, so that each is an event of its own. A kubelet takes 0.1 to 2 s."""

_MOUNT_RETRY_S = 0.05
"""The first pause before a volume is tried again: its Secret is often created just after its pod."""


class PodRun:
    """One pod on this node."""

    def __init__(self, record: Record, node: NodeServices) -> None:
        self.record = record
        self._node = node
        self._spec = record.obj["spec"]
        self._stopping = asyncio.Event()
        self._context = PodContext(record, node, self._stopping, self._publish)
        specs = (self._spec.get("initContainers") or []) + self._spec["containers"]
        self._states = pod_status.initial_statuses(self._spec)
        pairs = zip(specs, self._states, strict=True)
        self._containers = [ContainerRun(spec, state, self._context) for spec, state in pairs]
        self._abandoned = False
        self._sandbox = False
        self._failure = ("", "")
        self._sidecars: list[asyncio.Task[None]] = []
        self._kill_timer: asyncio.TimerHandle | None = None
        self._deadline_timer: asyncio.TimerHandle | None = None

    def restore(self, status: Json) -> None:
        """Continue where an earlier server stopped. A process that was running at the time is lost and counts as killed."""
        both = (status.get("initContainerStatuses") or []) + (status.get("containerStatuses") or [])
        known = {item["name"]: item for item in both}
        for state in self._states:
            if state.name in known:
                self._restore(state, known[state.name])
        self._sandbox = "podIP" in status

    def _restore(self, state: ContainerStatus, old: Json) -> None:
        state.restart_count = old["restartCount"]
        state.last_state = old["lastState"]
        if "terminated" in old["state"]:
            state.state = old["state"]
        elif "running" in old["state"]:
            state.state, state.container_id = old["state"], old["containerID"]
            if not self._node.runtime.outlives_server:
                text = "The container could not be located when the local cluster started again"
                state.set_terminated(137, "ContainerStatusUnknown", text)

    async def run(self) -> None:
        """From scheduling to the last report. Returns when no container of the pod runs."""
        try:
            if await self._admit():
                await self._run_containers()
        finally:
            for timer in (self._kill_timer, self._deadline_timer):
                if timer is not None:
                    timer.cancel()
            self._node.volumes.remove(self.record.uid)
        if not self._abandoned:
            self._node.pods.finish(self.record)

    def end(self, exit_code: int) -> bool:
        """Let the main containers that run exit with this code. False when none runs."""
        return any([container.end(exit_code) for container in self._of_kind(ContainerKind.MAIN)])

    def terminate(self, grace_s: float) -> None:
        """SIGTERM now, SIGKILL after `grace_s`. A later call can only shorten that time."""
        self._stopping.set()
        if grace_s <= 0:
            self.kill()
            return
        self._arm_kill(grace_s)
        for container in self._of_kind(ContainerKind.INIT, ContainerKind.MAIN):
            container.send(signal.SIGTERM)

    def kill(self) -> None:
        self._stopping.set()
        for container in self._containers:
            container.send(signal.SIGKILL)

    def abandon(self) -> None:
        """Kill the pod and report nothing more: its final status, if any, is written elsewhere."""
        self._abandoned = True
        self.kill()

    async def _admit(self) -> bool:
        """Schedule the pod and report it as accepted. False when its containers are not to be started."""
        if not self._spec.get("nodeName") and not await self._schedule():
            return False
        held = self.record.annotations.get(HOLD_ANNOTATION) == "true"
        if not (held and "startTime" in self.record.obj["status"]):
            self._publish()
        if held:
            await self._stopping.wait()
            return False
        deadline_s = self._spec.get("activeDeadlineSeconds")
        if deadline_s is not None:
            self._deadline_timer = asyncio.get_running_loop().call_later(deadline_s, self._exceed_deadline)
        reported, pause_s = "", _MOUNT_RETRY_S
        while missing := environment.missing_volume_source(self._spec, self._context.lookup):
            if missing != reported:
                self._context.report("FailedMount", missing)
                reported = missing
            if await self._context.stopped_within(pause_s):
                break
            pause_s = min(2 * pause_s, RETRY_S)
        if not self._has_started:
            await self._create_sandbox()
        return True

    async def _schedule(self) -> bool:
        """Bind the pod to this node. False when that is impossible; the pod is then being deleted."""
        if reason := pod_status.why_unschedulable(self._spec, self._node.labels, ROOM):
            self._node.pods.set_status(self.record, pod_status.unschedulable(self.record.obj, reason))
            self._context.report("FailedScheduling", reason, SCHEDULER)
            await self._stopping.wait()
            return False
        self._node.pods.bind(self.record, NODE_NAME, pod_status.scheduled(self.record.obj))
        await asyncio.sleep(_STEP_S)
        return True

    async def _create_sandbox(self) -> None:
        delay_s = self._node.images.pod_start_delay_s
        if delay_s > _STEP_S:
            await self._context.stopped_within(delay_s)
        else:
            await asyncio.sleep(_STEP_S)

    async def _run_containers(self) -> None:
        self._sandbox = True
        if await self._run_init_containers() and not self._stopping.is_set():
            mains = self._of_kind(ContainerKind.MAIN)
            for container in mains:
                if "waiting" in container.state.state:
                    container.state.set_waiting("ContainerCreating")
            if len(mains) == 1:
                await mains[0].run()
            else:
                await asyncio.gather(*(container.run() for container in mains))
        await self._stop_sidecars()
        if not self._stopping.is_set():
            await asyncio.sleep(_STEP_S)
        self._publish(final=True)

    async def _run_init_containers(self) -> bool:
        """Run them in order. False when one failed without a restart or the pod is stopping."""
        for container in self._of_kind(ContainerKind.INIT, ContainerKind.SIDECAR):
            if container.state.kind is ContainerKind.SIDECAR:
                name = f"sidecar {container.state.name} of pod {self.record.namespace}/{self.record.name}"
                self._sidecars.append(asyncio.create_task(container.run(), name=name))
                await self._started_or_stopping(container)
            else:
                await container.run()
                if container.state.exit_code != 0:
                    return False
            if self._stopping.is_set():
                return False
        return True

    async def _stop_sidecars(self) -> None:
        """Stop the sidecars after the main containers have ended, in the reverse order of their start."""
        if not self._sidecars:
            return
        self._stopping.set()
        if self._kill_timer is None:
            self._arm_kill(self._grace_s)
        for container in reversed(self._of_kind(ContainerKind.SIDECAR)):
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

    def _publish(self, final: bool = False) -> None:
        """Report the containers. A pod that is being stopped is reported once more only, when all have ended."""
        current = self._node.pods.latest(self.record)
        if self._abandoned or current is None or (self._stopping.is_set() and not final):
            return
        if final and current.obj["status"].get("phase") in TERMINAL_PHASES:
            return  # no pod leaves such a phase
        still_running = any(state.is_running for state in self._states)
        reason, message = ("", "") if still_running else self._failure
        status = pod_status.build(
            current.obj, self._states, sandbox=self._sandbox, final=final, reason=reason, message=message
        )
        self._node.pods.set_status(current, status)

    def _of_kind(self, *kinds: ContainerKind) -> list[ContainerRun]:
        return [container for container in self._containers if container.state.kind in kinds]

    @property
    def _has_started(self) -> bool:
        """Whether a container has run, here or under an earlier server."""
        return any("waiting" not in state.state or state.last_state for state in self._states)

    @property
    def _grace_s(self) -> float:
        return float(self._spec.get("terminationGracePeriodSeconds", DEFAULT_GRACE_S))

    async def _started_or_stopping(self, container: ContainerRun) -> None:
        events = {"start of a sidecar": container.started, "stop of its pod": self._stopping}
        waits = [asyncio.create_task(event.wait(), name=name) for name, event in events.items()]
        _, pending = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in pending:
            wait.cancel()
