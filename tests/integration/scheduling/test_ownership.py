"""A task belongs to the scheduler that its row names: what that one's executor does, and what the others leave alone."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from airflow.utils.session import create_session
from airflow.utils.state import TaskInstanceState

from podrelay.executor import RedisKubernetesExecutor
from tests.harness.task_instances import OWNER, load, make_task_instances, update, workload_of
from tests.integration.scheduling.conftest import Outside, beat

FAILED = TaskInstanceState.FAILED
OTHER = OWNER + 1


def hand_over(executor: RedisKubernetesExecutor, ti_id: str) -> tuple[Any, str]:
    """Its key and its launch id."""
    workload = workload_of(ti_id, executor.jwt_generator)
    with create_session() as session:
        executor.queue_workload(workload, session)
    executor.heartbeat()
    launch = executor.launches.of_key(workload.key)
    assert launch is not None
    return workload.key, launch.launch_id


def compare(executor: RedisKubernetesExecutor, seconds: float = 0.5) -> None:
    """Heartbeats with at least two comparisons."""
    end_s = time.monotonic() + seconds
    beat(executor, until=lambda: time.monotonic() >= end_s)


@pytest.mark.parametrize("state", ["queued", "running", "restarting", "success"])
def test_the_old_owner_lets_go_and_leaves_the_launch_to_the_new_one(
    executor: RedisKubernetesExecutor, outside: Outside, state: str
) -> None:
    ti_id = make_task_instances()[0]
    key, launch_id = hand_over(executor, ti_id)
    if state != "queued":
        outside.create(launch_id)
        outside.publish(launch_id, "started", pod="pod-1")
    update(ti_id, state=state, queued_by_job_id=OTHER)
    beat(executor, until=lambda: key not in executor.running)
    assert executor.launches.of_key(key) is None
    assert outside.ledger(launch_id)["state"] == ("offered" if state == "queued" else "started")
    assert outside.redis.hget(outside.names.current, ti_id) == launch_id
    outside.publish(launch_id, "failed", pod="pod-1", reason="Evicted")
    compare(executor)
    assert executor.event_buffer == {}
    assert outside.cleanups() == []


def test_an_end_that_comes_before_the_comparison_is_left_to_the_new_owner(
    executor: RedisKubernetesExecutor, outside: Outside
) -> None:
    ti_id = make_task_instances()[0]
    key, launch_id = hand_over(executor, ti_id)
    outside.create(launch_id)
    update(ti_id, state="running", queued_by_job_id=OTHER)
    executor.parts.reconciler._next_round_s = float("inf")
    beat(executor, until=lambda: executor.launches.round_is_over)
    outside.publish(launch_id, "failed", pod="pod-1", reason="Evicted")
    beat(executor, until=lambda: key not in executor.running)
    assert executor.event_buffer == {}
    assert outside.cleanups() == []
    assert outside.ledger(launch_id)["state"] == "finished"


def test_both_schedulers_after_an_adoption_from_a_living_one(
    start_executor: Callable[..., RedisKubernetesExecutor], outside: Outside
) -> None:
    """The heartbeats of the first scheduler were late, so that the second one adopted its task."""
    first, second = start_executor(), start_executor(OTHER)
    ti_id = make_task_instances()[0]
    key, launch_id = hand_over(first, ti_id)
    assert second.try_adopt_task_instances([load(ti_id)]) == []
    update(ti_id, queued_by_job_id=OTHER)
    beat(first, until=lambda: key not in first.running)
    outside.create(launch_id)
    update(ti_id, state="running")
    outside.publish(launch_id, "failed", pod="pod-1", reason="Evicted")
    first.heartbeat()
    beat(second, until=lambda: key in second.event_buffer)
    assert first.event_buffer == {}
    assert outside.cleanups() == ["done pod default/pod-1"]


def test_a_slot_held_for_another_executors_pod_moves_too(
    start_executor: Callable[..., RedisKubernetesExecutor],
) -> None:
    ti_id = make_task_instances(state="running", external_executor_id="17")[0]
    executor = start_executor()
    assert executor.try_adopt_task_instances([load(ti_id)]) == []
    key = load(ti_id).key
    compare(executor)
    assert key in executor.running
    update(ti_id, queued_by_job_id=OTHER)
    beat(executor, until=lambda: key not in executor.running)


@pytest.mark.parametrize("assigned", [True, False])
@pytest.mark.parametrize("queued_by", [OTHER, None])
def test_a_launch_that_another_scheduler_queued_again_is_withdrawn(
    executor: RedisKubernetesExecutor, outside: Outside, assigned: bool, queued_by: int | None
) -> None:
    """Under another launch id, or under none yet: this one is nobody's."""
    values: dict[str, Any] = {} if assigned else {"external_executor_id": None}
    ti_id = make_task_instances(**values)[0]
    key, launch_id = hand_over(executor, ti_id)
    executor.get_event_buffer()
    again = {"external_executor_id": str(uuid.uuid4())} if assigned else {}
    update(ti_id, queued_by_job_id=queued_by, **again)
    beat(executor, until=lambda: key not in executor.running)
    assert outside.ledger(launch_id)["state"] == "withdrawn"
    assert executor.event_buffer == {}, "an id announced now would replace the other scheduler's"


def test_nobodys_task_is_not_adopted(start_executor: Callable[..., RedisKubernetesExecutor], outside: Outside) -> None:
    queued, running = make_task_instances(queued_by_job_id=None) + make_task_instances(
        queued_by_job_id=None, state="running"
    )
    executor = start_executor()
    refused = executor.try_adopt_task_instances([load(queued), load(running)])
    assert [str(ti.id) for ti in refused] == [queued, running]
    compare(executor)
    assert executor.running == set()
    assert outside.queued() == []


def test_adoption_asks_for_no_column_that_the_scheduler_left_out(
    start_executor: Callable[..., RedisKubernetesExecutor],
) -> None:
    """Its query has the condition that a scheduler queued the task, and does not load which."""
    ti_id = make_task_instances()[0]
    ti = load(ti_id)
    del ti.__dict__["queued_by_job_id"]
    executor = start_executor()
    assert executor.try_adopt_task_instances([ti]) == []
    assert "queued_by_job_id" not in vars(ti)


@pytest.mark.parametrize("outcome", ["succeeded", "failed"])
@pytest.mark.parametrize("how", ["taken out", "failed"])
def test_no_event_follows_for_a_key_that_airflow_took_out_of_running(
    executor: RedisKubernetesExecutor, outside: Outside, how: str, outcome: str
) -> None:
    ti_id = make_task_instances()[0]
    key, launch_id = hand_over(executor, ti_id)
    outside.create(launch_id)
    if how == "failed":  # as the scheduler does for a task without heartbeats
        executor.change_state(key, FAILED, remove_running=True)
        update(ti_id, state="running")
    else:
        executor.running.discard(key)
        update(ti_id, state="success" if outcome == "succeeded" else "running")
    expected = dict(executor.event_buffer)
    outside.publish(launch_id, outcome, pod="pod-1", reason="Evicted")
    beat(executor, until=outside.cleanups)
    compare(executor)
    assert executor.event_buffer == expected
    assert executor.launches.of_key(key) is None


def test_no_launch_id_is_announced_for_a_key_that_is_not_running(
    executor: RedisKubernetesExecutor,
) -> None:
    ti_id = make_task_instances(external_executor_id=None)[0]
    key, _ = hand_over(executor, ti_id)
    executor.get_event_buffer()
    executor.running.discard(key)
    compare(executor)
    assert executor.event_buffer == {}
