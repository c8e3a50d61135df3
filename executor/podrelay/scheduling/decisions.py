"""Pure: what to do about a pod's result, given what the database says of its task instance.

A pod that ended well is never called a success here: the executor reports the task's own state, as the stock executor
does (airflow #66374, #67287 show why). Neither key nor task instance id names a launch; `launch_id` does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from podrelay.protocol.messages import CleanupAction, PodReport

# A task instance in one of these still needs its launch. In any other state it has moved on by itself.
WANTED = frozenset({"queued", "running", "restarting"})
# In these its process has begun in the pod that its row names.
_BEGUN = frozenset({"running", "restarting"})
# (QUEUED, info) and (RUNNING, info) events would overwrite the launch id that Airflow keeps for the task instance.
_NEVER_REPORTED = frozenset({"queued", "running"})


@dataclass(frozen=True, slots=True)
class TaskRow:
    """What the database says now of the task instance with this key."""

    state: str | None
    try_number: int
    launch_id: str | None
    subject: str = ""
    queued_by: int | None = None
    # Launch id and attempt of the pod in which its process last began; None where the host is not a pod of ours, or where
    # `[core] hostname_callable` does not say the pod's name.
    host: tuple[str, int] | None = None
    # Its process has begun since it was last queued.
    began: bool = False


@dataclass(frozen=True, slots=True)
class Policy:
    """The stock executor's options that decide here, from `[kubernetes_executor]`."""

    delete_worker_pods: bool = True
    delete_worker_pods_on_failure: bool = False
    # pod_launch_failure_retries: how often a pod that died before its task started is replaced; -1 without limit.
    relaunches: int = 1
    excluded_container_reasons: frozenset[str] = frozenset({"Error"})


@dataclass(frozen=True, slots=True)
class Decision:
    """`event` is for the event buffer; `next_attempt` asks for another pod; neither means: just free the slot."""

    event: tuple[str | None, str | None] | None = None
    next_attempt: Literal["", "relaunch", "new_token"] = ""
    cleanup: CleanupAction | None = None
    # The task runs in the pod of another launch or attempt: its slot is held for that one.
    elsewhere: bool = False


def superseded(launch_id: str, attempt: int, try_number: int, row: TaskRow | None) -> bool:
    """Does the task instance no longer need this attempt of this launch? A row without a launch id is taken as ours.

    While the task runs, the pod that it runs in counts and not the launch that was made for it last: a pod that was
    withdrawn may have begun before its deletion reached it, and the newer one is then refused by Airflow's execution API.
    """
    if row is None or row.try_number != try_number:
        return True
    if row.state in _BEGUN and row.host is not None:
        return row.host != (launch_id, attempt)
    return row.launch_id is not None and row.launch_id != launch_id


def runs_elsewhere(launch_id: str, attempt: int, try_number: int, row: TaskRow | None) -> bool:
    """Does this very task instance run, in a pod of ours that is not this attempt's?"""
    return (
        row is not None
        and row.try_number == try_number
        and row.state in _BEGUN
        and row.host not in (None, (launch_id, attempt))
    )


def decide(result: PodReport, try_number: int, relaunches: int, row: TaskRow | None, policy: Policy) -> Decision:
    """What a task's terminal result means.

    :param relaunches: how often this launch was given another pod after one died before its task started.
    """
    cleanup = cleanup_for(result, policy)
    if superseded(result.launch_id, result.attempt, try_number, row) or row is None:
        elsewhere = runs_elsewhere(result.launch_id, result.attempt, try_number, row)
        return Decision(cleanup=cleanup, elsewhere=elsewhere)
    if result.outcome == "expired":
        return Decision(next_attempt="new_token" if row.state == "queued" else "")
    if result.outcome == "succeeded":
        return Decision(event=None if row.state in _NEVER_REPORTED else (row.state, None), cleanup=cleanup)
    if row.state not in WANTED:
        return Decision(
            event=None if row.state == "scheduled" else (row.state, describe_failure(result)), cleanup=cleanup
        )
    if row.state == "queued" and _may_relaunch(result, relaunches, policy):
        # A pod that only waits could start yet, beside its replacement: it goes, whatever the flags say.
        return Decision(
            next_attempt="relaunch", cleanup="revoke" if result.phase == "Pending" and result.pod else cleanup
        )
    return Decision(event=("failed", describe_failure(result)), cleanup=cleanup)


def cleanup_for(result: PodReport, policy: Policy) -> CleanupAction | None:
    """Delete the pod, or keep it and label it as done. None where there is no pod."""
    if not result.pod or result.reason in ("PodDeleted", "PodVanished"):
        return None
    if not policy.delete_worker_pods:
        return "done"
    if result.outcome == "failed" and not policy.delete_worker_pods_on_failure:
        return "done"
    return "delete"


def describe_failure(result: PodReport) -> str:
    """Why the pod failed, for the event log and the scheduler's message: reason, container, exit, node, message."""
    if not result.pod:
        return result.message or result.reason or "The pod could not be created"
    parts = [f"Pod failed because of {result.container_reason or result.reason or 'an unknown reason'}"]
    if result.reason and result.container_reason and result.reason != result.container_reason:
        parts.append(f"pod reason {result.reason}")
    if result.container:
        kind = f"{result.container_type} container" if result.container_type else "container"
        parts.append(f"{kind} {result.container}")
    if result.exit_code is not None:
        parts.append(f"exit code {result.exit_code}" + (f" (signal {result.signal})" if result.signal else ""))
    if result.image and result.failure_class == "configuration":
        parts.append(f"image {result.image}")
    if result.node:
        parts.append(f"node {result.node}")
    parts.append(f"pod {result.namespace}/{result.pod}")
    if result.failure_class:
        parts.append(f"class {result.failure_class}")
    text = ", ".join(parts)
    return f"{text}: {result.message}" if result.message else text


def _may_relaunch(result: PodReport, relaunches: int, policy: Policy) -> bool:
    if not result.pod:  # Kubernetes refused it: the same request would be refused again
        return False
    # An evicted pod's container ends with Error too, and that says nothing of the task.
    if result.failure_class != "infrastructure" and result.container_reason in policy.excluded_container_reasons:
        return False
    return policy.relaunches == -1 or relaunches < policy.relaunches
