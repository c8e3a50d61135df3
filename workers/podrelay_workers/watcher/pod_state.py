"""Pure: what one state of one pod means for its launch: a result, something to wait for, or nothing.

Total: whatever the API server delivers, `interpret` returns. What is not ours, or malformed, is skipped with a reason.
Called by the watcher for every event.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import lru_cache
from typing import Any

from podrelay.protocol import identifiers
from podrelay.protocol.messages import FailureClass, Outcome, PodReport

Json = dict[str, Any]

BASE_CONTAINER = "base"

MESSAGE_MAX = 2000
NAME_MAX = 253
IMAGE_MAX = 500
UNSCHEDULABLE = "Unschedulable"

# An end that Kubernetes itself brought about: another try may well succeed.
_INFRASTRUCTURE = frozenset(
    {
        "Evicted", "Preempted", "Preempting", "Shutdown", "NodeShutdown", "Terminated", "NodeLost", "NodeAffinity",
        "UnexpectedAdmissionError", "OutOfcpu", "OutOfmemory", "OutOfpods", "OutOfephemeral-storage", "ProviderFailed",
        "ContainerStatusUnknown", "PodDeleted", "PodVanished", "DisruptionTarget", "PreemptionByScheduler",
        "DeletionByTaintManager", "EvictionByEvictionAPI", "DeletionByPodGC", "TerminationByKubelet",
        # A kubelet's refusals of a pod that fits another node, or this one later; OutOf<any resource> beside them.
        "NodeName", "NodePorts", "TaintToleration", "TopologyAffinityError", "InvalidNodeInfo", "UnknownReason",
        "UnexpectedPredicateFailureType", "VolumeAttachmentLimitExceeded",
    }
)  # fmt: skip
# What the pod asks for does not exist or cannot be run: only a change of image, template or secret helps.
_CONFIGURATION = frozenset(
    {
        "ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError",
        "RegistryUnavailable", "CreateContainerConfigError", "CreateContainerError", "StartError",
        "ContainerCannotRun", "RunContainerError", "CreatePodSandboxError", UNSCHEDULABLE, "SysctlForbidden", "AppArmor",
        "PodOSNotSupported", "PodOSSelectorNodeLabelDoesNotMatch", "PodFeatureUnsupported", "PodLevelResourcesNotSupported",
        "SupplementalGroupsPolicyNotSupported", "InitContainerRestartPolicyForbidden", "SignatureValidationFailed",
        "PreCreateHookError", "PreStartHookError",
    }
)  # fmt: skip
# A container with one of these never ran, although its state is "terminated".
_NEVER_RAN = frozenset({"StartError", "ContainerCannotRun", "RunContainerError"})
# Normal steps of a start: news only when they take long.
_STARTING = frozenset({"ContainerCreating", "PodInitializing"})
# kubelet alternates between the two while it tries: one wait, not two.
_SAME_WAIT = {"ImagePullBackOff": "ErrImagePull"}
_PULL_QPS = "pull QPS exceeded"

# What a pod waits for whose node does not say that it ended it: told also after its start.
TERMINATING, UNKNOWN = "terminating", "unknown"
NODE_SILENT = "NodeNotResponding"

_LAUNCH_ID = re.compile(r"[A-Za-z0-9-]{1,63}")
_ATTEMPT = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True)
class Rules:
    """What `[kubernetes_executor]` and `[podrelay]` say about waiting pods."""

    fatal_reasons: frozenset[str] = frozenset()
    # How long a fatal reason must last: a registry that hiccups recovers in less.
    grace_s: float = 60.0
    # A start that takes longer is worth asking why; and after the longer time, worth a word in any case.
    ask_start_s: float = 8.0
    slow_start_s: float = 30.0
    # A node that works has ended a pod soon after its grace.
    overdue_s: float = 30.0
    cluster: str = identifiers.DEFAULT_CLUSTER


@dataclass(frozen=True)
class DeferredReport:
    """`result` is due when the pod has been in the same wait for `after_s`, once for each `name` in one wait.

    ask: Kubernetes' events may tell more. bare: worth telling even if they do not.
    """

    name: str
    after_s: float
    result: PodReport
    ask: bool = False
    bare: bool = True


@dataclass(frozen=True)
class PodState:
    """What a pod's state means.

    result: to be published now, if it is news. wait: what the pod waits for; the same text is the same wait, whose
    `later` fall due by the clock alone. confirm: true if the pod is gone, which only the API server can tell. fields:
    for the ledger. skipped: why this pod is none of ours.
    """

    launch_id: str = ""
    attempt: int = 0
    result: PodReport | None = None
    wait: str = ""
    later: tuple[DeferredReport, ...] = ()
    confirm: PodReport | None = None
    fields: dict[str, str] = field(default_factory=dict)
    skipped: str = ""


def interpret(event: str, pod: Any, rules: Rules, now_s: float) -> PodState:
    """The meaning of an event. `event` is the watch's type (LISTED for a list), `now_s` the wall clock."""
    try:
        return _judge(event, pod, rules, now_s)
    except (TypeError, ValueError, AttributeError, LookupError, ArithmeticError, RecursionError) as error:
        return PodState(skipped=f"malformed ({type(error).__name__})")


