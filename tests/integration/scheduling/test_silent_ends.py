"""Pods that end well although their task's row says running: the task's process ended without reporting a state."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
from airflow.models.dagbag import DBDagBag
from airflow.utils.session import create_session
from airflow.utils.state import TaskInstanceState

from podrelay.executor import RedisKubernetesExecutor
from podrelay.protocol.identifiers import pod_name
from podrelay.scheduling import second_looks
from podrelay.scheduling.airflow_db import rows_of_tasks
from tests.harness.task_instances import OWNER, load, make_task_instances, update, workload_of
from tests.integration.scheduling.conftest import Outside, beat

FAILED = TaskInstanceState.FAILED
GRACE_S = 0.4


@pytest.fixture(autouse=True)
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(second_looks, "SECOND_LOOK_AFTER_S", GRACE_S)


class Run:
    """One task whose pod runs and whose row names that pod."""

    def __init__(self, executor: RedisKubernetesExecutor, outside: Outside, **values: Any) -> None:
        self.outside = outside
        self.ti_id = make_task_instances()[0]
        workload = workload_of(self.ti_id, executor.jwt_generator)
        with create_session() as session:
            executor.queue_workload(workload, session)
        beat(executor, until=lambda: workload.key in executor.running)
        self.key, self.launch_id = workload.key, str(workload.ti.external_executor_id)
        self.pod = pod_name("etl-load", self.launch_id, 0)
        outside.create(self.launch_id, self.pod)
        update(self.ti_id, **{"state": "running", "hostname": self.pod, **values})
        outside.publish(self.launch_id, "started", pod=self.pod)

    def end(self, outcome: str = "succeeded") -> None:
        self.outside.publish(
            self.launch_id, outcome, pod=self.pod, container="base", container_type="main",
            container_reason="Completed", exit_code=0, node="node-3",
        )  # fmt: skip


def beat_for(executor: RedisKubernetesExecutor, seconds: float) -> None:
    end_s = time.monotonic() + seconds
    beat(executor, until=lambda: time.monotonic() >= end_s)


def event_log(executor: RedisKubernetesExecutor) -> str:
    return "\n".join(f"{entry.event}: {entry.extra}" for entry in executor._task_event_logs)


def test_a_process_that_reported_no_state_fails_its_task_soon(
    executor: RedisKubernetesExecutor, outside: Outside
) -> None:
    run = Run(executor, outside)
    began_s = time.monotonic()
    run.end()
    beat(executor, until=lambda: run.key in executor.event_buffer)
    assert time.monotonic() - began_s >= GRACE_S, "the row may be about to change"
    state, info = executor.event_buffer[run.key]
    assert state == FAILED
    for part in ("the task's process ended without reporting a state", "exit code 0", "node node-3", run.pod):
        assert part in str(info)
        assert part in event_log(executor)
    assert run.key not in executor.running
    assert outside.cleanups() == [f"done pod default/{run.pod}"], "kept for inspection, as other failed pods"


def test_the_end_of_the_log_is_requested_and_reported(executor: RedisKubernetesExecutor, outside: Outside) -> None:
    run = Run(executor, outside)
    run.end()
    beat(executor, until=outside.log_requests)
    (request,) = outside.log_requests()
    assert (request.launch_id, request.pod, request.container) == (run.launch_id, run.pod, "base")
    assert outside.publish(run.launch_id, "log", pod=run.pod, log_tail=("Killed",)) == 1
    beat(executor, until=lambda: run.key in executor.event_buffer)
    assert executor.event_buffer[run.key][0] == FAILED
    assert f"pod default/{run.pod}\nLast log lines:\n    Killed" in event_log(executor)
    assert len(outside.log_requests()) == 1, "requested once"
    assert outside.publish(run.launch_id, "log", pod=run.pod) == 0, "nobody waits for it any more"


@pytest.mark.parametrize("row", [{"state": "success"}, {"hostname": "node-7.example"}])
def test_no_log_is_requested_of_a_pod_whose_end_is_clear(
    executor: RedisKubernetesExecutor, outside: Outside, row: dict[str, str]
) -> None:
    run = Run(executor, outside, **row)
    run.end()
    beat_for(executor, 2 * GRACE_S)
    assert outside.log_requests() == []


def test_no_log_is_requested_where_the_option_wants_none(
    start_executor: Callable[..., RedisKubernetesExecutor], outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__PODRELAY__FAILURE_LOG_LINES", "0")
    executor = start_executor()
    run = Run(executor, outside)
    run.end()
    beat(executor, until=lambda: run.key in executor.event_buffer)
    assert outside.log_requests() == []


def test_a_key_of_another_type_hinders_no_request(executor: RedisKubernetesExecutor, outside: Outside) -> None:
    outside.redis.set(outside.names.log_requests("default"), "not a list")
    run = Run(executor, outside)
    run.end()
    beat(executor, until=lambda: run.key in executor.event_buffer)
    assert len(outside.log_requests()) == 1


def test_the_scheduler_takes_the_task_out_of_running(executor: RedisKubernetesExecutor, outside: Outside) -> None:
    run = Run(executor, outside)
    run.end()
    beat(executor, until=lambda: run.key in executor.event_buffer)
    with create_session() as session:
        SchedulerJobRunner.process_executor_events(executor, OWNER, DBDagBag(), session)
    assert load(run.ti_id).state == FAILED


@pytest.mark.parametrize("state", ["success", "failed", "up_for_retry", "deferred", "up_for_reschedule"])
def test_a_state_that_is_committed_after_the_pods_end_counts(
    executor: RedisKubernetesExecutor, outside: Outside, state: str
) -> None:
    run = Run(executor, outside)
    run.end()
    beat_for(executor, GRACE_S / 2)
    assert run.key in executor.running
    assert outside.cleanups() == []
    update(run.ti_id, state=state)
    beat(executor, until=lambda: run.key in executor.event_buffer)
    assert executor.event_buffer[run.key] == (TaskInstanceState(state), None)
    assert outside.cleanups() == [f"delete pod default/{run.pod}"]


ELSEWHERE = pod_name("etl-load", str(uuid.uuid4()), 0)


@pytest.mark.parametrize(
    "values",
    [
        {"hostname": ELSEWHERE},
        {"hostname": "node-7.example"},  # hostname_callable does not return the pod's name
        {"hostname": ""},
        {"state": "queued"},
        {"state": "scheduled", "hostname": ELSEWHERE},
        {"state": "restarting"},
        {"try_number": 2},
    ],
)
def test_a_row_that_does_not_run_there_is_not_failed(
    executor: RedisKubernetesExecutor, outside: Outside, values: dict[str, Any]
) -> None:
    run = Run(executor, outside, **values)
    run.end()
    beat_for(executor, 2 * GRACE_S)
    event = executor.event_buffer.get(run.key, ("none", None))
    assert event[0] != FAILED
    assert "without reporting a state" not in event_log(executor)


def test_a_task_that_was_queued_again_meanwhile_is_not_failed(
    executor: RedisKubernetesExecutor, outside: Outside
) -> None:
    """It deferred, its trigger fired and it is queued again, before the grace is over."""
    run = Run(executor, outside)
    run.end()
    beat_for(executor, GRACE_S / 2)
    update(run.ti_id, state="queued", external_executor_id=str(uuid.uuid4()))
    with create_session() as session:
        executor.queue_workload(workload_of(run.ti_id, executor.jwt_generator), session)
    beat_for(executor, 2 * GRACE_S)
    assert run.key in executor.running
    assert run.key not in executor.event_buffer


def test_a_revoked_task_is_not_failed(executor: RedisKubernetesExecutor, outside: Outside) -> None:
    run = Run(executor, outside)
    run.end()
    beat_for(executor, GRACE_S / 2)
    executor.revoke_task(ti=load(run.ti_id))
    beat_for(executor, 2 * GRACE_S)
    assert run.key not in executor.event_buffer


def test_the_scheduler_that_adopts_the_task_notices_it(
    start_executor: Callable[..., RedisKubernetesExecutor], outside: Outside
) -> None:
    """The end was published while no scheduler was there to read it."""
    run = Run(start_executor(), outside)
    run.end()
    adopter = start_executor(OWNER + 1)
    assert adopter.try_adopt_task_instances([load(run.ti_id)]) == []
    update(run.ti_id, queued_by_job_id=OWNER + 1)
    beat(adopter, until=lambda: run.key in adopter.event_buffer)
    assert adopter.event_buffer[run.key][0] == FAILED


def test_many_at_once_cost_one_query_for_a_batch(
    executor: RedisKubernetesExecutor, outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor.parallelism = 50
    runs = [Run(executor, outside) for _ in range(20)]
    executor.parts.reconciler._next_round_s = float("inf")  # its comparisons have queries of their own
    beat(executor, until=lambda: executor.launches.round_is_over)
    asked: list[int] = []

    def counted(keys: Any) -> Any:
        keys = list(keys)
        asked.append(len(keys))
        return rows_of_tasks(keys)

    monkeypatch.setattr("podrelay.scheduling.results.rows_of_tasks", counted)
    for run in runs:
        run.end()
    beat(executor, until=lambda: len(executor.event_buffer) == len(runs))
    assert 0 < len(asked) <= 6, asked
