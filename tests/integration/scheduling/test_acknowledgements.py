"""Acknowledgements are sent without waiting for Redis; the next heartbeat sees to it that Redis has run them."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from podrelay.errors import RedisRefused, RedisUnavailable
from podrelay.executor import RedisKubernetesExecutor
from podrelay.protocol.messages import CleanupRequest
from podrelay.protocol.redis_keys import RedisKeys
from podrelay.scheduling import heartbeat_budget
from podrelay.settings import Settings
from podrelay.store import scripts
from podrelay.store.circuit_breaker import CircuitBreaker
from podrelay.store.connection import borrow_connection
from podrelay.store.launch_queue import Acknowledgement, LaunchQueue
from podrelay.store.script_table import ScriptCall
from tests.conftest import FERNET_KEY
from tests.harness.task_instances import make_task_instances, update
from tests.integration.scheduling.conftest import Outside, beat
from tests.integration.scheduling.test_executor import hand_over

KEYS = RedisKeys("default")


@pytest.fixture
def ended(executor: RedisKubernetesExecutor, outside: Outside, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, str]:
    """Key and launch id of a task that is over, and whose report was published."""
    # On a busy machine Redis may seem far away, and then some heartbeats leave results to the next one.
    monkeypatch.setattr(heartbeat_budget, "NEARBY_S", float("inf"))
    ti_id = make_task_instances()[0]
    key, launch_id = hand_over(executor, ti_id)
    outside.create(launch_id)
    update(ti_id, state="success")
    executor.parts.reconciler._next_round_s = executor.parts.key_check._next_run_s = float("inf")
    beat(executor, until=lambda: executor.launches.round_is_over)
    outside.publish(launch_id, pod="pod")
    return key, launch_id


def test_the_event_does_not_wait_for_the_acknowledgement(
    executor: RedisKubernetesExecutor, outside: Outside, ended: tuple[Any, str]
) -> None:
    key, launch_id = ended
    trips = executor._breaker.trips
    executor.heartbeat()
    assert executor.event_buffer[key][0] == "success"
    assert executor._breaker.trips - trips <= 1
    beat(executor, until=lambda: outside.ledger(launch_id)["state"] == "acknowledged")
    assert outside.cleanups() == ["delete pod default/pod"]


def test_one_that_redis_could_not_run_is_run_by_the_next_heartbeat(
    executor: RedisKubernetesExecutor, outside: Outside, ended: tuple[Any, str]
) -> None:
    key, launch_id = ended
    executor._breaker.load("acknowledge")
    outside.redis.script_flush()  # as a restart of Redis does
    executor.heartbeat()
    assert key in executor.event_buffer
    beat(executor, until=lambda: outside.ledger(launch_id)["state"] == "acknowledged")
    assert len(outside.cleanups()) == 1


def test_one_whose_reply_was_lost_is_sent_again(
    executor: RedisKubernetesExecutor, outside: Outside, ended: tuple[Any, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("podrelay.store.circuit_breaker.FIRST_PAUSE_S", 0.1)
    key, launch_id = ended
    executor.heartbeat()
    assert key in executor.event_buffer
    (posted,) = executor.parts.results._queue._posted
    posted.connection.disconnect()
    beat(executor, until=lambda: outside.ledger(launch_id)["state"] == "acknowledged")
    outside.redis.hset(outside.names.launch(launch_id), "state", "finished")  # as if the first had not arrived
    beat(executor, until=lambda: outside.ledger(launch_id)["state"] == "acknowledged")
    assert executor._breaker.available
    assert len(outside.cleanups()) == 1


@pytest.fixture
def queue(executor: RedisKubernetesExecutor, outside: Outside) -> LaunchQueue:
    return executor.parts.results._queue


def finished(outside: Outside, pod: str = "") -> Acknowledgement:
    """Of a launch that has ended."""
    launch_id = str(uuid.uuid4())
    outside.redis.hset(KEYS.launch(launch_id), mapping={"attempt": "0", "state": "finished"})
    cleanup = CleanupRequest(launch_id, "delete", "default", pod) if pod else None
    return Acknowledgement(launch_id, 0, "subject", cleanup=cleanup)


def state_of(item: Acknowledgement, outside: Outside) -> str:
    return outside.ledger(item.launch_id)["state"]


def test_however_many_replies_are_lost_one_pause_follows(
    executor: RedisKubernetesExecutor, queue: LaunchQueue, outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("podrelay.store.circuit_breaker.FIRST_PAUSE_S", 0.05)
    sent = [finished(outside) for _ in range(5)]
    executor._breaker.load("acknowledge")
    pool = executor._breaker._client.connection_pool
    for connection in [borrow_connection(executor._breaker._client) for _ in sent]:
        pool.release(connection)
    outside.redis.client_pause(500)  # no reply is on its way when the connections are closed
    for item in sent:
        queue.acknowledge_soon([item])
    for posted in queue._posted:
        posted.connection._sock.shutdown(2)
    with pytest.raises(RedisUnavailable):
        queue.confirm()
    time.sleep(0.6)
    queue.confirm()
    assert [state_of(item, outside) for item in sent] == ["acknowledged"] * 5
    assert not pool._in_use_connections


def test_while_redis_refuses_one_no_further_one_is_sent_without_waiting(queue: LaunchQueue, outside: Outside) -> None:
    """The event of each is emitted only once Redis has run it, so that those to be sent again do not pile up."""
    outside.redis.execute_command("ACL", "SETUSER", "default", "-rpush")
    first, second = finished(outside, "a"), finished(outside, "b")
    queue.acknowledge_soon([first])
    for _ in range(3):
        with pytest.raises(RedisRefused):
            queue.confirm()
        with pytest.raises(RedisRefused):
            queue.acknowledge_soon([second])
    assert len(queue._unconfirmed) == 1
    outside.redis.execute_command("ACL", "SETUSER", "default", "+rpush")
    queue.confirm()
    queue.acknowledge_soon([second])
    queue.confirm()
    assert [state_of(item, outside) for item in (first, second)] == ["acknowledged"] * 2


def test_the_end_of_the_executor_confirms_what_it_has_sent(
    executor: RedisKubernetesExecutor, outside: Outside, ended: tuple[Any, str]
) -> None:
    _, launch_id = ended
    executor.end()
    assert not executor.parts.results._queue._posted
    assert outside.ledger(launch_id)["state"] == "acknowledged"


@pytest.fixture
def breaker(redis_url: str) -> Iterator[CircuitBreaker]:
    breaker = CircuitBreaker(Settings(redis_url=redis_url, fernet_key=FERNET_KEY))
    yield breaker
    breaker.close()


def _withdraw(launch_id: str) -> ScriptCall:
    return scripts.withdraw(KEYS, launch_id=launch_id, subject="s", now_s=1.0, ledger_ttl_s=60)


def test_replies_come_in_the_order_of_the_calls(breaker: CircuitBreaker, outside: Outside) -> None:
    known, unknown = str(uuid.uuid4()), str(uuid.uuid4())
    outside.redis.hset(KEYS.launch(known), mapping={"attempt": "3", "state": "created"})
    replies = breaker.collect(breaker.post([_withdraw(known), _withdraw(unknown)]))
    assert [reply[0] for reply in replies] == [b"created", b""]
    assert breaker.run(_withdraw(known))[0] == b"withdrawn"


def test_a_refusal_is_raised_and_leaves_the_connection_usable(breaker: CircuitBreaker, outside: Outside) -> None:
    launch = scripts.OfferedLaunch(str(uuid.uuid4()), 0, "l_0", "s", "q", "data", "what", "[]", "task", "default", 0)
    offer = scripts.offer(KEYS, cluster="default", owner="1", now_s=1.0, ledger_ttl_s=60, launches=[launch])
    breaker.load("offer", "withdraw")
    outside.redis.config_set("maxmemory", "1")
    try:
        posted = breaker.post([offer, _withdraw(str(uuid.uuid4()))])
        with pytest.raises(RedisRefused):
            breaker.collect(posted)
    finally:
        outside.redis.config_set("maxmemory", "0")
    assert breaker.available
    assert len(breaker.collect(breaker.post([offer]))) == 1


def test_a_connection_that_is_closed_opens_the_breaker(
    breaker: CircuitBreaker, outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("podrelay.store.circuit_breaker.FIRST_PAUSE_S", 60.0)
    breaker.load("withdraw")
    outside.redis.client_pause(300)  # no reply is on its way when the connection is closed
    posted = breaker.post([_withdraw(str(uuid.uuid4()))])
    posted.connection._sock.shutdown(2)
    with pytest.raises(RedisUnavailable):
        breaker.collect(posted)
    assert not breaker.available
    with pytest.raises(RedisUnavailable):
        breaker.post([_withdraw(str(uuid.uuid4()))])
