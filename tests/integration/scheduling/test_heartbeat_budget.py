"""A heartbeat is short whatever there is to do: each part does one batch, and the rest keeps its place for the next one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from podrelay.errors import RedisUnavailable
from podrelay.executor import RedisKubernetesExecutor
from podrelay.scheduling import heartbeat_budget, results
from tests.benchmarks.slow_link import SlowLink
from tests.harness.task_instances import load, make_task_instances, update, workload_of
from tests.integration.scheduling.conftest import Outside, beat


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch, start_executor: Callable[..., Any]) -> RedisKubernetesExecutor:
    """An executor whose time slices are over at once: each part does one batch in a heartbeat."""
    for name in ("HAND_OVER_S", "HAND_OVER_MOST_S", "HAND_OVER_ALONE_S", "RESULTS_S", "COMPARISON_S"):
        monkeypatch.setattr(heartbeat_budget, name, 0.0)
    # On a busy machine Redis may seem far away, and then some heartbeats belong to results alone.
    monkeypatch.setattr(heartbeat_budget, "NEARBY_S", float("inf"))
    monkeypatch.setattr(heartbeat_budget, "RESULT_BATCH", 2)
    monkeypatch.setattr(heartbeat_budget, "COMPARISON_BATCH", 2)
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


def test_the_hand_over_has_the_time_that_results_did_not_need(
    hurried: RedisKubernetesExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    _queue(hurried, make_task_instances(3))
    hurried.heartbeat()
    assert len(hurried.running) == 1
    monkeypatch.setattr(heartbeat_budget, "HAND_OVER_MOST_S", 60.0)
    hurried.parts.dispatcher.results_s = 60.0  # as of a heartbeat with many results
    hurried.heartbeat()
    assert len(hurried.running) == 2
    assert hurried.parts.dispatcher.results_s < 60.0
    _queue(hurried, make_task_instances(5))
    hurried.heartbeat()
    assert len(hurried.running) == 8


def test_the_first_launches_have_the_time_of_the_comparison(
    hurried: RedisKubernetesExecutor, outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which follows in the next heartbeat."""
    monkeypatch.setattr(heartbeat_budget, "HAND_OVER_ALONE_S", 60.0)
    _queue(hurried, make_task_instances(3))
    hurried.parts.reconciler._next_round_s = 0.0
    hurried.heartbeat()
    assert len(hurried.running) == 3
    assert hurried.parts.reconciler._next_round_s == 0.0
    _queue(hurried, make_task_instances(3))
    hurried.heartbeat()
    assert len(hurried.running) == 4
    assert hurried.parts.reconciler._next_round_s > 0.0


def test_a_hand_over_without_launches_keeps_no_comparison_from_running(hurried: RedisKubernetesExecutor) -> None:
    """A comparison also frees slots that have no launch."""
    _queue(hurried, make_task_instances(1, executor_config={"pod_override": "no pod"}))
    hurried.parts.reconciler._next_round_s = 0.0
    hurried.heartbeat()
    assert not hurried.launches
    assert hurried.parts.reconciler._next_round_s > 0.0


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
    hurried.parts.reconciler._next_round_s = float("inf")  # reports arrive by the stream only
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
    hurried.parts.reconciler.schedule_now()
    hurried.heartbeat()
    assert len(outside.queued()) == 2
    beat(hurried, lambda: len(outside.queued()) == 5)


def test_a_burst_is_processed_in_batches_as_large_as_fit(
    executor: RedisKubernetesExecutor, outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat_budget, "RESULTS_S", 10.0)
    monkeypatch.setattr(heartbeat_budget, "NEARBY_S", float("inf"))
    executor.parallelism = 400
    ti_ids = make_task_instances(300)
    made = _queue(executor, ti_ids)
    beat(executor, lambda: len(executor.running) == 300)
    executor.parts.reconciler._next_round_s = executor.parts.key_check._next_run_s = float("inf")
    beat(executor, lambda: executor.launches.round_is_over)
    for ti_id, workload in zip(ti_ids, made, strict=True):
        update(ti_id, state="success")
        outside.publish(workload.ti.external_executor_id, pod="pod")
    trips = executor._breaker.trips
    executor.heartbeat()
    assert not executor.running
    # One to read, two to acknowledge: a small batch, to see what one costs, and the rest.
    assert executor._breaker.trips - trips <= 4


