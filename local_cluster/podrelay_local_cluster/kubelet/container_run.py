"""Run one container of a pod and restart it by its restart policy: image, environment, process, log, state.

Follows "Pod Lifecycle" (container restarts) and "Images". `pod_run` decides the order of the containers of a pod.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from podrelay_local_cluster.kubelet import environment, pod_status
from podrelay_local_cluster.kubelet.container_log import ContainerLog, LogDirectory
from podrelay_local_cluster.kubelet.pod_status import ContainerKind, ContainerStatus
from podrelay_local_cluster.kubelet.runtime import ContainerProcess, ContainerRuntime, ContainerStart
from podrelay_local_cluster.kubelet.volumes import VolumeDirectory, translated
from podrelay_local_cluster.objects.json_text import Json
from podrelay_local_cluster.objects.record import Record
from podrelay_local_cluster.registry.events import KUBELET, EventRecorder
from podrelay_local_cluster.registry.pods import PodRegistry
from podrelay_local_cluster.storage.store import ObjectStore

RETRY_S = 0.5
"""Interval between checks for a missing image, Secret or ConfigMap. A kubelet takes 10 s and more."""

_MAX_BACKOFF_S = 300.0
_START_ERROR = 128
_MESSAGE_LINES, _MESSAGE_BYTES = 80, 2048
_NO_ENTRYPOINT = (
    b"no command and no args: images have no entrypoint in the local cluster, so this container ends at once\n"
)


class ImageSource(Protocol):
    """Where images come from."""

    @property
    def pod_start_delay_s(self) -> float:
        """How long a pod that begins to start now stays ContainerCreating."""

    def pull_error(self, image: str) -> str | None:
        """Why the image cannot be pulled now; None when it can."""


@dataclass(frozen=True)
class NodeServices:
    """What a pod needs from its node."""

    store: ObjectStore
    pods: PodRegistry
    runtime: ContainerRuntime
    images: ImageSource
    logs: LogDirectory
    volumes: VolumeDirectory
    labels: Mapping[str, str]
    crash_backoff_s: float
    events: EventRecorder


@dataclass(frozen=True)
class PodContext:
    """What all containers of one pod share."""

    record: Record
    node: NodeServices
    stopping: asyncio.Event
    """Set when no container of the pod may start any more."""
    publish: Callable[[], None]
    """Report the states of all containers."""

    @property
    def pod(self) -> Json:
        """The current pod, or its last state if it was removed."""
        return (self.node.pods.latest(self.record) or self.record).obj

    def lookup(self, resource: str, name: str) -> Json | None:
        """A Secret or ConfigMap of the pod's namespace, or None."""
        found = self.node.store.get(resource, self.record.namespace, name)
        return None if found is None else found.obj

    def report(self, reason: str, message: str, source: str = KUBELET) -> None:
        """Write an event about the pod, unless it is gone."""
        if self.node.pods.latest(self.record) is not None:
            self.node.events.record(self.record, source, reason, message)

    async def stopped_within(self, seconds: float) -> bool:
        """Wait at most `seconds` for `stopping`."""
        try:
            await asyncio.wait_for(self.stopping.wait(), seconds)
        except asyncio.TimeoutError:
            return False
        return True


