"""Pure: what a pod's end means for its task, given the task instance's row in the database.

A pod that succeeded does not mean that its task did: the executor reports the state in the row, as the stock executor does
(airflow #66374, #67287 show why). Only `launch_id` identifies a launch; the task's key and id stay the same across launches.

Used by the result processor, the reconciler and the orphan collector.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from podrelay.protocol import identifiers
from podrelay.protocol.messages import CleanupAction, PodReport
from podrelay.protocol.starts import UNUSED

# A task instance in one of these states still needs its launch. In any other it has moved on without it.
WANTED = frozenset({"queued", "running", "restarting"})
# In these its process runs in the pod that its row names.
_BEGUN = frozenset({"running", "restarting"})
# Airflow stores the info of QUEUED and RUNNING events as the launch id of the task instance.
_NEVER_REPORTED = frozenset({"queued", "running"})
# The reason of a pod that ended although its task's row still says running.
NO_STATE = "NoStateReported"
# How often a warm pod that never got its workload is replaced without being counted as a pod that failed.
UNUSED_MOST = 3


class TaskRow(NamedTuple):
    """The row of a task instance, as far as podrelay reads it."""

    state: str | None
    try_number: int
    launch_id: str | None
    subject: str = ""
    queued_by: int | None = None
    # Launch id and attempt of the pod in which its process last began; None if that host is not one of our pods, or if
    # `[core] hostname_callable` does not return the pod's name.
    host: tuple[str, int] | None = None
    # The name of that pod; empty where the host name does not contain it.
    pod: str = ""
    # Its process has begun since the task was last queued.
    began: bool = False


@dataclass(frozen=True, slots=True)
class Policy:
    """Options of `[kubernetes_executor]` that these decisions depend on."""

    delete_worker_pods: bool = True
    delete_worker_pods_on_failure: bool = False
    # pod_launch_failure_retries: how often a pod that fails before its task starts is replaced; -1 means no limit.
    relaunches: int = 1
    excluded_container_reasons: frozenset[str] = frozenset({"Error"})


class Decision(NamedTuple):
    """`event` goes to the scheduler; `next_attempt` requests another pod; without either, the slot is just freed.

    relaunch: the pod failed, which counts. unused: it never got its workload. new_token: there was none.
    """

    event: tuple[str | None, str | None] | None = None
    next_attempt: Literal["", "relaunch", "unused", "new_token"] = ""
    cleanup: CleanupAction | None = None
    # The task runs in the pod of another launch or attempt, so its slot stays in use.
    elsewhere: bool = False
    # The task runs in another pod of the same attempt: this one is cleaned up, and the launch goes on.
    beside: bool = False


def superseded(launch_id: str, attempt: int, try_number: int, row: TaskRow | None) -> bool:
    """Has the task instance moved on from this attempt of this launch? A row without a launch id counts as this launch's.

    While the task runs, the pod that it runs in counts, not the launch that was requested last: a withdrawn pod may have
    begun before its deletion, and Airflow's execution API then rejects the newer one.
    """
    if row is None or row.try_number != try_number:
        return True
    if row.state in _BEGUN and row.host is not None:
        return row.host != (launch_id, attempt)
    return row.launch_id is not None and row.launch_id != launch_id


def runs_elsewhere(launch_id: str, attempt: int, try_number: int, row: TaskRow | None) -> bool:
    """Does the same try of the task run in another pod of ours than this attempt's?"""
    return (
        row is not None
        and row.try_number == try_number
        and row.state in _BEGUN
        and row.host not in (None, (launch_id, attempt))
    )


def ended_without_state(report: PodReport, try_number: int, row: TaskRow | None) -> bool:
    """Did the pod end well while the row says that the task runs in it? Its process exits with 0 whatever became of the task,
    so a task that was killed, or left by `os._exit`, looks like this; so does a row that is about to change.
    """
    return (
        row is not None
        and report.outcome == "succeeded"
        and row.state == "running"
        and row.try_number == try_number
        and row.host == (report.launch_id, report.attempt)
        and not runs_in_another_pod(report, row)
    )


def runs_in_another_pod(report: PodReport, row: TaskRow) -> bool:
    """Does the task run in another pod of the same attempt? Two warm pods may be given one launch if Redis loses its last
    writes; Airflow's execution API lets the task begin in one of them. Or the pod that ended never got the workload.
    """
    if row.state not in _BEGUN or row.host not in (None, (report.launch_id, report.attempt)):
        return False
    names = {report.pod, row.pod} - {""}
    return report.reason == UNUSED or (len(names) == 2 and any(map(identifiers.warm_id_of_pod, names)))


