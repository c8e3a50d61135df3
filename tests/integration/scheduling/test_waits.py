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

from podrelay.errors import RedisRefused, RedisUnavailable
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


def stop() -> None:
    raise LookupError


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


class Lookups:
    """The queries that show what is queued: one for each script. `second` runs before the second one."""

    def __init__(self, executor: RedisKubernetesExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
        self.second: Callable[[], None] = lambda: None
        self._executor = executor
        self._count = 0
        executor.parallelism = 1000
        monkeypatch.setattr(heartbeat_budget, "HAND_OVER_S", 10.0)
        for name in ("HAND_OVER_BATCH", "HAND_OVER_BATCH_MOST"):
            monkeypatch.setattr(heartbeat_budget, name, _CHUNK)
        with create_session() as session:
            engine = session.get_bind()
        event.listen(engine, "before_cursor_execute", self._look)
        self.stop = lambda: event.remove(engine, "before_cursor_execute", self._look)

    def queue(self, count: int) -> None:
        for workload in workloads_of(make_task_instances(count, queued_by_job_id=OWNER), self._executor.jwt_generator):
            self._executor.queue_workload(workload, None)  # type: ignore[arg-type]
        self._count = 0

    def _look(self, connection: Any, cursor: Any, statement: str, *rest: object) -> None:
        self._count += 1
        if self._count == 2:
            self.second()


@pytest.fixture
def lookups(executor: RedisKubernetesExecutor, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lookups]:
    found = Lookups(executor, monkeypatch)
    yield found
    found.stop()


@pytest.fixture
def queue(executor: RedisKubernetesExecutor) -> LaunchQueue:
    return executor.parts.dispatcher._queue


@pytest.fixture
def wakes(outside: Outside) -> Iterator[Callable[[], int]]:
    """How often the launchers were woken since the last call."""
    with outside.redis.pubsub(ignore_subscribe_messages=True) as channel:
        channel.subscribe(outside.names.wake("default"))
        channel.get_message(timeout=5.0)

        def count() -> int:
            outside.redis.ping()  # all that was published before has been sent to us
            found = 0
            while channel.get_message(timeout=0.2) is not None:
                found += 1
            return found

        yield count


def test_redis_has_the_first_launches_while_the_others_are_made(queue: LaunchQueue, outside: Outside) -> None:
    def await_first() -> None:
        while len(outside.queued()) < _CHUNK:
            time.sleep(0.01)

    made = Made()
    assert queue.offer(made.each(await_first)) == ["offered"] * len(made.requests)
    assert outside.queued() == [job_id(request.launch_id, 0) for request in made.requests]


@pytest.mark.parametrize("count", [1, _CHUNK - 1, _CHUNK, _CHUNK + 1, 2 * _CHUNK])
def test_the_launchers_are_woken_once_when_all_are_offered(
    queue: LaunchQueue, outside: Outside, wakes: Callable[[], int], count: int
) -> None:
    """Earlier, they would take the processor from what makes the others."""
    seen = []
    made = Made(count)
    assert len(queue.offer(made.each(lambda: seen.append(wakes())))) == count
    assert seen == [0] * (count > _CHUNK)
    assert wakes() == 1


def test_what_was_sent_before_a_failure_wakes_the_launchers_when_it_is_offered_again(
    queue: LaunchQueue, wakes: Callable[[], int]
) -> None:
    made = Made()
    with pytest.raises(LookupError):
        queue.offer(made.each(stop))
    assert wakes() == 0
    made.requests = made.requests[:_CHUNK]
    assert set(queue.offer(made.each(lambda: None))) == {"known"}
    assert wakes() == 1


@pytest.fixture
def refuse(outside: Outside) -> Iterator[Callable[[], None]]:
    """Redis takes nothing more."""

    def fill() -> None:
        while len(outside.queued()) < _CHUNK:
            time.sleep(0.01)
        outside.redis.config_set("maxmemory", "1")

    yield fill
    outside.redis.config_set("maxmemory", "0")


def test_what_redis_has_taken_before_it_refuses_the_rest_is_known_and_wakes_the_launchers(
    queue: LaunchQueue, outside: Outside, refuse: Callable[[], None], wakes: Callable[[], int]
) -> None:
    made = Made(_CHUNK + 3)
    assert queue.offer_as_made(made.each(refuse)) == ["offered"] * _CHUNK + ["refused"] * 3
    assert not queue._in_doubt
    assert wakes() == 1
    made.requests = made.requests[_CHUNK:]
    with pytest.raises(RedisRefused):
        queue.offer_as_made(made.each(lambda: None))
    outside.redis.config_set("maxmemory", "0")
    assert queue.offer_as_made(made.each(lambda: None)) == ["offered"] * 3


def test_an_offer_that_redis_refused_in_part_is_offered_as_repeated(
    queue: LaunchQueue, refuse: Callable[[], None]
) -> None:
    """A pod may exist soon of those that Redis has taken, and nobody is to forget that if it loses them."""
    made = Made()
    with pytest.raises(RedisRefused):
        queue.offer(made.each(refuse))
    assert list(queue._in_doubt) == [job_id(request.launch_id, 0) for request in made.requests[:_CHUNK]]


def test_what_redis_has_taken_is_registered_while_it_refuses_the_rest(
    executor: RedisKubernetesExecutor, outside: Outside, refuse: Callable[[], None], lookups: Lookups
) -> None:
    lookups.queue(_CHUNK + 4)
    lookups.second = refuse
    for _ in range(3):
        executor.heartbeat()
        assert len(executor.running) == len(outside.queued()) == _CHUNK
    assert len(executor.queued_tasks) == 4
    outside.redis.config_set("maxmemory", "0")
    beat(executor, until=lambda: not executor.queued_tasks)
    assert len(executor.running) == len(outside.queued()) == _CHUNK + 4


@pytest.mark.parametrize("failure", [OperationalError("select", {}, Exception("away")), LookupError("a fault")])
def test_what_was_offered_before_a_lookup_fails_is_registered(
    executor: RedisKubernetesExecutor,
    outside: Outside,
    lookups: Lookups,
    failure: Exception,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail() -> None:
        raise failure

    lookups.queue(_CHUNK + 4)
    lookups.second = fail
    executor.heartbeat()
    assert len(executor.running) == len(outside.queued()) == _CHUNK
    assert len(executor.queued_tasks) == 4
    assert "will retry with the next" in capsys.readouterr().out
    beat(executor, until=lambda: not executor.queued_tasks)


def test_one_that_cannot_be_made_leaves_nothing_on_its_way(
    executor: RedisKubernetesExecutor, queue: LaunchQueue, outside: Outside
) -> None:
    """Those that were sent may have a pod soon: they are offered again as such."""
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
