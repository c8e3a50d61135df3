"""Both script runners, on a real Redis: the same replies, the same recovery from a lost script cache, the same errors."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import redis
from cryptography.fernet import Fernet

from podrelay.errors import RedisFull, RedisRefused, RedisUnavailable
from podrelay.protocol.redis_keys import RedisKeys
from podrelay.settings import Settings
from podrelay.store import scripts
from podrelay.store.async_scripts import AsyncScripts
from podrelay.store.circuit_breaker import CircuitBreaker
from podrelay.store.connection import connect_async
from podrelay.store.quarantine import Quarantined, quarantine
from podrelay.store.script_table import ScriptCall
from podrelay.store.scripts import OfferedLaunch
from tests.harness.redis_server import free_port

KEY = Fernet.generate_key().decode()
KEYS = RedisKeys("runners")
Run = Callable[[str, Sequence[ScriptCall]], list[Any]]


def blocking(url: str, calls: Sequence[ScriptCall]) -> list[Any]:
    breaker = CircuitBreaker(Settings(url, KEY))
    try:
        return [breaker.run(calls[0]), *breaker.run_many(calls[1:])]
    finally:
        breaker.close()


def asynchronous(url: str, calls: Sequence[ScriptCall]) -> list[Any]:
    async def run() -> list[Any]:
        client = connect_async(Settings(url, KEY))
        runner = AsyncScripts(client)
        try:
            return [await runner.run(calls[0]), *await runner.run_many(calls[1:])]
        finally:
            assert (runner.last_reply_s > 0.0) == ("wrong" not in url)
            await client.aclose()

    return asyncio.run(run())


both = pytest.mark.parametrize("run", [blocking, asynchronous])
SURVEY = scripts.survey(KEYS, fresh_epoch="e", launches=[("l", 0)])
WITHDRAW = scripts.withdraw(KEYS, launch_id="l", subject="s", now_s=1.0, ledger_ttl_s=60.0)


@both
def test_scripts_run_in_order_without_having_been_loaded(redis_url: str, run: Run) -> None:
    redis.Redis.from_url(redis_url).script_flush()
    before, withdrawal, after = run(redis_url, [SURVEY, WITHDRAW, SURVEY])
    assert before == [b"e", b"l", b"missing", b"", b"", b"0"]
    assert withdrawal == [b""] * 6
    assert after == [b"e", b"l", b"withdrawn", b"", b"", b"0"]


def test_a_lost_script_cache_costs_the_breaker_no_failure(redis_url: str) -> None:
    breaker = CircuitBreaker(Settings(redis_url, KEY))
    breaker.load("survey")
    redis.Redis.from_url(redis_url).script_flush()
    assert breaker.run(SURVEY)[0] == b"e"
    redis.Redis.from_url(redis_url).script_flush()
    assert [reply[0] for reply in breaker.run_many([SURVEY, SURVEY])] == [b"e", b"e"]
    assert breaker.trips == 3
    breaker.close()


def test_a_reply_that_was_there_before_it_was_asked_for_ends_a_series_of_failures(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An idle heartbeat may run no other script. Redis would seem to fail until one does."""
    monkeypatch.setattr("podrelay.store.circuit_breaker.FIRST_PAUSE_S", 0.0)
    breaker = CircuitBreaker(Settings(redis_url, KEY))
    breaker._open(RedisUnavailable("lost"))
    assert breaker.has_failed
    posted, trips = breaker.post([SURVEY]), breaker.trips
    while not posted.connection.can_read(0):
        pass
    assert breaker.collect(posted)[0][0] == b"e"
    assert breaker.trips == trips
    assert not breaker.has_failed
    breaker.close()


@both
def test_a_wrong_password_is_reported_alike(redis_url: str, run: Run) -> None:
    url = redis_url.replace("redis://", "redis://user:wrong@")
    with pytest.raises(RedisUnavailable, match="redis_url: Redis rejects the user or password"):
        run(url, [SURVEY])


@both
def test_an_unreachable_redis_is_reported_alike(run: Run) -> None:
    with pytest.raises(RedisUnavailable, match="Redis unavailable.*redis_url"):
        run("redis://wrong@127.0.0.1:1/0", [SURVEY])


