"""The decision about the end of a pod, as a table."""

from __future__ import annotations

from typing import Any

import pytest

from podrelay.protocol.identifiers import launch_of_pod, pod_name, warm_pod_name
from podrelay.protocol.messages import PodReport
from podrelay.protocol.starts import UNUSED
from podrelay.scheduling.decisions import (
    UNUSED_MOST,
    Decision,
    Policy,
    TaskRow,
    cleanup_for,
    decide,
    describe_failure,
    ended_without_state,
    without_state,
)

LAUNCH = "11111111-1111-4111-8111-111111111111"
OTHER = "22222222-2222-4222-8222-222222222222"


def result(outcome: str = "failed", **fields: Any) -> PodReport:
    return PodReport(LAUNCH, 0, outcome, **{"pod": "p", "namespace": "n", **fields})  # type: ignore[arg-type]


def row(state: str | None, launch_id: str | None = LAUNCH, try_number: int = 1) -> TaskRow:
    return TaskRow(state=state, try_number=try_number, launch_id=launch_id)


@pytest.mark.parametrize(
    ("row_", "event"),
    [
        (row("success"), ("success", None)),
        (row("failed"), ("failed", None)),
        (row("restarting", None), ("restarting", None)),
        (row("deferred"), ("deferred", None)),
        (row("scheduled"), ("scheduled", None)),
        (row(None, None), (None, None)),
        (row("queued"), None),
        (row("running"), None),
        (row("queued", OTHER), None),
        (row("success", try_number=2), None),
        (None, None),
    ],
)
def test_success_is_what_the_database_says(row_: TaskRow | None, event: tuple[str | None, None] | None) -> None:
    assert decide(result("succeeded"), 1, 0, row_, Policy()) == Decision(event=event, cleanup="delete")


@pytest.mark.parametrize("state", ["running", "restarting"])
def test_failure_of_a_task_that_waits_for_us(state: str) -> None:
    decision = decide(result(reason="Evicted"), 1, 0, row(state), Policy())
    assert decision.event == ("failed", describe_failure(result(reason="Evicted")))
    assert decision.next_attempt == ""


@pytest.mark.parametrize("state", ["success", "deferred", "up_for_retry"])
def test_failure_after_the_task_moved_on_is_what_the_database_says(state: str) -> None:
    decision = decide(result(), 1, 0, row(state), Policy())
    assert decision.event is not None
    assert decision.event[0] == state


def test_a_task_that_a_trigger_rescheduled_is_not_failed() -> None:
    assert decide(result(), 1, 0, row("scheduled"), Policy()).event is None


@pytest.mark.parametrize(
    ("fields", "relaunches", "policy", "again"),
    [
        ({}, 0, Policy(), True),
        ({}, 1, Policy(), False),
        ({}, 100, Policy(relaunches=-1), True),
        ({}, 0, Policy(relaunches=0), False),
        ({"container_reason": "Error"}, 0, Policy(), False),
        ({"container_reason": "Error", "failure_class": "infrastructure"}, 0, Policy(), True),
        ({"container_reason": "Error"}, 0, Policy(excluded_container_reasons=frozenset()), True),
        ({"container_reason": "ErrImagePull"}, 0, Policy(), True),
        ({"pod": ""}, 0, Policy(), False),
    ],
)
def test_a_pod_that_died_before_its_task(fields: dict[str, Any], relaunches: int, policy: Policy, again: bool) -> None:
    decision = decide(result(**fields), 1, relaunches, row("queued"), policy)
    assert (decision.next_attempt == "relaunch") is again
    assert (decision.event is None) is again


def test_a_deletion_comes_before_the_exit_code_0_that_it_caused() -> None:
    report = result(reason="PodDeleted", container="base", container_reason="Completed", exit_code=0)
    assert describe_failure(report).startswith("Pod failed because of PodDeleted, container base, exit code 0")


def test_a_pending_pod_goes_before_its_replacement_comes() -> None:
    assert decide(result(phase="Pending"), 1, 0, row("queued"), Policy()).cleanup == "revoke"


