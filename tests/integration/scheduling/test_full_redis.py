"""A scheduler whose Redis is full: new launches wait in the scheduler, everything else goes on, and the log says why."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from airflow.utils.session import create_session

from podrelay.executor import RedisKubernetesExecutor
from tests.harness.task_instances import load, make_task_instances, update, workload_of
from tests.integration.scheduling.conftest import Outside, beat
from tests.integration.scheduling.test_executor import hand_over


@pytest.fixture(autouse=True)
def _memory_again(outside: Outside) -> Iterator[None]:
    yield
    outside.redis.config_set("maxmemory", 0)


def launched(executor: RedisKubernetesExecutor, ti_id: str) -> tuple[Any, str]:
    key, launch_id = hand_over(executor, ti_id)
    beat(executor, until=lambda: key in executor.running)
    return key, launch_id


def test_a_full_redis_delays_new_launches_and_no_end(
    executor: RedisKubernetesExecutor, outside: Outside, capsys: pytest.CaptureFixture[str]
) -> None:
    ended, relaunched, taken, waiting = make_task_instances(4)
    key, launch_id = launched(executor, ended)
    outside.create(launch_id)
    replaced, replaced_id = launched(executor, relaunched)
    outside.create(replaced_id, "pod-2")
    launched(executor, taken)
    outside.redis.config_set("maxmemory", 1)
    outside.publish(replaced_id, "failed", pod="pod-2", container_reason="ErrImagePull", phase="Pending")
    outside.publish(launch_id, "succeeded", pod="pod-1")
    update(ended, state="success")
    executor.revoke_task(ti=load(taken))
    workload = workload_of(waiting, executor.jwt_generator)
    with create_session() as session:
        executor.queue_workload(workload, session)
    beat(executor, until=lambda: key in executor.event_buffer)
    for _ in range(5):
        executor.heartbeat()
    assert executor.event_buffer[key][0] == "success"
    assert outside.ledger(launch_id)["state"] == "acknowledged"
    assert "delete pod default/pod-1" in outside.cleanups()
    assert outside.ledger(str(load(taken).external_executor_id))["state"] == "withdrawn"
    assert workload.key in executor.queued_tasks
    assert replaced in executor.running
    assert outside.ledger(replaced_id)["attempt"] == "0"
    assert "pod replaced" not in [row.event for row in executor._task_event_logs]
    assert capsys.readouterr().out.count("Redis is full") == 1, "said once"
    outside.redis.config_set("maxmemory", 0)
    beat(executor, until=lambda: workload.key in executor.running and outside.ledger(replaced_id)["attempt"] == "1")
    assert [row.event for row in executor._task_event_logs].count("pod replaced") == 1


def test_a_next_attempt_that_waits_for_memory_is_kept_once(executor: RedisKubernetesExecutor, outside: Outside) -> None:
    """The stream and each comparison with the ledger bring its report again."""
    _, launch_id = launched(executor, make_task_instances()[0])
    outside.create(launch_id)
    outside.redis.config_set("maxmemory", 1)
    outside.publish(launch_id, "failed", pod="pod-1", phase="Pending")
    for _ in range(5):
        executor.parts.reconciler.schedule_now()
        executor.heartbeat()
    outside.redis.config_set("maxmemory", 0)
    beat(executor, until=lambda: outside.ledger(launch_id)["attempt"] == "1")
    assert [row.event for row in executor._task_event_logs] == ["pod replaced"]


def test_a_next_attempt_that_waits_for_memory_holds_up_no_other_end_where_redis_is_distant(
    executor: RedisKubernetesExecutor, outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    replaced, ended = make_task_instances(2)
    _, replaced_id = launched(executor, replaced)
    key, launch_id = launched(executor, ended)
    for one in (replaced_id, launch_id):
        outside.create(one)
    monkeypatch.setattr("podrelay.scheduling.heartbeat_budget.NEARBY_S", 0.0)
    executor.heartbeat()
    # A comparison with the ledger would find the end too, but later.
    monkeypatch.setattr(executor.parts.reconciler, "_next_round_s", time.monotonic() + 60.0)
    executor.launches._round.clear()
    outside.redis.config_set("maxmemory", 1)
    outside.publish(replaced_id, "failed", pod="pod-1", phase="Pending")
    executor.heartbeat()
    update(ended, state="success")
    outside.publish(launch_id, "succeeded", pod="pod-1")
    beat(executor, until=lambda: key in executor.event_buffer, most_s=2.0)


def test_launches_that_redis_lost_wait_for_memory(executor: RedisKubernetesExecutor, outside: Outside) -> None:
    _, launch_id = launched(executor, make_task_instances()[0])
    outside.redis.flushall()
    outside.redis.config_set("maxmemory", 1)
    for _ in range(3):
        executor.parts.reconciler.schedule_now()
        executor.heartbeat()
    assert outside.ledger(launch_id) == {}
    outside.redis.config_set("maxmemory", 0)
    beat(executor, until=lambda: outside.ledger(launch_id).get("state") == "offered")
