"""A heartbeat is short whatever there is to do: each part does a group, and the rest keeps its place for the next one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from podrelay import pace
from podrelay.executor import RedisKubernetesExecutor
from tests.integration.executor.conftest import Outside, beat
from tests.support.task_instances import make_task_instances, update, workload_of


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch, start_executor: Callable[..., Any]) -> RedisKubernetesExecutor:
    """An executor whose shares are over at once: one group for each part of a heartbeat."""
    for name in ("HAND_OVER_S", "RESULTS_S", "COMPARISON_S"):
        monkeypatch.setattr(pace, name, 0.0)
    monkeypatch.setattr(pace, "RESULTS_AT_ONCE", 2)
    monkeypatch.setattr(pace, "COMPARED_AT_ONCE", 2)
    executor: RedisKubernetesExecutor = start_executor()
    executor.parallelism = 10
    return executor


def _queue(executor: RedisKubernetesExecutor, ti_ids: list[str]) -> list[Any]:
    made = [workload_of(ti_id, executor.jwt_generator) for ti_id in ti_ids]
    for workload in made:
        executor.queue_workload(workload, None)  # type: ignore[arg-type]
    return made


def test_what_a_heartbeat_does_not_hand_over_stays_queued_in_its_order_and_keeps_its_slot(
    hurried: RedisKubernetesExecutor, outside: Outside
) -> None:
    low = _queue(hurried, make_task_instances(3, priority_weight=1))
    high = _queue(hurried, make_task_instances(1, priority_weight=10))
    for number, workload in enumerate([*high, *low], start=1):
        hurried.heartbeat()
        assert workload.key in hurried.running and workload.key not in hurried.queued_tasks
        assert len(hurried.running) == number
        assert len(hurried.queued_tasks) == 4 - number
        assert hurried.slots_available == 10 - 4
    assert len(outside.queued(0)) == 3


def test_a_task_that_can_never_be_launched_uses_the_heartbeat_up_and_holds_nobody_back(
    hurried: RedisKubernetesExecutor,
) -> None:
    (broken,) = _queue(hurried, make_task_instances(1, executor_config={"pod_override": "no pod"}))
    (sound,) = _queue(hurried, make_task_instances(1))
    hurried.heartbeat()
    assert broken.key in hurried.event_buffer
    assert sound.key in hurried.queued_tasks
    hurried.heartbeat()
    assert sound.key in hurried.running


def test_results_are_taken_in_groups_and_none_is_lost(hurried: RedisKubernetesExecutor, outside: Outside) -> None:
    ti_ids = make_task_instances(5)
    made = _queue(hurried, ti_ids)
    beat(hurried, lambda: len(hurried.running) == 5)
    hurried.reconciliation._next_check_s = float("inf")  # only the stream tells
    beat(hurried, lambda: hurried.launches.round_is_over)
    for ti_id, workload in zip(ti_ids, made, strict=True):
        update(ti_id, state="success")
        outside.create(workload.ti.external_executor_id)
        outside.publish(workload.ti.external_executor_id, pod="pod")
    for left in (3, 1, 0):
        hurried.heartbeat()
        assert len(hurried.running) == left


def test_the_comparison_goes_on_where_it_stopped(hurried: RedisKubernetesExecutor, outside: Outside) -> None:
    _queue(hurried, make_task_instances(5))
    beat(hurried, lambda: len(hurried.running) == 5)
    beat(hurried, lambda: hurried.launches.round_is_over)
    outside.redis.flushall()
    hurried.reconciliation.due_now()
    hurried.heartbeat()
    assert len(outside.queued()) == 2
    beat(hurried, lambda: len(outside.queued()) == 5)