@pytest.mark.parametrize(
    ("outcome", "policy", "action"),
    [
        ("succeeded", Policy(), "delete"),
        ("failed", Policy(), "done"),
        ("failed", Policy(delete_worker_pods_on_failure=True), "delete"),
        ("succeeded", Policy(delete_worker_pods=False), "done"),
        ("failed", Policy(delete_worker_pods=False, delete_worker_pods_on_failure=True), "done"),
    ],
)
def test_flags_decide_the_cleanup(outcome: str, policy: Policy, action: str) -> None:
    assert cleanup_for(result(outcome), policy) == action


def test_what_is_not_there_is_not_cleaned_up() -> None:
    assert cleanup_for(result(pod=""), Policy()) is None
    assert cleanup_for(result(reason="PodVanished"), Policy()) is None


def test_an_expired_token_is_renewed_only_while_the_task_waits() -> None:
    assert decide(result("expired", pod=""), 1, 5, row("queued"), Policy()).next_attempt == "new_token"
    assert decide(result("expired", pod=""), 1, 0, row("failed"), Policy()) == Decision()


def test_a_refusal_is_reported_in_the_words_of_the_api() -> None:
    refused = result(pod="", reason="PodRefused", message='pods "x" is forbidden')
    assert decide(refused, 1, 0, row("queued"), Policy()).event == ("failed", 'pods "x" is forbidden')


def test_an_explanation_names_what_an_operator_looks_for() -> None:
    text = describe_failure(
        result(
            reason="Evicted", container="base", container_type="main", container_reason="OOMKilled", exit_code=137,
            signal=9, node="node-1", message="memory", failure_class="infrastructure",
        )
    )  # fmt: skip
    for part in (
        "OOMKilled",
        "Evicted",
        "main container base",
        "137 (signal 9)",
        "node-1",
        "n/p",
        "infrastructure",
        "memory",
    ):
        assert part in text


HERE, ELSEWHERE, EARLIER = (LAUNCH, 1), (OTHER, 0), (LAUNCH, 0)


@pytest.mark.parametrize("state", ["running", "restarting"])
@pytest.mark.parametrize(
    ("named", "host", "elsewhere"),
    [
        (LAUNCH, HERE, False),
        (LAUNCH, None, False),
        (LAUNCH, ELSEWHERE, True),
        (LAUNCH, EARLIER, True),
        (OTHER, HERE, False),  # the row names a newer launch, but this one's pod runs the task
    ],
)
def test_a_task_fails_with_the_pod_that_runs_it(
    state: str, named: str, host: tuple[str, int] | None, elsewhere: bool
) -> None:
    failed = PodReport(LAUNCH, 1, "failed", pod="p", namespace="n", container_reason="Error")
    decision = decide(failed, 1, 0, TaskRow(state, 1, named, host=host), Policy())
    assert decision.elsewhere is elsewhere
    assert (decision.event is None) is elsewhere
    assert decision.cleanup == "done"


def test_the_host_of_an_earlier_run_says_nothing_while_the_task_waits() -> None:
    failed = PodReport(LAUNCH, 0, "failed", pod="p", namespace="n", container_reason="ErrImagePull")
    decision = decide(failed, 1, 0, TaskRow("queued", 1, LAUNCH, host=ELSEWHERE), Policy())
    assert decision == Decision(next_attempt="relaunch", cleanup="done")


@pytest.mark.parametrize(
    ("row_", "outcome", "silent"),
    [
        (TaskRow("running", 1, LAUNCH, host=EARLIER), "succeeded", True),
        (TaskRow("running", 1, OTHER, host=EARLIER), "succeeded", True),
        (TaskRow("running", 1, LAUNCH, host=HERE), "succeeded", False),  # another attempt
        (TaskRow("running", 1, LAUNCH, host=ELSEWHERE), "succeeded", False),
        (TaskRow("running", 1, LAUNCH, host=None), "succeeded", False),
        (TaskRow("running", 2, LAUNCH, host=EARLIER), "succeeded", False),
        (TaskRow("running", 1, LAUNCH, host=EARLIER), "failed", False),
        *((TaskRow(state, 1, LAUNCH, host=EARLIER), "succeeded", False)
          for state in ("queued", "scheduled", "restarting", "deferred", "up_for_reschedule", "up_for_retry", "success",
                        "failed", None)),
        (None, "succeeded", False),
    ],
)  # fmt: skip
def test_a_pod_that_ended_beside_its_running_task(row_: TaskRow | None, outcome: str, silent: bool) -> None:
    assert ended_without_state(result(outcome), 1, row_) is silent