def contradicts_row(report: PodReport, row: TaskRow | None) -> bool:
    """Does the report deny the pod in which the task runs, as its row says? No honest process reports that; whoever can
    write to Redis may have offered a recorded launch again.
    """
    return row is not None and not report.pod and row.state in _BEGUN and row.host == (report.launch_id, report.attempt)


def without_state(report: PodReport, log_tail: tuple[str, ...] = ()) -> PodReport:
    """The failure that such an end is, once the row had time to change. `log_tail` was requested meanwhile."""
    return report.replaced(
        outcome="failed", reason=NO_STATE, container_reason="", failure_class="application",
        message="the task's process ended without reporting a state", log_tail=log_tail,
    )  # fmt: skip


def decide(report: PodReport, try_number: int, relaunches: int, row: TaskRow | None, policy: Policy) -> Decision:
    """What the end of a task's pod means.

    :param relaunches: how often this launch has replaced a pod that failed before its task started.
    """
    cleanup = cleanup_for(report, policy)
    if superseded(report.launch_id, report.attempt, try_number, row) or row is None:
        elsewhere = runs_elsewhere(report.launch_id, report.attempt, try_number, row)
        return Decision(cleanup=cleanup, elsewhere=elsewhere)
    if runs_in_another_pod(report, row):
        return Decision(cleanup=cleanup, beside=True)
    if report.outcome == "expired":
        return Decision(next_attempt="new_token" if row.state == "queued" else "")
    if report.outcome == "succeeded":
        return Decision(event=None if row.state in _NEVER_REPORTED else (row.state, None), cleanup=cleanup)
    if row.state not in WANTED:
        return Decision(
            event=None if row.state == "scheduled" else (row.state, describe_failure(report)), cleanup=cleanup
        )
    if row.state == "queued" and report.reason == UNUSED and report.attempt - relaunches < UNUSED_MOST:
        return Decision(next_attempt="unused", cleanup=cleanup)
    if row.state == "queued" and _may_relaunch(report, relaunches, policy):
        # A pending pod could still start, beside its replacement: it is deleted whatever the deletion options say.
        return Decision(
            next_attempt="relaunch", cleanup="revoke" if report.phase == "Pending" and report.pod else cleanup
        )
    return Decision(event=("failed", describe_failure(report)), cleanup=cleanup)


def cleanup_for(report: PodReport, policy: Policy) -> CleanupAction | None:
    """Delete the pod, or keep it and label it as done. None if there is no pod."""
    if not report.pod or report.reason in ("PodDeleted", "PodVanished"):
        return None
    if report.reason == UNUSED:
        return "delete"  # there is nothing to be seen in it
    if not policy.delete_worker_pods:
        return "done"
    if report.outcome == "failed" and not policy.delete_worker_pods_on_failure:
        return "done"
    return "delete"


def describe_failure(report: PodReport) -> str:
    """Why the pod failed, for the event log and the scheduler: reason, container, exit code, node, message."""
    if not report.pod:
        return report.message or report.reason or "The pod could not be created"
    # The container of a pod that was deleted may end with reason Completed.
    inner = report.container_reason if report.exit_code != 0 else ""
    parts = [f"Pod failed because of {inner or report.reason or 'an unknown reason'}"]
    if report.reason and inner and report.reason != inner:
        parts.append(f"pod reason {report.reason}")
    if report.container:
        kind = f"{report.container_type} container" if report.container_type else "container"
        parts.append(f"{kind} {report.container}")
    if report.exit_code is not None:
        parts.append(f"exit code {report.exit_code}" + (f" (signal {report.signal})" if report.signal else ""))
    if report.image and report.failure_class == "configuration":
        parts.append(f"image {report.image}")
    if report.node:
        parts.append(f"node {report.node}")
    parts.append(f"pod {report.namespace}/{report.pod}")
    if report.failure_class:
        parts.append(f"class {report.failure_class}")
    text = ", ".join(parts)
    return f"{text}: {report.message}" if report.message else text


def _may_relaunch(report: PodReport, relaunches: int, policy: Policy) -> bool:
    if not report.pod:  # Kubernetes rejected it, and would reject the same request again
        return False
    # The container of an evicted pod ends with reason Error as well, whatever the task did.
    if report.failure_class != "infrastructure" and report.container_reason in policy.excluded_container_reasons:
        return False
    return policy.relaunches == -1 or relaunches < policy.relaunches