@pytest.fixture
def link(redis_url: str) -> Iterator[SlowLink]:
    """A link with a latency that allows one round trip in a heartbeat, far below the timeout."""
    with SlowLink(int(redis_url.rsplit(":", 1)[1].split("/")[0]), 0.03) as link:
        yield link


def _everything_to_do(executor: RedisKubernetesExecutor, outside: Outside) -> tuple[list[Any], list[str], list[Any]]:
    """Launches that succeeded, that failed, that Redis lost, that were revoked while they had a pod; ends that no scheduler
    expects; and queued workloads.
    """
    ti_ids = make_task_instances(8)
    made = _queue(executor, ti_ids)
    beat(executor, lambda: len(executor.running) == 8)
    launch_ids = [workload.ti.external_executor_id for workload in made]
    for ti_id, launch_id in zip(ti_ids[:4], launch_ids[:4], strict=True):
        outside.create(launch_id)
        if ti_id in ti_ids[:2]:
            update(ti_id, state="success")
            outside.publish(launch_id, pod="pod-1")
        else:
            outside.publish(launch_id, "failed", pod="pod-1", reason="Evicted", phase="Pending")
    for launch_id in launch_ids[4:6]:
        outside.redis.delete(outside.names.launch(launch_id))
    for ti_id, launch_id in zip(ti_ids[6:], launch_ids[6:], strict=True):
        outside.create(launch_id)
        executor.revoke_task(ti=load(ti_id))
    for number in range(3):
        outside.redis.zadd(outside.names.unacknowledged, {f"00000000-0000-4000-8000-00000000000{number}": 1.0})
    waiting = _queue(executor, make_task_instances(3))
    executor.parts.reconciler.schedule_now()
    return waiting, launch_ids, made


