"""Pure: what one state of one pod means for its launch: a report, a wait, or nothing. `PodTable` calls it for every event.

`_Interpreter.state` holds the order of the rules. `pod_view` reads the JSON, `pod_end` explains ends, `pod_reasons` holds
Kubernetes' reasons, and `ledger_fields` picks what the ledger keeps. Total: whatever the API server delivers, `interpret`
returns; a pod that is malformed, or not podrelay's, is skipped with a reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from podrelay.protocol import identifiers
from podrelay.protocol.messages import FailureClass, Outcome, PodReport
from podrelay_workers.watcher.ledger_fields import ledger_fields
from podrelay_workers.watcher.pod_end import Failure, deletion_of, failure_of, outcome_of, task_container, utc_text
from podrelay_workers.watcher.pod_reasons import (
    BACK_OFF,
    NODE_NOT_RESPONDING,
    POD_VANISHED,
    STARTING,
    UNSCHEDULABLE,
    failure_class,
    is_passing,
    repeated_error,
)
from podrelay_workers.watcher.pod_view import NO_CONTAINER, ContainerView, PodView, epoch_s, read_pod

# Waits for a node that does not respond. They are reported even after the container has started.
TERMINATING, UNKNOWN = "terminating", "unknown"
# Why a warm pod without a launch is ignored.
IDLE = "idle"
# Waits for a cause that passes by itself begin with this.
_PASSING = "passing:"

_UNREAD = PodView()


@dataclass(frozen=True)
class Rules:
    """What `[kubernetes_executor]` and `[podrelay]` configure about pods that wait."""

    fatal_reasons: frozenset[str] = frozenset()
    # How long a fatal reason must last: a registry that fails briefly recovers within it.
    grace_s: float = 60.0
    # After the first time, events are looked up for a pod that has not started; after the second it is reported in any case.
    events_after_s: float = 8.0
    slow_start_s: float = 30.0
    # A working node ends a pod soon after its grace period.
    overdue_s: float = 30.0
    cluster: str = identifiers.DEFAULT_CLUSTER


class DeferredReport(NamedTuple):
    """A report that is due once the pod has stayed in the same wait for `after_s`; each `name` is due once per wait.

    with_events: look up the pod's Kubernetes events first. without_reason: publish it even if no event gives a reason.
    """

    name: str
    after_s: float
    report: PodReport
    with_events: bool = False
    without_reason: bool = True


class PodState(NamedTuple):
    """What the state of a pod (`view`) means for its launch.

    skipped: why the pod is ignored. report: to be published now, unless it was before. wait: what the pod waits for; the
    same text is the same wait, whose `deferred` reports fall due by the clock alone. repeats: where the pod was in this wait
    before, it still is: the kubelet backs off and does not repeat the cause. report_if_gone: holds if the API server
    confirms that the pod is gone. base: the task's container.
    """

    view: PodView
    skipped: str = ""
    report: PodReport | None = None
    wait: str = ""
    deferred: tuple[DeferredReport, ...] = ()
    repeats: str = ""
    report_if_gone: PodReport | None = None
    base: ContainerView = NO_CONTAINER

    @property
    def fields(self) -> dict[str, str]:
        """For the ledger. Few events publish anything: only then are they read."""
        return ledger_fields(self.view, self.base)


def interpret(event: str, pod: Any, rules: Rules, now_s: float) -> PodState:
    """The meaning of one event. `event` is the watch's type, or LISTED for a pod of a list; `now_s` is the wall clock."""
    view = _UNREAD
    try:
        view = read_pod(pod)
        return _Interpreter(view, rules, now_s).state(event)
    except (TypeError, ValueError, AttributeError, LookupError, ArithmeticError, RecursionError) as error:
        # One strange pod must not stop the watcher (a number may be too large for the arithmetic on it).
        return PodState(PodView(view.namespace, view.name), f"malformed ({type(error).__name__})")


def vanished(launch_id: str, attempt: int, namespace: str, pod: str, rules: Rules, now_s: float) -> PodReport:
    """The report on a launch whose pod is gone without an event."""
    return PodReport(
        launch_id, attempt, "failed", POD_VANISHED,
        f"the pod is gone, and podrelay did not delete it; its end was not observed, but noticed at {utc_text(now_s)}",
        pod, namespace,
        failure_class="infrastructure", seen_at_s=now_s, cluster=rules.cluster,
    )  # fmt: skip


