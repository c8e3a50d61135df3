"""Nothing is handed over that the database does not show as queued by this scheduler, and nothing vanishes in silence."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from airflow.utils.state import TaskInstanceState

from podrelay.executor import RedisKubernetesExecutor
from podrelay.protocol import identifiers
from podrelay.scheduling import queued_check
from podrelay.scheduling.airflow_db import queued_by
from tests.harness.task_instances import OWNER, load, make_task_instances, update, workload_of, workloads_of
from tests.integration.scheduling.conftest import Outside, beat

QUEUED = TaskInstanceState.QUEUED


@pytest.fixture
def records() -> Iterator[list[str]]:
    """What podrelay logs."""
    found: list[str] = []

    class Keeper(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record.getMessage())

    keeper, logger = Keeper(), logging.getLogger("podrelay")
    logger.addHandler(keeper)
    yield found
    logger.removeHandler(keeper)


def queue(executor: RedisKubernetesExecutor, ti_id: str) -> Any:
    workload = workload_of(ti_id, executor.jwt_generator)
    executor.queue_workload(workload, None)  # type: ignore[arg-type]
    return workload


NOT_QUEUED: dict[str, dict[str, Any]] = {
    "rolled back": {"state": "scheduled", "queued_by_job_id": None, "external_executor_id": None},
    "cleared": {"state": None, "external_executor_id": None},
    "ended": {"state": "success"},
    "deferred": {"state": "deferred"},
    "another launch": {"external_executor_id": str(uuid.uuid4())},
    "no launch": {"external_executor_id": None},
    "another scheduler": {"queued_by_job_id": OWNER + 1},
    "no scheduler": {"queued_by_job_id": None},
    "another try": {"try_number": 2},
    "another task instance": {"id": uuid.uuid4()},
}


@pytest.mark.parametrize("change", NOT_QUEUED)
def test_a_row_that_is_not_queued_by_this_launch_gets_none(
    executor: RedisKubernetesExecutor,
    outside: Outside,
    change: str,
    monkeypatch: pytest.MonkeyPatch,
    records: list[str],
) -> None:
    monkeypatch.setattr(queued_check, "UNQUEUED_S", 0.3)
    ti_id = make_task_instances()[0]
    workload = queue(executor, ti_id)
    update(ti_id, **NOT_QUEUED[change])
    executor.heartbeat()
    assert workload.key in executor.queued_tasks, "its transaction may not be committed yet"
    beat(executor, until=lambda: workload.key not in executor.queued_tasks)
    assert outside.queued() == []
    assert executor.event_buffer == {}
    assert [line for line in records if "is not launched" in line], "it leaves with a word"


def test_a_commit_that_comes_late_is_waited_for(executor: RedisKubernetesExecutor, outside: Outside) -> None:
    ti_id = make_task_instances()[0]
    workload = queue(executor, ti_id)
    update(ti_id, state="scheduled")
    executor.heartbeat()
    executor.heartbeat()
    assert outside.queued() == []
    update(ti_id, state="queued")
    executor.heartbeat()
    assert outside.queued() == [identifiers.job_id(workload.ti.external_executor_id, 0)]
    assert workload.key in executor.running


def test_a_task_that_is_queued_again_after_a_rollback_has_one_launch(
    executor: RedisKubernetesExecutor, outside: Outside
) -> None:
    ti_id = make_task_instances()[0]
    lost = queue(executor, ti_id)
    update(ti_id, state="scheduled", external_executor_id=None)
    executor.heartbeat()
    update(ti_id, state="queued", external_executor_id=str(uuid.uuid4()))
    again = queue(executor, ti_id)
    assert again.key == lost.key
    executor.heartbeat()
    assert outside.queued() == [identifiers.job_id(again.ti.external_executor_id, 0)]
    assert outside.ledger(lost.ti.external_executor_id) == {}


def test_what_waits_for_its_row_holds_up_no_other(
    executor: RedisKubernetesExecutor, outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("podrelay.scheduling.heartbeat_budget.HAND_OVER_BATCH", 2)
    first = make_task_instances(3, priority_weight=10)
    for ti_id in first:
        queue(executor, ti_id)
        update(ti_id, state="scheduled")
    sound = queue(executor, make_task_instances()[0])
    executor.heartbeat()
    assert executor.running == {sound.key}
    assert len(executor.queued_tasks) == 3


def test_a_revoked_task_that_waited_for_its_row_waits_anew(
    executor: RedisKubernetesExecutor, outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queued_check, "UNQUEUED_S", 0.3)
    ti_id = make_task_instances()[0]
    queue(executor, ti_id)
    update(ti_id, state="scheduled")
    executor.heartbeat()
    executor.revoke_task(ti=load(ti_id))
    time.sleep(0.3)
    update(ti_id, external_executor_id=str(uuid.uuid4()))
    again = queue(executor, ti_id)
    executor.heartbeat()
    assert again.key in executor.queued_tasks
    update(ti_id, state="queued")
    beat(executor, until=lambda: again.key in executor.running)


@pytest.mark.parametrize("left", [None, "17", str(uuid.uuid4())], ids=["none", "a job id", "of an earlier launch"])
def test_releases_that_assign_no_launch_id(
    executor: RedisKubernetesExecutor, outside: Outside, left: str | None
) -> None:
    """Only a launch id that came with the workload is compared."""
    workload = queue(executor, make_task_instances(external_executor_id=left)[0])
    executor.heartbeat()
    assert workload.key in executor.running


def test_a_dag_that_is_tested_without_a_scheduler(
    start_executor: Callable[..., RedisKubernetesExecutor], outside: Outside
) -> None:
    """`dag.test(use_executor=True)`: the executor has no job id, and no row names one."""
    executor = start_executor(None)  # type: ignore[arg-type]
    ti_id = make_task_instances(queued_by_job_id=None, external_executor_id=None)[0]
    workload = queue(executor, ti_id)
    for _ in range(5):
        executor.heartbeat()
        executor.parts.reconciler.schedule_now()
    assert workload.key in executor.running
    _, launch_id = executor.get_event_buffer()[workload.key]
    assert outside.ledger(launch_id)["state"] == "offered"


def test_a_hand_over_asks_the_database_once_for_many(
    executor: RedisKubernetesExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("podrelay.scheduling.heartbeat_budget.HAND_OVER_S", 60.0)
    executor.parallelism = 300
    asked: list[int] = []

    def counted(owner: int, ids: Any) -> Any:
        asked.append(len(ids))
        return queued_by(owner, ids)

    monkeypatch.setattr("podrelay.scheduling.queued_check.queued_by", counted)
    executor._process_workloads(workloads_of(make_task_instances(250), executor.jwt_generator))
    assert asked == [20, 200, 30]  # few, to see what one costs; then as many as fit
    assert len(executor.running) == 250


# --- the same launch id again -------------------------------------------------------------------------------------------
def test_a_revoked_launch_that_is_queued_again_under_its_id_is_launched_under_another(
    executor: RedisKubernetesExecutor, outside: Outside, records: list[str]
) -> None:
    ti_id = make_task_instances()[0]
    workload = queue(executor, ti_id)
    executor.heartbeat()
    executor.revoke_task(ti=load(ti_id))
    beat(executor, until=lambda: outside.ledger(workload.ti.external_executor_id)["state"] == "withdrawn")
    queue(executor, ti_id)
    assert_launched_again(executor, outside, workload, ti_id, records)


def test_an_ended_launch_that_is_queued_again_under_its_id_is_launched_under_another(
    executor: RedisKubernetesExecutor, outside: Outside, records: list[str]
) -> None:
    """The task deferred, and Airflow no longer assigns ids: another executor was configured beside this one."""
    ti_id = make_task_instances()[0]
    workload = queue(executor, ti_id)
    executor.heartbeat()
    outside.create(workload.ti.external_executor_id)
    update(ti_id, state="deferred")
    outside.publish(workload.ti.external_executor_id, pod="pod-1")
    beat(executor, until=lambda: workload.key not in executor.running)
    executor.get_event_buffer()
    update(ti_id, state="queued")
    queue(executor, ti_id)
    assert_launched_again(executor, outside, workload, ti_id, records)


def test_an_adopted_task_whose_launch_was_taken_back_is_launched_under_another_id(
    start_executor: Callable[..., RedisKubernetesExecutor], outside: Outside, records: list[str]
) -> None:
    """Its scheduler died after the revocation and before its commit: without this, the task waits for the queue timeout."""
    first = start_executor()
    ti_id = make_task_instances()[0]
    workload = queue(first, ti_id)
    first.heartbeat()
    first.revoke_task(ti=load(ti_id))
    beat(first, until=lambda: outside.ledger(workload.ti.external_executor_id)["state"] == "withdrawn")
    second = start_executor(OWNER + 1)
    assert second.try_adopt_task_instances([load(ti_id)]) == []
    update(ti_id, queued_by_job_id=OWNER + 1)
    assert_launched_again(second, outside, workload, ti_id, records)


def assert_launched_again(
    executor: RedisKubernetesExecutor, outside: Outside, workload: Any, ti_id: str, records: list[str]
) -> None:
    former = identifiers.job_id(workload.ti.external_executor_id, 0)
    beat(executor, until=lambda: outside.queued()[-1:] not in ([], [former]))
    launch = executor.launches.of_key(workload.key)
    assert launch is not None
    assert outside.queued()[-1:] == [identifiers.job_id(launch.launch_id, 0)]
    assert workload.key in executor.running
    beat(executor, until=lambda: workload.key in executor.event_buffer)
    assert executor.get_event_buffer()[workload.key] == (QUEUED, launch.launch_id)
    assert [line for line in records if "launching it under another id" in line]
    update(ti_id, external_executor_id=launch.launch_id)
    outside.create(launch.launch_id, "pod-2")
    update(ti_id, state="success")
    outside.publish(launch.launch_id, pod="pod-2")
    beat(executor, until=lambda: workload.key in executor.event_buffer)
    assert executor.event_buffer[workload.key] == (TaskInstanceState.SUCCESS, None)


def test_a_lost_answer_to_an_offer_is_no_second_launch(executor: RedisKubernetesExecutor, outside: Outside) -> None:
    """Redis took the launch, and its pod ended before the offer was repeated: nobody has acknowledged that end."""
    ti_id = make_task_instances()[0]
    workload = queue(executor, ti_id)
    executor.heartbeat()
    launch = executor.launches.of_key(workload.key)
    assert launch is not None
    executor.launches.forget(launch)
    executor.running.discard(workload.key)
    executor.queue_workload(workload, None)  # type: ignore[arg-type]
    outside.publish(launch.launch_id, "failed", pod="", reason="PodRefused", message="forbidden")
    beat(executor, until=lambda: workload.key in executor.event_buffer)
    assert executor.event_buffer[workload.key] == (TaskInstanceState.FAILED, "forbidden")
    assert outside.ledger(launch.launch_id)["state"] == "acknowledged"