def test_with_everything_to_do_and_a_slow_redis_a_heartbeat_makes_few_round_trips_and_all_gets_done(
    start_executor: Callable[..., Any], outside: Outside, link: SlowLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__PODRELAY__REDIS_URL", f"redis://127.0.0.1:{link.port}/0")
    executor: RedisKubernetesExecutor = start_executor()
    beat(executor, lambda: executor.launches.round_is_over)  # Redis knows the scripts
    waiting, launch_ids, made = _everything_to_do(executor, outside)
    ended, failed, forgotten, revoked = made[:2], launch_ids[2:4], launch_ids[4:6], launch_ids[6:]

    def all_done() -> bool:
        return (
            all(workload.key in executor.running for workload in waiting)
            and not any(workload.key in executor.running for workload in ended)
            and all(outside.ledger(launch_id).get("attempt") == "1" for launch_id in failed)
            and all(outside.ledger(launch_id).get("state") == "offered" for launch_id in forgotten)
            and len(outside.cleanups()) == len(ended + failed + revoked)
            and not outside.redis.zcount(outside.names.unacknowledged, 0, 10)
        )

    trips, end_s = [], time.monotonic() + 8.0
    while not all_done():
        assert time.monotonic() < end_s, "not done in time"
        before = link.round_trips
        executor.heartbeat()
        trips.append(link.round_trips - before)
    assert max(trips) <= 2, trips


def test_an_idle_heartbeat_makes_one_round_trip(
    start_executor: Callable[..., Any], outside: Outside, link: SlowLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__PODRELAY__REDIS_URL", f"redis://127.0.0.1:{link.port}/0")
    executor: RedisKubernetesExecutor = start_executor()
    _queue(executor, make_task_instances(3))
    beat(executor, lambda: len(executor.running) == 3)
    reconciler, parts = executor.parts.reconciler, executor.parts
    reconciler._next_round_s = parts.key_check._next_run_s = reconciler._orphans._next_run_s = float("inf")
    beat(executor, lambda: executor.launches.round_is_over)
    beat(executor)
    for _ in range(10):
        before = link.round_trips
        executor.heartbeat()
        assert link.round_trips - before == 1


def test_a_heartbeat_without_launches_makes_no_round_trip(
    executor: RedisKubernetesExecutor, outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reads the stream now and then, so that others' reports do not delay those about its next launch."""
    reconciler, parts = executor.parts.reconciler, executor.parts
    reconciler._next_round_s = parts.key_check._next_run_s = reconciler._orphans._next_run_s = float("inf")
    beat(executor, lambda: executor.launches.round_is_over)
    monkeypatch.setattr(results, "PASS_OVER_EVERY_S", float("inf"))
    before = executor._breaker.trips
    for _ in range(10):
        executor.heartbeat()
    assert executor._breaker.trips == before
    monkeypatch.setattr(results, "PASS_OVER_EVERY_S", 0.0)
    outside.redis.xadd(outside.names.results, {"launch": "of another", "result": "cannot be decrypted"})
    executor.heartbeat()
    assert executor.parts.results._results.passed_over == 1
    monkeypatch.setattr(results, "PASS_OVER_EVERY_S", float("inf"))
    (ti_id,) = make_task_instances(1)
    (workload,) = _queue(executor, [ti_id])
    beat(executor, lambda: workload.key in executor.running)
    update(ti_id, state="success")
    outside.publish(str(workload.ti.external_executor_id), pod="pod")
    beat(executor, lambda: workload.key in executor.event_buffer)


def test_a_heartbeat_without_launches_goes_on_where_the_last_one_had_no_time(
    executor: RedisKubernetesExecutor, outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a stream that grows faster than that would delay reports about the next launch."""
    beat(executor, lambda: executor.launches.round_is_over)
    monkeypatch.setattr(results, "PASS_OVER_EVERY_S", 1e9)
    monkeypatch.setattr(heartbeat_budget, "RESULTS_S", 0.0)
    stream = executor.parts.results._results
    stream.read_s = float("-inf")
    for _ in range(501):
        outside.redis.xadd(outside.names.results, {"launch": "of another", "result": "cannot be decrypted"})
    for _ in range(5):
        executor.heartbeat()
    assert stream.passed_over == 501


def test_an_outage_is_over_when_redis_has_answered(
    executor: RedisKubernetesExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not when a heartbeat without launches has made no call."""
    monkeypatch.setattr("podrelay.store.circuit_breaker.FIRST_PAUSE_S", 0.0)
    reconciler, parts = executor.parts.reconciler, executor.parts
    reconciler._next_round_s = parts.key_check._next_run_s = reconciler._orphans._next_run_s = float("inf")
    beat(executor, lambda: executor.launches.round_is_over)
    executor._outages.failed(executor._breaker._open(RedisUnavailable("lost")))
    monkeypatch.setattr(results, "PASS_OVER_EVERY_S", float("inf"))
    executor.heartbeat()
    assert executor._outages._causes
    monkeypatch.setattr(results, "PASS_OVER_EVERY_S", 0.0)
    executor.heartbeat()
    assert not executor._outages._causes


def test_with_a_slow_redis_every_result_is_processed(
    start_executor: Callable[..., Any], outside: Outside, link: SlowLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__PODRELAY__REDIS_URL", f"redis://127.0.0.1:{link.port}/0")
    executor: RedisKubernetesExecutor = start_executor()
    ti_ids = make_task_instances(3)
    made = _queue(executor, ti_ids)
    beat(executor, lambda: len(executor.running) == 3)
    for left, (ti_id, workload) in zip((2, 1, 0), zip(ti_ids, made, strict=True), strict=True):
        update(ti_id, state="success")
        launch_id = str(workload.ti.external_executor_id)
        outside.create(launch_id)
        outside.publish(launch_id, pod="pod")
        beat(executor, lambda left=left: len(executor.running) == left)  # type: ignore[misc]


def test_called_outside_of_a_heartbeat_each_call_is_one_of_its_own(
    start_executor: Callable[..., Any], outside: Outside, link: SlowLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__PODRELAY__REDIS_URL", f"redis://127.0.0.1:{link.port}/0")
    executor: RedisKubernetesExecutor = start_executor()
    executor.heartbeat()
    (ti_id,) = make_task_instances(1)
    workload = workload_of(ti_id, executor.jwt_generator)
    launch_id = str(workload.ti.external_executor_id)
    time.sleep(heartbeat_budget.HEARTBEAT_LIMIT_S)
    executor.execute_async(workload.key, [workload])
    update(ti_id, state="success")
    outside.create(launch_id)
    outside.publish(launch_id, pod="pod")
    end_s = time.monotonic() + 8.0
    while workload.key in executor.running:
        assert time.monotonic() < end_s, "not done in time"
        executor.sync()
        time.sleep(heartbeat_budget.HEARTBEAT_LIMIT_S)
