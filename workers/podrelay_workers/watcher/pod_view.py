"""Pure: reads a pod's JSON into a frozen view. `pod_state` applies the rules to it, `leader` asks it whose pod it is.

The JSON is untrusted: any field may be missing or have the wrong type. Such a field counts as absent, long texts are cut,
and nothing here raises because of a value.
"""

from __future__ import annotations

import re
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple

from podrelay.protocol import identifiers
from podrelay.protocol.messages import Json

BASE_CONTAINER = "base"

MESSAGE_MAX = 2000
REASON_MAX = 200
NAME_MAX = 253
IMAGE_MAX = 500
WORD_MAX = 50

_LAUNCH_ID = re.compile(r"[A-Za-z0-9-]{1,63}")
_ATTEMPT = re.compile(r"[0-9]{1,9}")


class ContainerState(NamedTuple):
    """One of a container's three states. Times are seconds since the epoch, 0 where there is none."""

    reason: str = ""
    message: str = ""
    exit_code: int | None = None
    signal: int | None = None
    started_s: float = 0.0
    finished_s: float = 0.0


class ContainerView(NamedTuple):
    """The status of one container. `kind` is main or init; `image` is what the status names."""

    name: str = ""
    kind: str = ""
    image: str = ""
    running: ContainerState | None = None
    waiting: ContainerState | None = None
    terminated: ContainerState | None = None
    # The end of the run before this one, and whether there was one at all.
    last_terminated: ContainerState | None = None
    ran_before: bool = False

    @property
    def state(self) -> ContainerState:
        """The state that explains something: terminated before waiting; an empty one while it runs."""
        return self.terminated or self.waiting or _NO_STATE


class RestartRule(NamedTuple):
    """One of `restartPolicyRules`: `restarts` applies to an exit code that is in `codes`, or, negated, to one that is not."""

    restarts: bool
    codes: tuple[int, ...]
    negated: bool


class ContainerSpec(NamedTuple):
    """A container as the pod's specification asks for it."""

    name: str = ""
    image: str = ""
    restart_policy: str = ""
    restart_rules: tuple[RestartRule, ...] = ()


class Condition(NamedTuple):
    """Why one of the pod's conditions, or a Kubernetes event, came about, and when (seconds since the epoch)."""

    reason: str
    message: str
    at_s: float


class PodView(NamedTuple):
    """One pod. `launch_id` is empty where its labels do not name a launch and an attempt: it is not podrelay's."""

    namespace: str = ""
    name: str = ""
    uid: str = ""
    launch_id: str = ""
    attempt: int = 0
    labels: Json = {}
    annotations: Json = {}
    created: str = ""
    # When the pod is to be gone, which is its deletion plus the grace period; empty until its deletion is requested.
    deletion: str = ""
    deletion_grace_s: float = 0.0
    node: str = ""
    restart_policy: str = ""
    containers: tuple[ContainerSpec, ...] = ()
    init_containers: tuple[ContainerSpec, ...] = ()
    phase: str = ""
    reason: str = ""
    message: str = ""
    main: tuple[ContainerView, ...] = ()
    init: tuple[ContainerView, ...] = ()
    scheduled: Condition | None = None
    unscheduled: Condition | None = None
    disruption: Condition | None = None

    @property
    def base_spec(self) -> ContainerSpec:
        """The task's container as the pod asks for it: the one named base, else the first."""
        for spec in self.containers:
            if spec.name == BASE_CONTAINER:
                return spec
        return self.containers[0] if self.containers else _NO_SPEC

    @property
    def base(self) -> ContainerView:
        """The status of the task's container; an empty one where there is none yet."""
        spec = self.base_spec
        wanted = spec.name or BASE_CONTAINER
        for container in self.main:
            if container.name == wanted:
                return container
        return self.main[0] if self.main and not self.containers else NO_CONTAINER

    def image_of(self, container: ContainerView) -> str:
        """The image that the specification names. A status names an image that was pulled by its digest."""
        if container.name:
            for spec in (*self.containers, *self.init_containers):
                if spec.name == container.name:
                    return spec.image
        return container.image

    @property
    def base_restart_policy(self) -> str:
        """The container's own policy counts before the pod's (Kubernetes 1.34)."""
        return self.base_spec.restart_policy or self.restart_policy

    @property
    def is_warm(self) -> bool:
        """Was it started before there was a launch for it?"""
        return identifiers.LABEL_WARM in self.labels

    @property
    def is_idle(self) -> bool:
        """A warm pod that no launch has got."""
        return not self.launch_id and (self.is_warm or identifiers.LABEL_IDLE in self.labels)

    def label(self, name: str) -> str:
        return read_text(self.labels.get(name), NAME_MAX)

    def annotation(self, name: str) -> str:
        return read_text(self.annotations.get(name), MESSAGE_MAX)

    def belongs_to_others(self, deployment: str, cluster: str) -> bool:
        """True where the labels name another deployment or cluster. A pod that names neither may be of this one."""
        ours = deployment, identifiers.cluster_label(cluster)
        found = (
            self.labels.get(identifiers.LABEL_DEPLOYMENT, ours[0]),
            self.labels.get(identifiers.LABEL_CLUSTER, ours[1]),
        )
        return found != ours


