"""A heartbeat does not wait for what Redis can do meanwhile: it asks for results first, and offers launches while it makes
others.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from airflow.utils.session import create_session
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from podrelay.errors import RedisUnavailable
from podrelay.executor import RedisKubernetesExecutor
from podrelay.protocol.identifiers import job_id
from podrelay.protocol.messages import LaunchRequest
from podrelay.scheduling import heartbeat_budget
from podrelay.store.launch_queue import _CHUNK, LaunchQueue
from podrelay.store.result_stream import ResultStream
from tests.harness.task_instances import OWNER, make_task_instances, update, workloads_of
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


class Made:
    """Requests of launches as they are made one by one: more than fit into one script."""

    def __init__(self, count: int = 2 * _CHUNK) -> None:
        self.requests = [
            LaunchRequest(str(uuid.uuid4()), 0, "task", str(uuid.uuid4()), (), "1", ("run",)) for _ in range(count)
        ]

    def each(self, before_second: Callable[[], None]) -> Iterator[tuple[LaunchRequest, int]]:
        """:param before_second: called before the first one that belongs to the second script."""
        for number, request in enumerate(self.requests):
            if number == _CHUNK:
                before_second()
            yield request, 0


@pytest.fixture
def queue(executor: RedisKubernetesExecutor) -> LaunchQueue:
    return executor.parts.dispatcher._queue


def test_redis_has_the_first_launches_while_the_others_are_made(queue: LaunchQueue, outside: Outside) -> None:
    def await_first() -> None:
        while len(outside.queued()) < _CHUNK:
            time.sleep(0.01)

    made = Made()
    assert queue.offer(made.each(await_first)) == ["offered"] * len(made.requests)
    assert outside.queued() == [job_id(request.launch_id, 0) for request in made.requests]


def test_one_that_cannot_be_made_leaves_nothing_on_its_way(
    executor: RedisKubernetesExecutor, queue: LaunchQueue, outside: Outside
) -> None:
    """Those that were sent may have a pod soon: they are offered again as such."""

    def stop() -> None:
        raise LookupError

    made = Made()
    with pytest.raises(LookupError):
        queue.offer(made.each(stop))
    assert not in_use(executor)
    assert list(queue._in_doubt) == [job_id(request.launch_id, 0) for request in made.requests[:_CHUNK]]
    answers = queue.offer(made.each(lambda: None))
    assert set(answers[_CHUNK:]) == {"offered"} and not queue._in_doubt


def test_a_connection_that_breaks_between_two_offers_is_given_back_once(
    executor: RedisKubernetesExecutor, queue: LaunchQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pool of redis-py 5 would lend one that it got twice to two users at once."""
    pool: Any = executor._breaker._client.connection_pool
    given_back: list[Any] = []
    release = pool.release

    def note(connection: Any) -> None:
        given_back.append(connection)
        release(connection)

    monkeypatch.setattr(pool, "release", note)

    def cut() -> None:
        (connection,) = pool._in_use_connections
        connection._sock.shutdown(2)

    with pytest.raises(RedisUnavailable):
        queue.offer(Made().each(cut))
    assert not in_use(executor)
    assert len(given_back) == len(set(given_back)) == 1


def test_the_health_of_a_connection_is_not_checked_between_two_offers(
    executor: RedisKubernetesExecutor, queue: LaunchQueue
) -> None:
    """redis-py would take the reply to the first one for that to its own question."""

    def become_due() -> None:
        (connection,) = executor._breaker._client.connection_pool._in_use_connections
        connection.next_health_check = 0.0

    made = Made()
    assert queue.offer(made.each(become_due)) == ["offered"] * len(made.requests)


def test_scripts_that_redis_loses_between_two_offers_double_none(queue: LaunchQueue, outside: Outside) -> None:
    made = Made()
    answers = queue.offer(made.each(lambda: outside.redis.script_flush()))
    assert set(answers) <= {"offered", "known"}
    assert sorted(outside.queued()) == sorted(job_id(request.launch_id, 0) for request in made.requests)


def test_a_database_that_fails_at_the_second_lookup_costs_no_launch_its_place(
    executor: RedisKubernetesExecutor, outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis may have those of the first lookup: they are registered."""
    monkeypatch.setattr(heartbeat_budget, "HAND_OVER_S", 10.0)
    monkeypatch.setattr(heartbeat_budget, "HAND_OVER_BATCH", 2)
    monkeypatch.setattr(heartbeat_budget, "HAND_OVER_BATCH_MOST", 2)
    workloads = workloads_of(make_task_instances(4, queued_by_job_id=OWNER), executor.jwt_generator)
    for workload in workloads:
        executor.queue_workload(workload, None)  # type: ignore[arg-type]
    with create_session() as session:
        engine = session.get_bind()
    lookups = []

    def fail(connection: Any, cursor: Any, statement: str, *rest: object) -> None:
        lookups.append(statement)
        if len(lookups) > 1:
            raise OperationalError(statement, {}, Exception("away"))

    event.listen(engine, "before_cursor_execute", fail)
    try:
        executor.heartbeat()
    finally:
        event.remove(engine, "before_cursor_execute", fail)
    assert len(lookups) > 1
    assert len(executor.running) == len(executor.queued_tasks) == len(outside.queued()) == 2
    beat(executor, until=lambda: len(executor.running) == 4)
    assert len(outside.queued()) == 4