class _Interpreter:
    """The rules, applied to one pod. `base` is the task's container."""

    def __init__(self, view: PodView, rules: Rules, now_s: float) -> None:
        self.view, self.rules, self.now_s = view, rules, now_s
        self.base = task_container(view)

    # --- the order of the rules ---

    def state(self, event: str) -> PodState:
        view = self.view
        if view.is_idle:
            return PodState(view, IDLE)
        if not view.launch_id:
            return PodState(view, "no launch id and attempt in its labels")
        if identifiers.LABEL_REVOKED in view.labels:
            return PodState(view, "revoked")
        if not view.name or not view.namespace:
            return PodState(view, "no name or namespace")
        outcome = outcome_of(view, self.base)
        if outcome is not None:
            return self.ended(outcome)
        if event == "DELETED":
            return self.deleted()
        if view.deletion:
            return self.terminating()
        if self.running:
            return self.started()
        if view.phase == "Pending" or self.base_waits:
            return self.pending()
        if view.phase == "Unknown":
            return self.unknown()
        return self._means()

    @property
    def running(self) -> bool:
        """The base container runs; or the pod does, and its status lists no container."""
        return self.base.running is not None or (self.view.phase == "Running" and not self.view.main)

    @property
    def base_waits(self) -> bool:
        """The base container has not run yet, although another one may."""
        return self.view.phase == "Running" and self.base.waiting is not None and not self.base.ran_before

    # --- ends ---

    def ended(self, outcome: Outcome) -> PodState:
        if outcome == "succeeded":
            return self._means(self._report(outcome, container=self.base))
        return self._means(self._failure(failure_of(self.view, self.base)))

    def deleted(self) -> PodState:
        """The pod was deleted before its end. `started` in the ledger shows whether the task had begun."""
        report = self._failure(deletion_of(self.view, self.now_s))
        # Without a time of deletion it may only have left the selection: its labels were changed.
        return self._means(report) if self.view.deletion else self._means(if_gone=report)

    # --- before the end ---

    def started(self) -> PodState:
        # The container of a warm pod runs since before the launch.
        at_s = self.base.running.started_s if self.base.running and not self.view.is_warm else 0.0
        return self._means(self._report("started", container=self.base, at_s=at_s))

    def terminating(self) -> PodState:
        """The pod is to be deleted, and its node has to end it first. A lost node never confirms that, and the task may
        still run there: this is no end, only the reason why nothing happens.
        """
        view = self.view
        why = f" ({view.disruption.reason})" if view.disruption and view.disruption.reason else ""
        message = (
            f"the pod was to be deleted by {view.deletion}{why}, and "
            f"{f'node {view.node}' if view.node else 'no node'} has not confirmed its end: the node may be lost; "
            "the pod ends when the node comes back or is removed, or when the pod is deleted by force"
        )
        due_s = max(0.0, epoch_s(view.deletion) + self.rules.overdue_s - self.now_s)
        report = self._report("pending", NODE_NOT_RESPONDING, message, failure="infrastructure")
        state = self.started() if self.running else self._means()
        return state._replace(wait=TERMINATING, deferred=(DeferredReport("overdue", due_s, report),))

    def unknown(self) -> PodState:
        view = self.view
        message = view.message or f"node {view.node or 'of the pod'} does not report the pod's state"
        report = self._report("pending", view.reason or NODE_NOT_RESPONDING, message, failure="infrastructure")
        return self._means(report, UNKNOWN)

    def pending(self) -> PodState:
        unscheduled = self.view.unscheduled
        if unscheduled:
            reason = unscheduled.reason or UNSCHEDULABLE
            return self._means(self._report("pending", reason, unscheduled.message), f"schedule:{reason}")
        containers = (*self.view.init, *self.view.main)
        waits = [state for container in containers if (state := self._waiting(container)) is not None]
        if waits:  # one that may become the end counts before those that only last
            return next((state for state in waits if state.deferred), waits[0])
        return self._starting()

    def _starting(self) -> PodState:
        if self.view.node:
            report = self._report("pending", "ContainerCreating", "the pod is being set up: volumes, network, image")
        else:
            report = self._report("pending", "NotScheduled", "no scheduler has considered the pod yet")
        deferred = (
            DeferredReport("events", self.rules.events_after_s, report, with_events=True, without_reason=False),
            DeferredReport("slow", self.rules.slow_start_s, report, with_events=True),
        )
        return self._means(None, "starting", deferred)

    def _waiting(self, container: ContainerView) -> PodState | None:
        """None where this container waits for nothing worth a report."""
        waiting = container.waiting
        if waiting is None or not waiting.reason or waiting.reason in STARTING:
            return None
        reason, message = waiting.reason, waiting.message
        if is_passing(message):
            report = self._report("pending", reason, message, container, "infrastructure")
            return self._means(report, _PASSING + container.name)
        # The kubelet alternates between an error and the back-off after it: one wait, not two. A back-off that names no
        # error follows ErrImagePull.
        repeated = repeated_error(message) if reason == BACK_OFF else reason
        error = repeated or "ErrImagePull"
        deferred: tuple[DeferredReport, ...] = ()
        if {reason, error} & self.rules.fatal_reasons:
            fatal = self._report("failed", reason, message, container, "configuration")
            deferred = (DeferredReport("fatal", self.rules.grace_s, fatal),)
        report = self._report("pending", reason, message, container, failure_class(reason))
        state = self._means(report, f"{error}:{container.name}", deferred)
        return state if repeated else state._replace(repeats=_PASSING + container.name)

    # --- values ---

    def _means(
        self,
        report: PodReport | None = None,
        wait: str = "",
        deferred: tuple[DeferredReport, ...] = (),
        if_gone: PodReport | None = None,
    ) -> PodState:
        return PodState(self.view, "", report, wait, deferred, "", if_gone, self.base)

    def _failure(self, failure: Failure) -> PodReport:
        return self._report("failed", failure.reason, failure.message, failure.container, failure.failure_class)

    def _report(
        self,
        outcome: Outcome,
        reason: str = "",
        message: str = "",
        container: ContainerView = NO_CONTAINER,
        failure: FailureClass = "",
        at_s: float = 0.0,
    ) -> PodReport:
        view, state = self.view, container.state
        return PodReport(
            launch_id=view.launch_id,
            attempt=view.attempt,
            outcome=outcome,
            reason=reason,
            message=message,
            pod=view.name,
            namespace=view.namespace,
            uid=view.uid,
            node=view.node,
            phase=view.phase,
            container=container.name,
            container_type=container.kind,
            container_reason=state.reason,
            exit_code=state.exit_code,
            signal=state.signal,
            failure_class=failure,
            image=view.image_of(container),
            seen_at_s=at_s or state.finished_s or self.now_s,
            cluster=self.rules.cluster,
        )
