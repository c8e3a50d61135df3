"""What the executor does after a loss: Redis without its data or out of reach, lost entries, events and schedulers."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable

import pytest
from airflow.utils.session import create_session

from podrelay.executor import RedisKubernetesExecutor
from podrelay.protocol import identifiers, redis_keys
from tests.harness.redis_server import RedisServer
from tests.harness.task_instances import OWNER, load, make_task_instances, update, workload_of
from tests.integration.scheduling.conftest import Outside, beat
from tests.integration.scheduling.test_executor import FAILED, hand_over


def test_redis_away_keeps_the_work_and_bounds_the_heartbeat(
    executor: RedisKubernetesExecutor, redis_server: RedisServer, outside: Outside
) -> None:
    workload = workload_of(make_task_instances()[0])
    with create_session() as session:
        executor.queue_workload(workload, session)
    redis_server.pause()
    try:
        begun = time.monotonic()
        executor.heartbeat()
        assert time.monotonic() - begun < 1.5
        assert workload.key in executor.queued_tasks
        assert workload.key not in executor.running
        begun = time.monotonic()
        executor.heartbeat()
        assert time.monotonic() - begun < 0.2, "the second heartbeat does not wait for Redis"
    finally:
        redis_server.resume()
    beat(executor, until=lambda: workload.key in executor.running)
    assert len(outside.queued()) == 1
    assert executor.event_buffer == {}


def test_after_flushall_launches_are_handed_over_again(executor: RedisKubernetesExecutor, outside: Outside) -> None:
    ti_id = make_task_instances()[0]
    key, launch_id = hand_over(executor, ti_id)
    beat(executor)
    outside.redis.flushall()
    beat(executor, until=lambda: outside.queued())
    assert outside.queued() == [identifiers.job_id(launch_id, 0)]
    assert key in executor.running


def test_after_flushall_a_launch_whose_pod_may_lack_its_secret_is_handed_over_again(
    executor: RedisKubernetesExecutor, outside: Outside
) -> None:
    """The watcher has restored its entry from the pod before the executor looked."""
    key, launch_id = hand_over(executor, make_task_instances()[0])
    outside.create(launch_id)
    entry = {**outside.ledger(launch_id), "state": "claimed"}
    outside.redis.flushall()
    outside.redis.hset(outside.names.launch(launch_id), mapping=entry)
    beat(executor, until=outside.queued)
    assert outside.queued() == [identifiers.job_id(launch_id, 0)]
    assert key in executor.running


def test_after_flushall_a_running_task_is_left_alone(executor: RedisKubernetesExecutor, outside: Outside) -> None:
    ti_id = make_task_instances()[0]
    key, _ = hand_over(executor, ti_id)
    update(ti_id, state="running")
    outside.redis.flushall()
    for _ in range(20):
        executor.heartbeat()
        time.sleep(0.03)
    assert outside.queued() == []
    assert key in executor.running


def test_a_deleted_job_is_handed_over_again(executor: RedisKubernetesExecutor, outside: Outside) -> None:
    ti_id = make_task_instances()[0]
    _, launch_id = hand_over(executor, ti_id)
    outside.redis.delete(
        redis_keys.rq_queue(outside.names.launch_queue("default")), redis_keys.RQ_JOB_PREFIX + f"{launch_id}_0"
    )
    beat(executor, until=outside.queued)


def test_a_lost_stream_entry_is_found_in_the_ledger(executor: RedisKubernetesExecutor, outside: Outside) -> None:
    ti_id = make_task_instances()[0]
    key, launch_id = hand_over(executor, ti_id)
    outside.create(launch_id)
    update(ti_id, state="success")
    outside.publish(launch_id, pod="pod-1")
    outside.redis.delete(outside.names.results)
    beat(executor, until=lambda: key in executor.event_buffer)
    assert executor.running == set()


def test_revoking_never_raises_and_is_caught_up(
    executor: RedisKubernetesExecutor, redis_server: RedisServer, outside: Outside
) -> None:
    ti_id = make_task_instances()[0]
    _, launch_id = hand_over(executor, ti_id)
    redis_server.pause()
    try:
        executor.revoke_task(ti=load(ti_id))
    finally:
        redis_server.resume()
    beat(executor, until=lambda: outside.ledger(launch_id)["state"] == "withdrawn")


def test_a_dead_schedulers_launches_are_adopted(
    start_executor: Callable[..., RedisKubernetesExecutor], outside: Outside
) -> None:
    waiting, ended, never, stock = make_task_instances(4)
    first = start_executor()
    waiting_key, _ = hand_over(first, waiting)
    ended_key, ended_launch = hand_over(first, ended)
    outside.create(ended_launch)
    update(ended, state="running")
    outside.publish(ended_launch, "failed", pod="pod-1", reason="Evicted")
    update(stock, external_executor_id="17")  # queued by the stock executor: a job id, not a launch id
    second = start_executor(OWNER + 1)
    tis = [load(ti_id) for ti_id in (waiting, ended, never, stock)]
    refused = second.try_adopt_task_instances(tis)
    assert [ti.task_id for ti in refused] == ["task_3"]
    for ti_id in (waiting, ended, never):
        update(ti_id, queued_by_job_id=OWNER + 1)
    beat(second, until=lambda: ended_key in second.event_buffer)
    assert second.event_buffer[ended_key][0] == FAILED
    assert waiting_key in second.running
    beat(second, until=lambda: len(outside.queued()) == 2)
    never_launch = str(load(never).external_executor_id)
    assert outside.queued()[-1] == identifiers.job_id(never_launch, 0), (
        "handed over for the first time, from the database"
    )


def test_adoption_while_redis_is_away_resets_nothing(
    start_executor: Callable[..., RedisKubernetesExecutor], redis_server: RedisServer
) -> None:
    ti_id = make_task_instances(state="running")[0]
    executor = start_executor()
    redis_server.pause()
    try:
        assert executor.try_adopt_task_instances([load(ti_id)]) == []
    finally:
        redis_server.resume()


def test_a_lost_event_is_reported_again(executor: RedisKubernetesExecutor, outside: Outside) -> None:
    ti_id = make_task_instances()[0]
    key, launch_id = hand_over(executor, ti_id)
    outside.create(launch_id)
    update(ti_id, state="running")
    outside.publish(launch_id, "failed", pod="pod-1", reason="Evicted")
    executor.heartbeat()
    assert executor.get_event_buffer()[key][0] == FAILED  # which the scheduler could not apply: the row was locked
    beat(executor, until=lambda: key in executor.event_buffer)
    update(ti_id, state="failed")
    time.sleep(0.3)
    executor.get_event_buffer()
    for _ in range(15):
        executor.heartbeat()
        time.sleep(0.05)
    assert executor.event_buffer == {}


def test_pods_of_dead_schedulers_are_cleaned_up(
    start_executor: Callable[..., RedisKubernetesExecutor], outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("podrelay.scheduling.orphans.ABANDONED_AFTER_S", 0.2)
    first = start_executor()
    ti_id = make_task_instances()[0]
    _, launch_id = hand_over(first, ti_id)
    outside.create(launch_id)
    update(ti_id, state="success")
    outside.publish(launch_id, pod="pod-1")
    second = start_executor(OWNER + 1)
    beat(second, until=outside.cleanups)
    assert outside.cleanups() == ["delete pod default/pod-1"]
    assert outside.redis.zcard(outside.names.unacknowledged) == 0


def test_a_finished_pod_that_redis_has_forgotten_is_cleaned_up(
    start_executor: Callable[..., RedisKubernetesExecutor], outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis lost its data, and a scheduler died: pods that the watcher's list restores for it are orphans, others not."""
    monkeypatch.setattr("podrelay.scheduling.orphans.ABANDONED_AFTER_S", 0.2)
    alive = start_executor()
    ti_id = make_task_instances()[0]
    _, awaited = hand_over(alive, ti_id)
    outside.redis.flushall()
    nobodys = str(uuid.uuid4())
    for launch_id, owner, pod in ((nobodys, OWNER + 7, "pod-1"), (awaited, OWNER, "pod-2")):
        # What `restore` and `publish` write after a list that shows a finished pod.
        entry = {"state": "created", "attempt": 0, "owner": owner, "cluster": "default", "subject": f"s-{launch_id}"}
        outside.redis.hset(outside.names.launch(launch_id), mapping=entry)
        outside.publish(launch_id, pod=pod)
    beat(alive, until=outside.cleanups)
    for _ in range(10):
        time.sleep(0.05)
        alive.heartbeat()
    # The expected one is cleaned up because its result was processed, never as an orphan.
    assert sorted(outside.cleanups()) == ["delete pod default/pod-1", "delete pod default/pod-2"]
    assert alive.launches.get(awaited) is None
    assert outside.redis.zcard(outside.names.unacknowledged) == 0