def identity(pod: Any) -> tuple[str, int] | None:
    """Launch id and attempt by the pod's labels, or None where it is none of ours."""
    labels = _map(_map(_map(pod).get("metadata")).get("labels"))
    launch_id, attempt = labels.get(identifiers.LABEL_LAUNCH_ID), labels.get(identifiers.LABEL_ATTEMPT)
    if not isinstance(launch_id, str) or not isinstance(attempt, str):
        return None
    if not _LAUNCH_ID.fullmatch(launch_id) or not _ATTEMPT.fullmatch(attempt):
        return None
    return launch_id, int(attempt)


def vanished(launch_id: str, attempt: int, namespace: str, pod: str, rules: Rules, now_s: float) -> PodReport:
    """The result of a launch whose pod is gone without an event that said so."""
    return PodReport(
        launch_id, attempt, "failed", "PodVanished", "the pod is gone; nobody saw how it ended", pod, namespace,
        failure_class="infrastructure", seen_at_s=now_s, cluster=rules.cluster,
    )  # fmt: skip


def add_event_reason(result: PodReport, events: list[Any]) -> PodReport:
    """The same result with the latest warning among Kubernetes' events as its reason; unchanged where there is none."""
    warnings = [event for event in _maps(events) if event.get("type") == "Warning"]
    if not warnings:
        return result
    last = max(warnings, key=lambda e: epoch_s(e.get("lastTimestamp") or e.get("eventTime") or e.get("firstTimestamp")))
    reason, message = _text(last.get("reason"), 200), _text(last.get("message"), MESSAGE_MAX)
    return replace(result, reason=reason or result.reason, message=message or result.message)


def epoch_s(text: Any) -> float:
    """Seconds since the epoch of one of Kubernetes' times, 0.0 where there is none."""
    return _epoch_s(text) if isinstance(text, str) and text else 0.0


@lru_cache(maxsize=4096)  # they count whole seconds: many pods share them, and each event brings them again
def _epoch_s(text: str) -> float:
    try:
        # fromisoformat of Python 3.10 knows neither Z nor nine digits of a second.
        return datetime.fromisoformat(f"{text[:19]}+00:00").timestamp()
    except (ValueError, OverflowError):
        return 0.0


# --- the order of the rules -----------------------------------------------------------------------------------------