def refused_and_repeated(url: str, repair: Callable[[], None]) -> None:
    breaker = CircuitBreaker(Settings(url, KEY))
    with pytest.raises(RedisUnavailable, match="ReadOnlyError"):
        breaker.run(SURVEY)
    repair()
    breaker.run(SURVEY)
    breaker.close()


def refused_and_repeated_by_a_worker(url: str, repair: Callable[[], None]) -> None:
    async def run() -> None:
        client = connect_async(Settings(url, KEY))
        runner = AsyncScripts(client)
        with pytest.raises(RedisUnavailable, match="ReadOnlyError"):
            await runner.run(SURVEY)
        repair()
        await runner.run(SURVEY)
        await client.aclose()

    asyncio.run(run())


@pytest.mark.parametrize("run", [refused_and_repeated, refused_and_repeated_by_a_worker])
def test_after_a_failover_without_sentinel_the_address_is_asked_again(
    redis_url: str, run: Callable[[str, Callable[[], None]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server that was the master keeps its connections, and the name leads to another one."""
    monkeypatch.setattr("podrelay.store.circuit_breaker.FIRST_PAUSE_S", 0.0)
    admin = redis.Redis.from_url(redis_url)
    of_other_tests = {each["id"] for each in admin.client_list()}

    def repair() -> None:
        end_s = time.monotonic() + 5.0
        while any(each["name"] == "podrelay" for each in admin.client_list() if each["id"] not in of_other_tests):
            assert time.monotonic() < end_s, "the connection is kept"
        admin.replicaof("NO", "ONE")

    admin.replicaof("127.0.0.1", free_port())
    try:
        run(redis_url, repair)
    finally:
        admin.replicaof("NO", "ONE")


@both
def test_quarantine_is_the_same_through_each_runner(redis_url: str, run: Run) -> None:
    run(
        redis_url,
        [quarantine(KEYS, [Quarantined("launch", "l", "foreign", "a"), Quarantined("job", "j", "oversized", "b")])],
    )
    entries: Any = redis.Redis.from_url(redis_url, decode_responses=True).xrange(KEYS.quarantine)
    assert [fields for _, fields in entries] == [
        {"launch": "l", "kind": "foreign", "why": "a"},
        {"job": "j", "kind": "oversized", "why": "b"},
    ]


@both
def test_a_full_redis_is_reported_alike_and_answers_reads(redis_url: str, run: Run) -> None:
    client = redis.Redis.from_url(redis_url)
    launch = OfferedLaunch("l", 0, "l_0", "s", "q", "data", "text", "[]", "task", "n", 0)
    offer = scripts.offer(KEYS, cluster="c", owner="o", now_s=1.0, ledger_ttl_s=60.0, launches=[launch])
    client.config_set("maxmemory", 1)
    try:
        with pytest.raises(RedisFull, match="Redis is full"):
            run(redis_url, [SURVEY, offer])
        assert run(redis_url, [SURVEY])[0][1:3] == [b"l", b"missing"]
    finally:
        client.config_set("maxmemory", 0)


def test_a_full_redis_does_not_open_the_breaker(redis_url: str) -> None:
    client = redis.Redis.from_url(redis_url)
    breaker = CircuitBreaker(Settings(redis_url, KEY))
    client.config_set("maxmemory", 1)
    try:
        with pytest.raises(RedisFull):
            breaker.call(lambda client: client.set("k", "v"))
        assert breaker.available
    finally:
        client.config_set("maxmemory", 0)
        breaker.close()


def test_a_denied_command_does_not_open_the_breaker(redis_url: str) -> None:
    client = redis.Redis.from_url(redis_url)
    client.execute_command("ACL", "SETUSER", "runner", "on", ">p", "~*", "+@all", "-get", "-expire")
    breaker = CircuitBreaker(Settings(redis_url.replace("redis://", "redis://runner:p@"), KEY))
    try:
        with pytest.raises(RedisRefused, match="Redis denies") as caught:
            breaker.call(lambda client: client.get("k"))
        assert (caught.value.cause, caught.value.answered) == ("denied", True)
        with pytest.raises(RedisRefused, match="Redis denies"):  # inside a script
            breaker.run_many([SURVEY, WITHDRAW])
        assert breaker.available
        assert breaker.call(lambda client: client.set("k", "v"))
    finally:
        client.execute_command("ACL", "DELUSER", "runner")
        breaker.close()