def test_an_end_without_a_state_is_a_failure() -> None:
    failed = without_state(result("succeeded", container="base", container_reason="Completed", exit_code=0))
    decision = decide(failed, 1, 0, TaskRow("running", 1, LAUNCH, host=EARLIER), Policy())
    assert decision == Decision(event=("failed", describe_failure(failed)), cleanup="done")
    text = describe_failure(failed)
    assert "the task's process ended without reporting a state" in text
    assert "exit code 0" in text
    assert "Completed" not in text


def test_a_host_name_identifies_the_launch() -> None:
    pod = pod_name("My_DAG.task", LAUNCH, 12)
    assert launch_of_pod(pod) == (LAUNCH, 12)
    assert launch_of_pod(f"{pod}.sub.default.svc.cluster.local") == (LAUNCH, 12)
    for stranger in ("", "10.0.0.7", "node-1", "etl-load-8f3k2j1x", f"x-{LAUNCH}-0"):
        assert launch_of_pod(stranger) is None


WARM, OTHER_WARM = (warm_pod_name("p", digit * 32) for digit in "ab")


@pytest.mark.parametrize(
    "policy",
    [Policy(), Policy(relaunches=0), Policy(delete_worker_pods=False), Policy(delete_worker_pods_on_failure=True)],
)
def test_a_warm_pod_that_never_got_its_workload_is_replaced_and_does_not_count(policy: Policy) -> None:
    report = result(reason=UNUSED, pod=WARM, container_reason="Error", exit_code=75, failure_class="infrastructure")
    assert decide(report, 1, 0, row("queued"), policy) == Decision(next_attempt="unused", cleanup="delete")


def test_warm_pods_that_never_get_their_workload_are_not_replaced_without_end() -> None:
    def decision(attempt: int, relaunches: int) -> str:
        report = PodReport(LAUNCH, attempt, "failed", UNUSED, pod=WARM, failure_class="infrastructure")
        return decide(report, 1, relaunches, row("queued"), Policy()).next_attempt

    assert [decision(attempt, 0) for attempt in range(UNUSED_MOST + 1)] == ["unused"] * UNUSED_MOST + ["relaunch"]
    assert decision(UNUSED_MOST, 1) == "unused"
    assert decision(UNUSED_MOST + 1, 1) == ""


@pytest.mark.parametrize("host", [(LAUNCH, 0), None])
def test_a_pod_that_never_got_its_workload_is_not_the_one_of_a_running_task(host: tuple[str, int] | None) -> None:
    report = result(reason=UNUSED, pod=WARM, failure_class="infrastructure")
    assert decide(report, 1, 0, TaskRow("running", 1, LAUNCH, host=host), Policy()) == Decision(
        cleanup="delete", beside=True
    )


@pytest.mark.parametrize("outcome", ["failed", "succeeded"])
@pytest.mark.parametrize("state", ["running", "restarting"])
@pytest.mark.parametrize(
    ("ended", "runs_in", "beside"),
    [
        (WARM, OTHER_WARM, True),
        (pod_name("p", LAUNCH, 0), WARM, True),
        (WARM, pod_name("p", LAUNCH, 0), True),
        (WARM, WARM, False),
        (WARM, "", False),
        (pod_name("p", LAUNCH, 0), pod_name("q", LAUNCH, 0), False),
    ],
)
def test_the_end_of_one_of_two_pods_of_an_attempt(
    ended: str, runs_in: str, beside: bool, state: str, outcome: str
) -> None:
    """Redis lost its last writes, and the launch was given to a second pod: Airflow's execution API refuses one of them."""
    row_ = TaskRow(state, 1, LAUNCH, host=(LAUNCH, 0), pod=runs_in)
    report = result(outcome, pod=ended, container_reason="Error", exit_code=1)
    decision = decide(report, 1, 0, row_, Policy(delete_worker_pods_on_failure=True))
    assert decision.beside is beside
    assert decision.cleanup == "delete"
    if beside:
        assert (decision.event, decision.next_attempt) == (None, "")
    assert ended_without_state(report, 1, row_) is (outcome == "succeeded" and state == "running" and not beside)