def _judge(event: str, pod: Any, rules: Rules, now_s: float) -> PodState:
    who = identity(pod)
    if who is None:
        return PodState(skipped="no launch id and attempt in its labels")
    view = _View(pod, who, rules, now_s)
    if identifiers.LABEL_REVOKED in view.labels:
        return PodState(*who, skipped="revoked")
    deleted = event == "DELETED"
    if not view.name or not view.namespace:
        return PodState(*who, skipped="no name or namespace")
    outcome = view.outcome()
    if outcome is not None:
        return view.end(outcome)
    if deleted:
        # Without a time of deletion it may only have left the selection: its labels were changed.
        return view.deleted() if view.deletion else view.unsure()
    if view.deletion:
        return view.terminating()
    if view.running:
        return view.started()
    if view.phase == "Pending" or view.base_waits:
        return view.pending()
    if view.phase == "Unknown":
        return view.unknown()
    return PodState(*who, fields=view.fields())


class _View:
    """One pod, read with care for wrong types."""

    def __init__(self, pod: Json, who: tuple[str, int], rules: Rules, now_s: float) -> None:
        self.who, self.rules, self.now_s = who, rules, now_s
        metadata, self.spec, status = _map(pod.get("metadata")), _map(pod.get("spec")), _map(pod.get("status"))
        self.labels = _map(metadata.get("labels"))
        self.name = _text(metadata.get("name"), NAME_MAX)
        self.namespace = _text(metadata.get("namespace"), NAME_MAX)
        self.uid = _text(metadata.get("uid"), NAME_MAX)
        self.node = _text(self.spec.get("nodeName"), NAME_MAX)
        self.phase = _text(status.get("phase"), 50)
        self.pod_reason = _text(status.get("reason"), 200)
        self.pod_message = _text(status.get("message"), MESSAGE_MAX)
        self.conditions = _maps(status.get("conditions"))
        self.main = _maps(status.get("containerStatuses"))
        self.init = _maps(status.get("initContainerStatuses"))
        self.deletion = _text(metadata.get("deletionTimestamp"), 50)
        self.grace_s = metadata.get("deletionGracePeriodSeconds")
        self.base_spec = self._find_spec()
        self.base = self._of_first_run(self._find_base())

    # --- the container that matters ---

    def _find_spec(self) -> Json:
        """The task's container as the pod wants it: the one named base, else the first."""
        specs = _maps(self.spec.get("containers"))
        return next((item for item in specs if item.get("name") == BASE_CONTAINER), specs[0] if specs else {})

    def _find_base(self) -> Json:
        wanted = _text(self.base_spec.get("name"), NAME_MAX) or BASE_CONTAINER
        for status in self.main:
            if status.get("name") == wanted:
                return status
        return self.main[0] if self.main and not self.base_spec else {}

    def _of_first_run(self, base: Json) -> Json:
        """A task runs once. Where its container is always started again, its first end is all that matters, and may be
        seen too late to be its present state.
        """
        before = _map(_map(base.get("lastState")).get("terminated"))
        if before and self._policy == "Always" and not _state(base, "terminated"):
            return {**base, "state": {"terminated": before}}
        return base

    @property
    def _policy(self) -> str:
        """Of the container's own restart policy and the pod's, the former goes first (Kubernetes 1.34)."""
        return _text(self.base_spec.get("restartPolicy"), 20) or _text(self.spec.get("restartPolicy"), 20)

    def _starts_again(self, code: int | None) -> bool:
        """Will the kubelet run the container again, because it is so wanted of this exit code?"""
        for rule in _maps(self.base_spec.get("restartPolicyRules")):
            codes = _map(rule.get("exitCodes"))
            values = codes.get("values")
            listed = code in values if isinstance(values, list) else False
            if codes.get("operator") in ("In", "NotIn") and listed == (codes.get("operator") == "In"):
                return _text(rule.get("action"), 50).startswith("Restart")
        return self._policy == "OnFailure" and code != 0

    @property
    def base_ended(self) -> bool:
        """A terminated base container is the end, sidecars or not, unless the kubelet will start it again."""
        return bool(_state(self.base, "terminated")) and not self._starts_again(self.exit_code(self.base))

    @property
    def base_running(self) -> bool:
        return isinstance(_map(self.base.get("state")).get("running"), dict)

    @property
    def running(self) -> bool:
        """The base container runs; or the pod does, and nothing is said of its containers."""
        return self.base_running or (self.phase == "Running" and not self.main)

    @property
    def base_waits(self) -> bool:
        """It has not run yet, while another container may."""
        return self.phase == "Running" and bool(_state(self.base, "waiting")) and not _map(self.base.get("lastState"))

    @staticmethod
    def exit_code(container: Json) -> int | None:
        code = _state(container, "terminated").get("exitCode")
        return code if isinstance(code, int) and not isinstance(code, bool) else None

    # --- verdicts ---

    def outcome(self) -> Outcome | None:
        """How it ended; None while it has not."""
        if self.pod_reason == "ProviderFailed":
            return "failed"
        if self.base_ended:
            return "succeeded" if self.exit_code(self.base) == 0 else "failed"
        if self.phase in ("Succeeded", "Failed"):
            return "succeeded" if self.phase == "Succeeded" else "failed"
        return None

    def end(self, outcome: Outcome) -> PodState:
        if outcome == "succeeded":
            result = self._result(outcome, container=self.base)
        else:
            container, kind = self._culprit()
            reason, message, failure = self._why_failed(container, kind)
            result = self._result(outcome, reason, message, container, kind, failure)
        return PodState(*self.who, result, fields=self.fields())

    def deleted(self) -> PodState:
        """It was deleted before its end. `started` in the ledger tells whether the task had begun."""
        disruption = self._disruption()
        reason = self.pod_reason or "PodDeleted"
        message = self.pod_message or _text(disruption.get("message"), MESSAGE_MAX)
        if disruption and not self.pod_reason:
            message = f"{_text(disruption.get('reason'), 200)}: {message}".rstrip(": ")
        message = message or f"the pod was deleted while it was {self.phase or 'in no phase'}"
        return PodState(
            *self.who, self._result("failed", reason, message, failure="infrastructure"), fields=self.fields()
        )

    def unsure(self) -> PodState:
        return PodState(*self.who, confirm=self.deleted().result, fields=self.fields())

    def started(self) -> PodState:
        at_s = epoch_s(_state(self.base, "running").get("startedAt"))
        return PodState(*self.who, self._result("started", container=self.base, at_s=at_s), fields=self.fields())

    def terminating(self) -> PodState:
        """It is to be deleted and its node has to end it first. A node that is lost never says so; the task may still run
        there, so that this is no end: what is told is why nothing happens.
        """
        why = _text(self._disruption().get("reason"), 200)
        message = (
            f"the pod was to be deleted by {self.deletion}{f' ({why})' if why else ''}, and "
            f"{f'node {self.node}' if self.node else 'nobody'} has not confirmed its end: the node may be lost; "
            "the pod is over when the node comes back or is removed, or when the pod is deleted by force"
        )
        due_s = max(0.0, epoch_s(self.deletion) + self.rules.overdue_s - self.now_s)
        overdue = DeferredReport(
            "overdue", due_s, self._result("pending", NODE_SILENT, message, failure="infrastructure")
        )
        told = self.started() if self.running else PodState(*self.who, fields=self.fields())
        return replace(told, wait=TERMINATING, later=(overdue,))

    def unknown(self) -> PodState:
        message = self.pod_message or f"node {self.node or 'of the pod'} does not say what became of it"
        news = self._result("pending", self.pod_reason or NODE_SILENT, message, failure="infrastructure")
        return PodState(*self.who, news, wait=UNKNOWN, fields=self.fields())

    def pending(self) -> PodState:
        unscheduled = self._unscheduled()
        if unscheduled:
            reason = _text(unscheduled.get("reason"), 200) or UNSCHEDULABLE
            message = _text(unscheduled.get("message"), MESSAGE_MAX)
            return PodState(
                *self.who, self._result("pending", reason, message), wait=f"schedule:{reason}", fields=self.fields()
            )
        waits = [
            verdict
            for kind, containers in (("init", self.init), ("main", self.main))
            for container in containers
            if (verdict := self._waiting(container, kind)) is not None
        ]
        if waits:  # one that may become the end goes before those that only last
            return next((verdict for verdict in waits if verdict.later), waits[0])
        if self.node:
            slow = self._result("pending", "ContainerCreating", "the pod is being set up: volumes, network, image")
        else:
            slow = self._result("pending", "NotScheduled", "no scheduler has looked at the pod yet")
        later = (
            DeferredReport("ask", self.rules.ask_start_s, slow, ask=True, bare=False),
            DeferredReport("slow", self.rules.slow_start_s, slow, ask=True),
        )
        return PodState(*self.who, wait="starting", later=later, fields=self.fields())

    def _waiting(self, container: Json, kind: str) -> PodState | None:
        """None where this container waits for nothing worth telling."""
        waiting = _state(container, "waiting")
        reason = _text(waiting.get("reason"), 200)
        if not reason or reason in _STARTING:
            return None
        message = _text(waiting.get("message"), MESSAGE_MAX)
        if reason == "ErrImagePull" and message == _PULL_QPS:  # the kubelet's own limit: soon over
            return PodState(
                *self.who, self._result("pending", reason, message, container, kind), wait="qps", fields=self.fields()
            )
        same = _SAME_WAIT.get(reason, reason)
        later: tuple[DeferredReport, ...] = ()
        if reason in self.rules.fatal_reasons or same in self.rules.fatal_reasons:
            fatal = self._result("failed", reason, message, container, kind, "configuration")
            later = (DeferredReport("fatal", self.rules.grace_s, fatal),)
        news = self._result("pending", reason, message, container, kind, _class_of(reason))
        return PodState(*self.who, news, wait=f"{same}:{container.get('name')}", later=later, fields=self.fields())

    # --- why ---

    def _culprit(self) -> tuple[Json, str]:
        """The container to blame: an init container that failed, the task's, another that failed, else one that waits."""
        sidecars = {
            _text(item.get("name"), NAME_MAX)
            for item in _maps(self.spec.get("initContainers"))
            if item.get("restartPolicy") == "Always"
        }
        for container in self.init:
            if container.get("name") not in sidecars and self._failed(container):
                return container, "init"
        for container in (self.base, *self.main):
            if self._failed(container):
                return container, "main"
        waits = [(item, "init") for item in self.init if _state(item, "waiting")]
        waits += [(item, "main") for item in self.main if _state(item, "waiting")]
        return waits[-1] if waits else ({}, "")

    def _failed(self, container: Json) -> bool:
        ended = _state(container, "terminated")
        return bool(ended) and self.exit_code(container) != 0 and ended.get("reason") != "Completed"

    def _why_failed(self, container: Json, kind: str) -> tuple[str, str, FailureClass]:
        """Reason, message and class; the pod's own reason comes before its container's, which is often only Error."""
        state = _state(container, "terminated") or _state(container, "waiting")
        inner, inner_message = _text(state.get("reason"), 200), _text(state.get("message"), MESSAGE_MAX)
        if self.pod_reason:
            return self.pod_reason, self.pod_message or inner_message, _class_of(self.pod_reason, inner)
        disruption = self._disruption()
        if disruption:
            reason = _text(disruption.get("reason"), 200) or "DisruptionTarget"
            return reason, _text(disruption.get("message"), MESSAGE_MAX) or inner_message, "infrastructure"
        if self._ended_by_deletion(container):
            return "PodDeleted", inner_message or "the pod was deleted while it was running", "infrastructure"
        if kind == "init" and inner not in _CONFIGURATION:
            return inner or "Failed", inner_message or self.pod_message, "configuration"
        return inner or "Failed", inner_message or self.pod_message, _class_of(inner)

    def _disruption(self) -> Json:
        return next(
            (c for c in self.conditions if c.get("type") == "DisruptionTarget" and c.get("status") == "True"), {}
        )

    def _ended_by_deletion(self, container: Json) -> bool:
        """Was the deletion asked for before the container ended? (The timestamp is the end of the grace period.)"""
        if not self.deletion:
            return False
        grace_s = self.grace_s if isinstance(self.grace_s, (int, float)) else 0
        finished_s = epoch_s(_state(container, "terminated").get("finishedAt"))
        return finished_s == 0 or epoch_s(self.deletion) - grace_s <= finished_s

    def _unscheduled(self) -> Json:
        return next((c for c in self.conditions if c.get("type") == "PodScheduled" and c.get("status") == "False"), {})

    # --- values ---

    def _result(
        self,
        outcome: Outcome,
        reason: str = "",
        message: str = "",
        container: Json | None = None,
        kind: str = "main",
        failure: FailureClass = "",
        at_s: float = 0.0,
    ) -> PodReport:
        container = container or {}
        state = _state(container, "terminated") or _state(container, "waiting")
        code = self.exit_code(container)
        return PodReport(
            launch_id=self.who[0],
            attempt=self.who[1],
            outcome=outcome,
            reason=reason,
            message=message,
            pod=self.name,
            namespace=self.namespace,
            uid=self.uid,
            node=self.node,
            phase=self.phase,
            container=_text(container.get("name"), NAME_MAX),
            container_type=kind if container else "",
            container_reason=_text(state.get("reason"), 200),
            exit_code=code,
            signal=_signal(state, code),
            failure_class=failure,
            image=self._image(container),
            seen_at_s=at_s or epoch_s(state.get("finishedAt")) or self.now_s,
            cluster=self.rules.cluster,
        )

    def _image(self, container: Json) -> str:
        """As the spec names it: the status of an image that cannot be pulled names it too, a pulled one by digest."""
        name = container.get("name")
        for item in (*_maps(self.spec.get("containers")), *_maps(self.spec.get("initContainers"))):
            if name and item.get("name") == name:
                return _text(item.get("image"), IMAGE_MAX)
        return _text(container.get("image"), IMAGE_MAX)

    def fields(self) -> dict[str, str]:
        """What the ledger should know of the pod whatever became of it: where it is, and its own times."""
        found = {"pod": self.name, "namespace": self.namespace, "uid": self.uid, "node": self.node}
        running, ended = _state(self.base, "running"), _state(self.base, "terminated")
        scheduled = next(
            (c for c in self.conditions if c.get("type") == "PodScheduled" and c.get("status") == "True"), {}
        )
        started = running.get("startedAt") or ended.get("startedAt")
        times = {"t_scheduled": scheduled.get("lastTransitionTime"), "t_started": started}
        times["t_finished"] = ended.get("finishedAt")
        found |= {name: f"{epoch_s(text):.3f}" for name, text in times.items() if epoch_s(text)}
        if self.base_running or (ended and ended.get("reason") not in _NEVER_RAN and epoch_s(started)):
            found["started"] = "1"
        return {name: value for name, value in found.items() if value}


def _class_of(reason: str, inner: str = "") -> FailureClass:
    if reason in _INFRASTRUCTURE or reason.startswith("OutOf") or inner == "ContainerStatusUnknown":
        return "infrastructure"
    return "configuration" if reason in _CONFIGURATION or inner in _CONFIGURATION else "application"


def _signal(state: Json, exit_code: int | None) -> int | None:
    number = state.get("signal")
    if isinstance(number, int) and not isinstance(number, bool) and 0 < number <= 64:
        return number
    return exit_code - 128 if exit_code is not None and 128 < exit_code <= 192 else None


def _state(container: Json, name: str) -> Json:
    return _map(_map(container.get("state")).get(name))


def _map(value: Any) -> Json:
    return value if isinstance(value, dict) else {}


def _maps(value: Any) -> list[Json]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _text(value: Any, most: int) -> str:
    if not isinstance(value, str):
        return ""
    # JSON can carry half a surrogate pair, which no encoder takes.
    return value[:most] if value.isascii() else value[:most].encode("utf-8", "replace").decode()
