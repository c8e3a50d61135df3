"""A heartbeat does not wait for what Redis can do meanwhile: it asks for results first, and then hands over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from podrelay.errors import RedisUnavailable
from podrelay.executor import RedisKubernetesExecutor
from podrelay.scheduling import heartbeat_budget
from podrelay.store.result_stream import ResultStream
from tests.harness.task_instances import make_task_instances, update
from tests.integration.scheduling.conftest import Outside, beat
from tests.integration.scheduling.test_executor import hand_over


def in_use(executor: RedisKubernetesExecutor) -> int:
    return len(executor._breaker._client.connection_pool._in_use_connections)


@pytest.fixture
def ended(
    executor: RedisKubernetesExecutor, outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], tuple[Any, str]]:
    """Ends a task of an executor for which Redis is near, on any machine: its key and launch id."""
    monkeypatch.setattr(heartbeat_budget, "NEARBY_S", float("inf"))
    monkeypatch.setattr("podrelay.store.circuit_breaker.FIRST_PAUSE_S", 0.05)
    executor.parts.reconciler._next_round_s = executor.parts.key_check._next_run_s = float("inf")

    def end() -> tuple[Any, str]:
        ti_id = make_task_instances()[0]
        key, launch_id = hand_over(executor, ti_id)
        beat(executor, until=lambda: executor.launches.round_is_over)
        outside.create(launch_id)
        update(ti_id, state="success")
        outside.publish(launch_id, pod="pod")
        return key, launch_id

    return end


@pytest.fixture
def stream(executor: RedisKubernetesExecutor) -> ResultStream:
    return executor.parts.results._results


def test_results_are_asked_for_before_the_hand_over(
    executor: RedisKubernetesExecutor, ended: Callable[[], tuple[Any, str]], outside: Outside
) -> None:
    late = make_task_instances()[0]
    late_key, late_id = hand_over(executor, late)
    key, _ = ended()
    update(late, state="success")
    read = outside.commands()["cmdstat_evalsha"]
    executor.parts.results.request_next()
    while outside.commands()["cmdstat_evalsha"] == read:
        pass
    outside.publish(late_id, pod="pod")
    executor.sync()
    assert key in executor.event_buffer and late_key not in executor.event_buffer
    executor.heartbeat()
    assert late_key in executor.event_buffer


@pytest.mark.parametrize("step", ["sync", "heartbeat"])
def test_a_request_whose_reply_is_lost_leaves_the_position_as_it_was(
    executor: RedisKubernetesExecutor,
    stream: ResultStream,
    ended: Callable[[], tuple[Any, str]],
    outside: Outside,
    step: str,
) -> None:
    key, _ = ended()
    cursor = stream.cursor
    outside.redis.client_pause(200)
    executor.parts.results.request_next()
    assert stream._requested is not None
    stream._requested.connection._sock.shutdown(2)
    getattr(executor, step)()
    assert not executor._breaker.available and stream.cursor == cursor
    assert not in_use(executor)
    beat(executor, until=lambda: key in executor.event_buffer)


def test_a_heartbeat_that_stops_early_leaves_nothing_on_its_way(
    executor: RedisKubernetesExecutor, stream: ResultStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat_budget, "NEARBY_S", float("inf"))

    def stop(*_: object) -> None:
        raise LookupError

    monkeypatch.setattr(executor, "trigger_tasks", stop)
    beat_of = executor.heartbeat
    with pytest.raises(LookupError):
        beat_of()
    assert stream._requested is None
    assert not in_use(executor)


def test_a_breaker_that_opens_meanwhile_leaves_nothing_on_its_way(
    executor: RedisKubernetesExecutor,
    stream: ResultStream,
    ended: Callable[[], tuple[Any, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    key, _ = ended()
    monkeypatch.setattr(executor, "trigger_tasks", lambda _: executor._breaker._open(RedisUnavailable("lost")))
    executor.heartbeat()
    assert stream._requested is None and key not in executor.event_buffer
    assert not in_use(executor)
    monkeypatch.undo()
    beat(executor, until=lambda: key in executor.event_buffer)


def test_a_stream_that_is_read_from_its_beginning_again_forgets_the_request(
    executor: RedisKubernetesExecutor, stream: ResultStream, ended: Callable[[], tuple[Any, str]], outside: Outside
) -> None:
    """The reply would set the position to one of the stream that was lost."""
    key, launch_id = ended()
    executor.parts.results.request_next()
    stream.rewind()
    assert stream._requested is None and not in_use(executor)
    executor.heartbeat()
    assert key in executor.event_buffer


def test_scripts_that_redis_loses_meanwhile_cost_no_result(
    executor: RedisKubernetesExecutor,
    stream: ResultStream,
    ended: Callable[[], tuple[Any, str]],
    outside: Outside,
) -> None:
    key, _ = ended()
    outside.redis.script_flush()
    executor.heartbeat()
    assert key in executor.event_buffer
    assert executor._breaker.available


def test_a_distant_redis_is_not_asked_first(
    executor: RedisKubernetesExecutor, stream: ResultStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat_budget, "NEARBY_S", 0.0)
    executor.parts.results.request_next()
    assert stream._requested is None