_NO_STATE = ContainerState()
_NO_SPEC = ContainerSpec()
NO_CONTAINER = ContainerView()


def read_pod(pod: Any) -> PodView:
    """The view of a pod as the API server delivers it, or as `kube.pod_decoder` shortens it."""
    pod = _map(pod)
    metadata, spec, status = _map(pod.get("metadata")), _map(pod.get("spec")), _map(pod.get("status"))
    labels = _map(metadata.get("labels"))
    launch_id, attempt = _identity(labels)
    scheduled, unscheduled, disruption = _conditions(status.get("conditions"))
    grace_s: Any = metadata.get("deletionGracePeriodSeconds")
    return PodView(
        read_text(metadata.get("namespace"), NAME_MAX),
        read_text(metadata.get("name"), NAME_MAX),
        read_text(metadata.get("uid"), NAME_MAX),
        launch_id,
        attempt,
        labels,
        _map(metadata.get("annotations")),
        read_text(metadata.get("creationTimestamp"), WORD_MAX),
        read_text(metadata.get("deletionTimestamp"), WORD_MAX),
        float(grace_s) if _is_number(grace_s) else 0.0,
        read_text(spec.get("nodeName"), NAME_MAX),
        read_text(spec.get("restartPolicy"), WORD_MAX),
        tuple(map(_container_spec, _maps(spec.get("containers")))),
        tuple(map(_container_spec, _maps(spec.get("initContainers")))),
        read_text(status.get("phase"), WORD_MAX),
        read_text(status.get("reason"), REASON_MAX),
        read_text(status.get("message"), MESSAGE_MAX),
        tuple([_container(item, "main") for item in _maps(status.get("containerStatuses"))]),
        tuple([_container(item, "init") for item in _maps(status.get("initContainerStatuses"))]),
        scheduled,
        unscheduled,
        disruption,
    )


def names_of(pod: Any) -> tuple[Any, Any, Any, Json]:
    """Namespace, name, uid and labels of a pod, as they are: the first three may be anything."""
    metadata = _map(_map(pod).get("metadata"))
    return metadata.get("namespace"), metadata.get("name"), metadata.get("uid"), _map(metadata.get("labels"))


def latest_warning(events: list[Any]) -> Condition | None:
    """The latest warning among a pod's Kubernetes events; None where there is none."""
    warnings = [
        _reason_of(event, event.get("lastTimestamp") or event.get("eventTime") or event.get("firstTimestamp"))
        for event in _maps(events)
        if event.get("type") == "Warning"
    ]
    return max(warnings, key=lambda warning: warning.at_s) if warnings else None


def epoch_s(text: Any) -> float:
    """Seconds since the epoch of a time as Kubernetes writes it; 0.0 where it is not one."""
    return _epoch_s(text) if isinstance(text, str) and text else 0.0


@lru_cache(maxsize=4096)  # whole seconds: many pods share a time, and every event of a pod repeats its times
def _epoch_s(text: str) -> float:
    try:
        # fromisoformat of Python 3.10 accepts neither Z nor nine digits of a second.
        return datetime.fromisoformat(f"{text[:19]}+00:00").timestamp()
    except (ValueError, OverflowError):
        return 0.0