class ContainerRun:
    """One container: its spec, its state, and its process while it runs."""

    def __init__(self, spec: Json, state: ContainerStatus, context: PodContext) -> None:
        self.state = state
        self.started = asyncio.Event()
        self._spec = spec
        self._context = context
        self._node = context.node
        self._process: ContainerProcess | None = None

    def send(self, number: int) -> None:
        """Signal the container if it runs."""
        if self._process is not None:
            self._process.send(number)

    def end(self, exit_code: int) -> bool:
        """Let the container exit with this code. False when it does not run."""
        if self._process is None:
            return False
        self._process.end(exit_code)
        return True

    async def run(self) -> None:
        """Run the container until its policy allows no restart, with the kubelet's growing pauses from the second restart."""
        pause_s = 0.0
        while True:
            if self.state.exit_code is None:
                await self._run_once()
            exit_code = self.state.exit_code
            if self._context.stopping.is_set() or exit_code is None or not self._restarts(exit_code):
                return
            if pause_s:
                self.state.set_waiting("CrashLoopBackOff", self._backoff_text(pause_s))
                self._context.publish()
                self._context.report("BackOff", self._restart_text())
                if await self._context.stopped_within(pause_s):
                    return
            self.state.set_waiting("ContainerCreating")
            self.state.restart_count += 1
            pause_s = min(max(pause_s * 2, self._node.crash_backoff_s), _MAX_BACKOFF_S)

    def _restarts(self, exit_code: int) -> bool:
        if self.state.kind is ContainerKind.SIDECAR:
            return True
        policy = self._context.record.obj["spec"]["restartPolicy"]
        if policy == "Always" and self.state.kind is ContainerKind.MAIN:
            return True
        return exit_code != 0 and policy != "Never"

    def _backoff_text(self, pause_s: float) -> str:
        return f"back-off {pause_s:g}s restarting failed container={self.state.name} pod={self._pod_text()}"

    def _restart_text(self) -> str:
        return f"Back-off restarting failed container {self.state.name} in pod {self._pod_text()}"

    def _pod_text(self) -> str:
        record = self._context.record
        return f"{record.name}_{record.namespace}({record.uid})"

    async def _run_once(self) -> None:
        """One run. Afterwards the state is terminated, or still waiting if the pod stopped before the start."""
        if not await self._pull():
            return
        variables = await self._variables()
        if variables is None or self._context.stopping.is_set():
            return
        self._process = self._start(variables)
        if self._process is None:
            self._context.publish()
            return
        self.state.set_running(f"local://{uuid.uuid4().hex}")
        self.started.set()
        self._context.publish()
        exit_code = await self._process.wait()
        self._process = None
        self.state.set_terminated(exit_code, message=self._termination_message(exit_code))
        self._context.publish()

    def _start(self, variables: dict[str, str]) -> ContainerProcess | None:
        """None when there is no command or it cannot be started; the state is then terminated."""
        output = self._open_log()
        argv = environment.command_line(self._spec, variables)
        cwd = environment.expand(self._spec.get("workingDir") or "", variables)
        if argv or output is None:
            try:
                return self._node.runtime.start(self._with_volumes(argv, variables, cwd, output))
            except OSError as exc:
                command = argv[0] if argv else ""
                text = f'failed to start container: exec: "{command}": {exc.strerror or exc}'
                self.state.set_terminated(_START_ERROR, "StartError", text)
                self._context.report("Failed", f"Error: {text}")
        else:
            output.feed(_NO_ENTRYPOINT)
            self.state.set_terminated(0)
        if output is not None:
            output.close()
        return None

    def _with_volumes(
        self, argv: list[str], variables: dict[str, str], cwd: str, output: ContainerLog | None
    ) -> ContainerStart:
        """What to start, with the files of its volumes in place. Raises OSError."""
        pod, kind = self._context.pod, self.state.kind
        if output is None:  # a simulated container reads no file
            return ContainerStart(pod, kind, argv, variables, cwd, output)
        mounts = self._node.volumes.mount(pod, self._spec, self._context.lookup)
        words = [translated(word, mounts) for word in argv]
        values = {name: translated(value, mounts) for name, value in variables.items()}
        return ContainerStart(pod, kind, words, values, translated(cwd, mounts), output)

    async def _pull(self) -> bool:
        """Wait until the image can be pulled. False when the pod stopped before."""
        image, reason = self._spec["image"], "ErrImagePull"
        while (error := self._node.images.pull_error(image)) is not None:
            text = error if reason == "ErrImagePull" else f'Back-off pulling image "{image}": ErrImagePull: {error}'
            if self.state.set_waiting(reason, text):
                self._report_pull(reason, text)
            self._context.publish()
            if await self._context.stopped_within(RETRY_S):
                return False
            reason = "ImagePullBackOff"
        return not self._context.stopping.is_set()

    def _report_pull(self, reason: str, text: str) -> None:
        """The events of a kubelet for an image that it cannot pull, once per reason."""
        if reason == "ErrImagePull":
            self._context.report("Failed", f'Failed to pull image "{self._spec["image"]}": {text}')
            self._context.report("Failed", f"Error: {reason}")
        else:
            self._context.report("BackOff", f'Back-off pulling image "{self._spec["image"]}"')

    async def _variables(self) -> dict[str, str] | None:
        """Wait until everything that the environment refers to exists. None when the pod stopped before."""
        while True:
            try:
                pod = pod_status.with_address(self._context.pod)
                return environment.variables(self._spec, pod, self._context.lookup)
            except environment.MissingReference as exc:
                if self.state.set_waiting("CreateContainerConfigError", str(exc)):
                    self._context.report("Failed", f"Error: {exc}")
                self._context.publish()
            if await self._context.stopped_within(RETRY_S):
                return None

    def _open_log(self) -> ContainerLog | None:
        if not self._node.runtime.keeps_logs:
            return None
        return self._node.logs.create(self._context.record.uid, self.state.name, self.state.restart_count)

    def _termination_message(self, exit_code: int) -> str:
        if exit_code == 0 or self._spec.get("terminationMessagePolicy") != "FallbackToLogsOnError":
            return ""
        uid, state = self._context.record.uid, self.state
        return self._node.logs.tail(uid, state.name, state.restart_count, _MESSAGE_LINES, _MESSAGE_BYTES)
