"""Drive one pod through its life, as a scheduler and a kubelet would.

After "Pod Lifecycle", "Init Containers" and "Sidecar Containers". One task per pod. It only reports what it sees; the pod's
object may be changed or removed under it at any moment.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from podrelay_workers.local_cluster import environment, pod_status
from podrelay_workers.local_cluster.container_log import ContainerLog, LogDirectory
from podrelay_workers.local_cluster.pod_status import NODE_NAME, ContainerState, Kind
from podrelay_workers.local_cluster.pods import DEFAULT_GRACE_S, PodRegistry
from podrelay_workers.local_cluster.processes import Process, Starter
from podrelay_workers.local_cluster.record import Record
from podrelay_workers.local_cluster.store import ObjectStore

Json = dict[str, Any]

HOLD_ANNOTATION = "local-cluster/hold"
HOLD_DELETION_ANNOTATION = "local-cluster/hold-deletion"
_LONGEST_BACKOFF_S = 300.0
_RETRY_S = 0.5  # how soon a missing image, Secret or ConfigMap is looked for again; a kubelet takes 10 s and more
_START_ERROR = 128
_MESSAGE_LINES, _MESSAGE_BYTES = 80, 2048
_NO_ENTRYPOINT = (
    "no command and no args: images have no entrypoint in the local cluster, so this container ends at once"
)

log = logging.getLogger(__name__)


class Images(Protocol):
    def pull_error(self, image: str) -> str | None:
        """Why the image cannot be pulled now, None when it can."""


@dataclass(frozen=True)
class NodeServices:
    """What a pod needs from the node it runs on."""

    store: ObjectStore
    pods: PodRegistry
    starter: Starter
    images: Images
    logs: LogDirectory
    labels: Mapping[str, str]
    crash_backoff_s: float


class Container:
    """One container of the pod: its spec, its state, and its process while it runs."""

    def __init__(self, spec: Json, state: ContainerState) -> None:
        self.spec = spec
        self.state = state
        self.process: Process | None = None
        self.started = asyncio.Event()

    def send(self, number: int) -> None:
        if self.process is not None:
            self.process.send(number)


class PodRun:
    """The life of one pod on this node."""

    def __init__(self, record: Record, node: NodeServices) -> None:
        self._record = record
        self._node = node
        self._spec = record.obj["spec"]
        specs = (self._spec.get("initContainers") or []) + self._spec["containers"]
        states = pod_status.container_states(self._spec)
        self._containers = [Container(spec, state) for spec, state in zip(specs, states, strict=True)]
        self._stopping = asyncio.Event()
        self._abandoned = False
        self._failure = ("", "")
        self._sidecars: list[asyncio.Task[None]] = []
        self._kill_timer: asyncio.TimerHandle | None = None
        self._deadline_timer: asyncio.TimerHandle | None = None

    def take_over(self, status: Json) -> None:
        """Begin where an earlier server left off: a process that ran then is lost, and counts as killed."""
        known = {
            item["name"]: item
            for key in ("initContainerStatuses", "containerStatuses")
            for item in status.get(key) or []
        }
        for container in self._containers:
            old, state = known.get(container.state.name), container.state
            if old is None:
                continue
            state.restart_count = old["restartCount"]
            state.last_state = old["lastState"]
            if "running" not in old["state"]:
                if "terminated" in old["state"]:
                    state.state = old["state"]
                continue
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
        for container in self._containers:
            if container.state.kind is not Kind.SIDECAR:
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
        why = pod_status.why_unschedulable(self._spec, dict(self._node.labels))
        if why and not self._spec.get("nodeName"):
            self._node.pods.set_status(self._record, pod_status.unschedulable(self._record.obj, why))
            await self._stopping.wait()
            return False
        status = pod_status.build(self._record.obj, self._states)
        self._node.pods.bind_with_status(self._record, NODE_NAME, status)
        if (self._record.obj["metadata"].get("annotations") or {}).get(HOLD_ANNOTATION) == "true":
            await self._stopping.wait()
            return False
        deadline_s = self._spec.get("activeDeadlineSeconds")
        if deadline_s is not None:
            self._deadline_timer = asyncio.get_running_loop().call_later(deadline_s, self._exceed_deadline)
        return await self._mount_volumes()

    async def _mount_volumes(self) -> bool:
        """Wait until every Secret and ConfigMap that a volume names is there; meanwhile the pod looks as it does upstream."""
        while environment.missing_volume_source(self._spec, self._lookup):
            if await self._stopped_within(_RETRY_S):
                break
        return True

    async def _run_containers(self) -> None:
        if await self._run_init_containers() and not self._stopping.is_set():
            mains = [container for container in self._containers if container.state.kind is Kind.MAIN]
            for container in mains:
                if "waiting" in container.state.state:
                    container.state.set_waiting("ContainerCreating")
            if len(mains) == 1:
                await self._keep(mains[0])
            else:
                await asyncio.gather(*(self._keep(container) for container in mains))
        await self._stop_sidecars()
        self._publish(ended_for_good=True)

    async def _run_init_containers(self) -> bool:
        """In order; False when one failed for good or the pod is stopping."""
        for container in self._containers:
            if container.state.kind is Kind.SIDECAR:
                self._sidecars.append(asyncio.create_task(self._keep(container)))
                await self._either(container.started)
            elif container.state.kind is Kind.INIT:
                await self._keep(container)
                if container.state.exit_code != 0:
                    return False
            if self._stopping.is_set():
                return False
        return True

    async def _keep(self, container: Container) -> None:
        """Run a container, again and again if its restart policy says so, with the kubelet's growing pauses."""
        pause_s = 0.0
        while True:
            if container.state.exit_code is None:
                await self._run_once(container)
            exit_code = container.state.exit_code
            if self._stopping.is_set() or exit_code is None or not self._restarts(container, exit_code):
                return
            if pause_s:
                meta = self._record.obj["metadata"]
                where = f"pod={meta['name']}_{meta['namespace']}({meta['uid']})"
                text = f"back-off {pause_s:g}s restarting failed container={container.state.name} {where}"
                container.state.set_waiting("CrashLoopBackOff", text)
                self._publish()
                if await self._stopped_within(pause_s):
                    return
            container.state.set_waiting("ContainerCreating")
            container.state.restart_count += 1
            pause_s = min(max(pause_s * 2, self._node.crash_backoff_s), _LONGEST_BACKOFF_S)

    def _restarts(self, container: Container, exit_code: int) -> bool:
        policy = self._spec["restartPolicy"]
        if container.state.kind is Kind.SIDECAR:
            return True
        if policy == "Always" and container.state.kind is Kind.MAIN:
            return True
        return exit_code != 0 and policy != "Never"

    async def _run_once(self, container: Container) -> None:
        """One run; the container's state says how it went, and is still waiting if the pod stopped before."""
        if not await self._pull(container):
            return
        variables = await self._variables(container)
        if variables is None or self._stopping.is_set():
            return
        state, output = container.state, self._open_log(container)
        argv = environment.command_line(container.spec, variables)
        if not argv and output is not None:
            output.feed(_NO_ENTRYPOINT.encode() + b"\n")
            output.close()
            state.set_terminated(0)
            self._publish()
            return
        try:
            cwd = environment.expand(container.spec.get("workingDir") or "", variables)
            container.process = self._node.starter.start(self._pod, state.kind, argv, variables, cwd, output)
        except OSError as exc:
            if output is not None:
                output.close()
            text = f'failed to start container: exec: "{argv[0] if argv else ""}": {exc.strerror or exc}'
            state.set_terminated(_START_ERROR, "StartError", text)
            self._publish()
            return
        state.set_running(f"local://{uuid.uuid4().hex}")
        container.started.set()
        self._publish()
        exit_code = await container.process.wait()
        container.process = None
        state.set_terminated(exit_code, message=self._termination_message(container, exit_code))
        self._publish()

    async def _pull(self, container: Container) -> bool:
        """False when the pod stopped before the image could be pulled."""
        image = container.spec["image"]
        reason = "ErrImagePull"
        while (error := self._node.images.pull_error(image)) is not None:
            container.state.set_waiting(
                reason, error if reason == "ErrImagePull" else f'Back-off pulling image "{image}"'
            )
            self._publish()
            if await self._stopped_within(_RETRY_S):
                return False
            reason = "ImagePullBackOff"
        return not self._stopping.is_set()

    async def _variables(self, container: Container) -> dict[str, str] | None:
        """None when the pod stopped before everything the environment refers to was there."""
        while True:
            try:
                return environment.variables(container.spec, self._pod, self._lookup)
            except environment.MissingReference as exc:
                container.state.set_waiting("CreateContainerConfigError", str(exc))
                self._publish()
            if await self._stopped_within(_RETRY_S):
                return None

    async def _stop_sidecars(self) -> None:
        """When the main containers have ended, the sidecars go too, the last one started first."""
        if not self._sidecars:
            return
        self._stopping.set()
        if self._kill_timer is None:
            self._arm_kill(self._spec.get("terminationGracePeriodSeconds", DEFAULT_GRACE_S))
        sidecars = [container for container in self._containers if container.state.kind is Kind.SIDECAR]
        for container in reversed(sidecars):
            container.send(signal.SIGTERM)
        await asyncio.gather(*self._sidecars)

    def _exceed_deadline(self) -> None:
        self._failure = ("DeadlineExceeded", "Pod was active on the node longer than the specified deadline")
        self.terminate(self._spec.get("terminationGracePeriodSeconds", DEFAULT_GRACE_S))

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
        still_running = any(state.is_running for state in self._states)
        reason, message = ("", "") if still_running else self._failure
        status = pod_status.build(
            current.obj, self._states, ended_for_good=ended_for_good, reason=reason, message=message
        )
        self._node.pods.set_status(current, status)

    def _termination_message(self, container: Container, exit_code: int) -> str:
        if exit_code == 0 or container.spec.get("terminationMessagePolicy") != "FallbackToLogsOnError":
            return ""
        state = container.state
        return self._node.logs.tail(self._record.uid, state.name, state.restart_count, _MESSAGE_LINES, _MESSAGE_BYTES)

    def _open_log(self, container: Container) -> ContainerLog | None:
        if not self._node.starter.keeps_logs:
            return None
        return self._node.logs.create(self._record.uid, container.state.name, container.state.restart_count)

    def _lookup(self, resource: str, name: str) -> Json | None:
        found = self._node.store.get(resource, self._record.namespace, name)
        return None if found is None else found.obj

    @property
    def _pod(self) -> Json:
        current = self._node.pods.latest(self._record)
        return (current or self._record).obj

    @property
    def _states(self) -> list[ContainerState]:
        return [container.state for container in self._containers]

    async def _stopped_within(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except asyncio.TimeoutError:
            return False
        return True

    async def _either(self, event: asyncio.Event) -> None:
        """Wait for `event` or for the pod's stop."""
        waits = [asyncio.ensure_future(event.wait()), asyncio.ensure_future(self._stopping.wait())]
        _, pending = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in pending:
            wait.cancel()