def read_text(value: Any, most: int) -> str:
    """At most `most` characters of a text; empty where it is not a text."""
    if not isinstance(value, str):
        return ""
    # JSON can hold half a surrogate pair, which no encoder accepts.
    return value[:most] if value.isascii() else value[:most].encode("utf-8", "replace").decode()


# --- parts of a pod ---------------------------------------------------------------------------------------------------


def _identity(labels: Json) -> tuple[str, int]:
    launch_id, attempt = labels.get(identifiers.LABEL_LAUNCH_ID), labels.get(identifiers.LABEL_ATTEMPT)
    if not isinstance(launch_id, str) or not isinstance(attempt, str):
        return "", 0
    if not _LAUNCH_ID.fullmatch(launch_id) or not _ATTEMPT.fullmatch(attempt):
        return "", 0
    return launch_id, int(attempt)


def _conditions(value: Any) -> tuple[Condition | None, Condition | None, Condition | None]:
    """The first of each that counts: scheduled, not scheduled, to be disrupted."""
    scheduled = unscheduled = disruption = None
    for item in _maps(value):
        kind, status = item.get("type"), item.get("status")
        if kind == "PodScheduled":
            if status == "True":
                scheduled = scheduled or _reason_of(item, item.get("lastTransitionTime"))
            elif status == "False":
                unscheduled = unscheduled or _reason_of(item, item.get("lastTransitionTime"))
        elif kind == "DisruptionTarget" and status == "True":
            disruption = disruption or _reason_of(item, item.get("lastTransitionTime"))
    return scheduled, unscheduled, disruption


def _reason_of(item: Json, at: Any) -> Condition:
    return Condition(
        read_text(item.get("reason"), REASON_MAX), read_text(item.get("message"), MESSAGE_MAX), epoch_s(at)
    )


def _container_spec(item: Json) -> ContainerSpec:
    rules = item.get("restartPolicyRules")
    return ContainerSpec(
        read_text(item.get("name"), NAME_MAX),
        read_text(item.get("image"), IMAGE_MAX),
        read_text(item.get("restartPolicy"), WORD_MAX),
        tuple(_restart_rules(rules)) if rules else (),
    )


def _restart_rules(value: Any) -> list[RestartRule]:
    found = []
    for item in _maps(value):
        exit_codes = _map(item.get("exitCodes"))
        operator, codes = exit_codes.get("operator"), exit_codes.get("values")
        if operator in ("In", "NotIn"):
            numbers = tuple(code for code in codes if _is_number(code)) if isinstance(codes, list) else ()
            restarts = read_text(item.get("action"), WORD_MAX).startswith("Restart")
            found.append(RestartRule(restarts, numbers, operator == "NotIn"))
    return found


def _container(item: Json, kind: str) -> ContainerView:
    state, last = _map(item.get("state")), _map(item.get("lastState"))
    running, waiting, terminated = state.get("running"), state.get("waiting"), state.get("terminated")
    return ContainerView(
        read_text(item.get("name"), NAME_MAX),
        kind,
        read_text(item.get("image"), IMAGE_MAX),
        # A container runs even where nothing else is known of it; the other two states need a content.
        _state(running) if isinstance(running, dict) else None,
        _state(waiting) if waiting and isinstance(waiting, dict) else None,
        _state(terminated) if terminated and isinstance(terminated, dict) else None,
        _state(_map(last.get("terminated"))) if _map(last.get("terminated")) else None,
        bool(last),
    )


def _state(item: Json) -> ContainerState:
    code = item.get("exitCode")
    code = code if _is_number(code) else None
    return ContainerState(
        read_text(item.get("reason"), REASON_MAX),
        read_text(item.get("message"), MESSAGE_MAX),
        code,
        _signal(item.get("signal"), code),
        epoch_s(item.get("startedAt")),
        epoch_s(item.get("finishedAt")),
    )


def _signal(number: Any, code: int | None) -> int | None:
    if _is_number(number) and 0 < number <= 64:
        return int(number)
    return code - 128 if code is not None and 128 < code <= 192 else None


def _is_number(value: Any) -> bool:
    """A whole number of 32 bits, as exit codes, signals and grace periods are (the last in practice)."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 31


def _map(value: Any) -> Json:
    return value if isinstance(value, dict) else {}


def _maps(value: Any) -> list[Json]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
