"""Pure: how a pod ended, which container is to blame, and why. Used by `pod_state`."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import NamedTuple

from podrelay.protocol.mailbox import EXIT_UNUSED
from podrelay.protocol.messages import FailureClass, Outcome
from podrelay.protocol.starts import UNUSED
from podrelay_workers.watcher.pod_reasons import CONFIGURATION, POD_DELETED, failure_class
from podrelay_workers.watcher.pod_view import NO_CONTAINER, ContainerView, PodView, epoch_s

_UNUSED = "the warm pod ended without having got the task's workload"


class Failure(NamedTuple):
    """Why a pod failed. `container` is an empty one where none is to blame."""

    reason: str
    message: str
    failure_class: FailureClass
    container: ContainerView = NO_CONTAINER


def task_container(view: PodView) -> ContainerView:
    """The base container's first run. A task runs once: where its container is always restarted, the end of the first run
    is what counts. By the time it is seen it may be the container's last state only.
    """
    base = view.base
    if base.last_terminated and not base.terminated and view.base_restart_policy == "Always":
        return base._replace(running=None, waiting=None, terminated=base.last_terminated)
    return base


def outcome_of(view: PodView, base: ContainerView) -> Outcome | None:
    """How the pod ended; None while it has not. A terminated base container is the end, whatever sidecars do, unless the
    kubelet will restart it. A task that a deletion or an eviction interrupted may end with exit code 0, which is no success.
    """
    if view.reason == "ProviderFailed":
        return "failed"
    if base.terminated and not _restarts_after(view, base.terminated.exit_code):
        return "succeeded" if base.terminated.exit_code == 0 and not _was_interrupted(view, base) else "failed"
    if view.phase in ("Succeeded", "Failed"):
        return "succeeded" if view.phase == "Succeeded" else "failed"
    return None


def failure_of(view: PodView, base: ContainerView) -> Failure:
    """Why a pod failed. The pod's own reason counts before its container's, which is often only Error."""
    container = _culprit(view, base)
    inner, disruption = container.state, view.disruption
    if view.is_warm and base.terminated and base.terminated.exit_code == EXIT_UNUSED:
        return Failure(UNUSED, f"{_UNUSED}{_cause(view, base)}", "infrastructure", base)
    if view.reason:
        return Failure(view.reason, view.message or inner.message, failure_class(view.reason, inner.reason), container)
    if disruption:
        reason, message = disruption.reason or "DisruptionTarget", disruption.message or inner.message
        if view.deletion:
            message = f"{message}; {deletion_text(view)}".lstrip("; ")
        return Failure(reason, message, "infrastructure", container)
    if _ended_by_deletion(view, container):
        message = f"{deletion_text(view)}: {inner.message}".rstrip(": ")
        return Failure(POD_DELETED, message, "infrastructure", container)
    own_fault = container.kind == "init" and inner.reason not in CONFIGURATION
    kind = "configuration" if own_fault else failure_class(inner.reason)
    return Failure(inner.reason or "Failed", inner.message or view.message, kind, container)


def _cause(view: PodView, base: ContainerView) -> str:
    """Why a warm pod ended before it got its workload, as far as Kubernetes knows."""
    disruption = view.disruption
    if view.reason:
        return f": {view.reason}: {view.message}".rstrip(": ")
    if disruption:
        return f": {disruption.reason}: {disruption.message}".rstrip(": ")
    if _ended_by_deletion(view, base):
        return f": {deletion_text(view)}"
    return "; its idle time was over, or Redis lost its data"


def deletion_of(view: PodView, now_s: float) -> Failure:
    """Why a pod that was deleted before its end failed. `now_s` is when its end was noticed."""
    disruption, message = view.disruption, view.message
    if disruption:
        message = message or disruption.message
        if not view.reason:
            message = f"{disruption.reason}: {message}".rstrip(": ")
    text = f"{deletion_text(view, now_s)} while it was {view.phase or 'in no phase'}"
    return Failure(view.reason or POD_DELETED, f"{message}; {text}".lstrip("; "), "infrastructure")


def deletion_text(view: PodView, now_s: float = 0.0) -> str:
    """That a pod was deleted, when and where. podrelay deletes only pods whose launch is over or that it labelled as revoked,
    and neither is reported: whoever deleted this one is somebody else.
    """
    at_s = epoch_s(view.deletion) - view.deletion_grace_s if view.deletion else now_s
    where = f" on node {view.node}" if view.node else ""
    return f"the pod was deleted from outside, not by podrelay, at {utc_text(at_s)}{where}"


def utc_text(at_s: float) -> str:
    """A time for people; the API server's clock counts whole seconds."""
    try:
        return datetime.fromtimestamp(at_s, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return "an unknown time"


def _restarts_after(view: PodView, code: int | None) -> bool:
    """Will the kubelet run the base container again after this exit code?"""
    for rule in view.base_spec.restart_rules:
        if (code in rule.codes) != rule.negated:
            return rule.restarts
    return code != 0 and view.base_restart_policy == "OnFailure"


def _culprit(view: PodView, base: ContainerView) -> ContainerView:
    """An init container that failed, the task's, another that failed, else one that waits."""
    sidecars = {spec.name for spec in view.init_containers if spec.restart_policy == "Always"}
    suspects = [*(item for item in view.init if item.name not in sidecars), base, *view.main]
    for container in suspects:
        if _failed(container) or (container is base and _was_interrupted(view, base)):
            return container
    waits = [container for container in (*view.init, *view.main) if container.waiting]
    return waits[-1] if waits else NO_CONTAINER


def _failed(container: ContainerView) -> bool:
    ended = container.terminated
    return ended is not None and ended.exit_code != 0 and ended.reason != "Completed"


def _was_interrupted(view: PodView, base: ContainerView) -> bool:
    """Was the pod deleted or disrupted before the task's container ended?"""
    finished_s = base.terminated.finished_s if base.terminated else 0.0
    if not finished_s:
        return False
    disrupted = view.disruption is not None and 0 < view.disruption.at_s <= finished_s
    return disrupted or _ended_by_deletion(view, base)


def _ended_by_deletion(view: PodView, container: ContainerView) -> bool:
    """Was the pod deleted before the container ended? (Its deletion time is the end of the grace period.)"""
    if not view.deletion:
        return False
    finished_s = container.terminated.finished_s if container.terminated else 0.0
    return finished_s == 0 or epoch_s(view.deletion) - view.deletion_grace_s <= finished_s
