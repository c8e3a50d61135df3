"""Pure: compute a pod's `status` from its containers: phase, conditions, container statuses ("Pod Lifecycle")."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from fractions import Fraction

from podrelay_local_cluster.kubelet.node_object import ADDRESS
from podrelay_local_cluster.objects import clock
from podrelay_local_cluster.objects.json_text import Json
from podrelay_local_cluster.objects.quantity import amount
from podrelay_local_cluster.objects.resources import TERMINAL_PHASES

_OUR_CONDITIONS = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")


class ContainerKind(Enum):
    """The role of a container in its pod."""

    INIT = "init"
    SIDECAR = "sidecar"
    MAIN = "main"


@dataclass
class ContainerStatus:
    """The state of one container, updated by its `ContainerRun`."""

    name: str
    image: str
    kind: ContainerKind
    state: Json = field(default_factory=lambda: {"waiting": {"reason": "ContainerCreating"}})
    last_state: Json = field(default_factory=dict)
    restart_count: int = 0
    container_id: str = ""

    def set_waiting(self, reason: str, message: str = "") -> bool:
        """Set `waiting`; an earlier termination moves to `lastState`. Returns whether the state was another one before."""
        if "terminated" in self.state:
            self.last_state = self.state
        before, self.state = self.state, {"waiting": {"reason": reason, **({"message": message} if message else {})}}
        return before != self.state

    def set_running(self, container_id: str) -> None:
        if "terminated" in self.state:
            self.last_state = self.state
        self.container_id = container_id
        self.state = {"running": {"startedAt": clock.now_text()}}

    def set_terminated(self, exit_code: int, reason: str = "", message: str = "") -> None:
        running = self.state.get("running")
        self.state = {
            "terminated": terminated(
                exit_code,
                reason,
                message,
                started_at=running["startedAt"] if running else clock.EPOCH,
                container_id=self.container_id,
            )
        }

    @property
    def is_running(self) -> bool:
        return "running" in self.state

    @property
    def exit_code(self) -> int | None:
        """None unless terminated."""
        ended = self.state.get("terminated")
        return None if ended is None else int(ended["exitCode"])

    def to_json(self) -> Json:
        """The container's entry in the pod's status."""
        started = self.is_running
        ready = started or (self.kind is ContainerKind.INIT and self.exit_code == 0)
        return {
            "name": self.name,
            "state": self.state,
            "lastState": self.last_state,
            "ready": ready,
            "restartCount": self.restart_count,
            "image": self.image,
            "imageID": f"local://{self.image}" if self.container_id else "",
            "containerID": self.container_id,
            "started": started,
        }


def terminated(
    exit_code: int, reason: str = "", message: str = "", started_at: str = clock.EPOCH, container_id: str = ""
) -> Json:
    """The body of a `terminated` state. The default reason is Completed or Error, as container runtimes report it."""
    state: Json = {
        "exitCode": exit_code,
        "reason": reason or ("Completed" if exit_code == 0 else "Error"),
        "startedAt": started_at,
        "finishedAt": clock.now_text(),
        "containerID": container_id,
    }
    if message:
        state["message"] = message
    return state


def initial_statuses(spec: Json) -> list[ContainerStatus]:
    """The first states of all containers: init containers (including native sidecars) first, in order."""
    states = []
    for container in spec.get("initContainers") or []:
        kind = ContainerKind.SIDECAR if container.get("restartPolicy") == "Always" else ContainerKind.INIT
        states.append(
            ContainerStatus(container["name"], container["image"], kind, {"waiting": {"reason": "PodInitializing"}})
        )
    reason = "PodInitializing" if states else "ContainerCreating"
    for container in spec["containers"]:
        states.append(
            ContainerStatus(container["name"], container["image"], ContainerKind.MAIN, {"waiting": {"reason": reason}})
        )
    return states


def phase(restart_policy: str, states: Sequence[ContainerStatus], final: bool) -> str:
    """The phase. `final`: no container will start again (deletion, deadline, or restartPolicy satisfied)."""
    for init in (state for state in states if state.kind is ContainerKind.INIT):
        if init.exit_code is None or init.exit_code != 0:
            failed = final or (init.exit_code is not None and restart_policy == "Never")
            return "Failed" if failed else "Pending"
    mains = [state for state in states if state.kind is ContainerKind.MAIN]
    if any(state.is_running for state in mains):
        return "Running"
    ended = [state for state in mains if state.exit_code is not None or "terminated" in state.last_state]
    if len(ended) < len(mains):
        return "Failed" if final else "Pending"
    if restart_policy == "Always" and not final:
        return "Running"
    if all(state.exit_code == 0 for state in mains):
        return "Succeeded"
    return "Failed" if restart_policy == "Never" or final else "Running"


def scheduled(pod: Json) -> Json:
    """The status of a pod that a scheduler has just bound to its node."""
    old = pod.get("status") or {}
    others = [item for item in old.get("conditions") or [] if item.get("type") != "PodScheduled"]
    return {**old, "conditions": [*others, condition(None, "PodScheduled", {"status": "True"})]}


def build(
    pod: Json,
    states: Sequence[ContainerStatus],
    *,
    sandbox: bool = True,
    final: bool = False,
    reason: str = "",
    message: str = "",
) -> Json:
    """The whole `status` of a scheduled pod. Keeps its start time, conditions of others, and unchanged transition times.

    A phase that ends the pod is reported by the `final` status only, as by a kubelet, which first reports that the containers
    have ended and then that nothing of the pod is left. `sandbox`: whether a container may start or has started.
    """
    old = pod.get("status") or {}
    reached = "Failed" if reason else phase(pod["spec"]["restartPolicy"], states, final)
    if reached in TERMINAL_PHASES and any(state.is_running for state in states):
        reached = "Running"  # a sidecar or another container has not ended yet
    has_ended = reached in TERMINAL_PHASES
    ready_to_start = sandbox and not (final and has_ended)
    status: Json = {
        "phase": old.get("phase", "Pending") if has_ended and not final else reached,
        "conditions": conditions(old.get("conditions") or [], states, reached, ready_to_start),
        "hostIP": ADDRESS,
        "hostIPs": [{"ip": ADDRESS}],
        "startTime": old.get("startTime") or clock.now_text(),
        "containerStatuses": [state.to_json() for state in states if state.kind is ContainerKind.MAIN],
        "qosClass": old.get("qosClass", "BestEffort"),
    }
    if sandbox or "podIP" in old:
        status["podIP"], status["podIPs"] = ADDRESS, [{"ip": ADDRESS}]
    inits = [state.to_json() for state in states if state.kind is not ContainerKind.MAIN]
    if inits:
        status["initContainerStatuses"] = inits
    if reason:
        status["reason"] = reason
    if message:
        status["message"] = message
    return status


def conditions(
    old: Iterable[Json], states: Sequence[ContainerStatus], reached: str, ready_to_start: bool
) -> list[Json]:
    """The conditions that others have set, then the five that a kubelet maintains, in its order."""
    waiting = [
        state.name
        for state in states
        if (state.kind is ContainerKind.INIT and state.exit_code != 0)
        or (state.kind is ContainerKind.SIDECAR and not _has_started(state))
    ]
    unready = [state.name for state in states if state.kind is not ContainerKind.INIT and not state.is_running]
    ready: Json
    if reached in TERMINAL_PHASES:
        ready = {"status": "False", "reason": "PodCompleted" if reached == "Succeeded" else "PodFailed"}
    elif unready:
        text = f"containers with unready status: [{' '.join(unready)}]"
        ready = {"status": "False", "reason": "ContainersNotReady", "message": text}
    else:
        ready = {"status": "True"}
    initialized: Json = {"status": "True"}
    if reached == "Succeeded":
        initialized = {"status": "True", "reason": "PodCompleted"}
    elif waiting:
        text = f"containers with incomplete status: [{' '.join(waiting)}]"
        initialized = {"status": "False", "reason": "ContainersNotInitialized", "message": text}
    bodies = ({"status": str(ready_to_start)}, initialized, ready, ready, {"status": "True"})
    others = {item.get("type"): item for item in old}
    ours = [condition(others.pop(kind, None), kind, body) for kind, body in zip(_OUR_CONDITIONS, bodies, strict=True)]
    return list(others.values()) + ours


def _has_started(state: ContainerStatus) -> bool:
    return state.is_running or state.exit_code is not None or bool(state.last_state)


def condition(before: Json | None, kind: str, body: Json) -> Json:
    """A condition whose transition time changes only with its status."""
    unchanged = before is not None and before.get("status") == body["status"]
    moved = before.get("lastTransitionTime") if before is not None and unchanged else clock.now_text()
    return {"type": kind, "lastProbeTime": None, "lastTransitionTime": moved, **body}


def with_address(pod: Json) -> Json:
    """The pod as its containers see it: with the address of its sandbox, which is reported when they run."""
    return {**pod, "status": {"podIP": ADDRESS, "podIPs": [{"ip": ADDRESS}], **pod["status"]}}


def unschedulable(pod: Json, message: str) -> Json:
    """The status of a pod that no node can run."""
    old = pod.get("status") or {}
    body = {"status": "False", "reason": "Unschedulable", "message": message}
    return {**old, "phase": "Pending", "conditions": [condition(None, "PodScheduled", body)]}


def why_unschedulable(spec: Json, node_labels: Mapping[str, str], room: Mapping[str, str]) -> str:
    """The scheduler's message for a pod that does not match the node's labels or requests more than the whole node has;
    empty for any other pod. What other pods request does not count.
    """
    selector = spec.get("nodeSelector") or {}
    if all(node_labels.get(key) == value for key, value in selector.items()):
        lacking = _lacking(spec, room)
    else:
        lacking = ["1 node(s) didn't match Pod's node affinity/selector"]
    if not lacking:
        return ""
    return (
        f"0/1 nodes are available: {', '.join(lacking)}. "
        "preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
    )


def _lacking(spec: Json, room: Mapping[str, str]) -> list[str]:
    totals: dict[str, Fraction] = {}
    for container in spec["containers"]:
        for name, value in ((container.get("resources") or {}).get("requests") or {}).items():
            totals[name] = totals.get(name, Fraction(0)) + amount(value)
    return [f"1 Insufficient {name}" for name, total in sorted(totals.items()) if total > amount(room.get(name, "0"))]
