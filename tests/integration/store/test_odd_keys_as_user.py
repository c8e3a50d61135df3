"""What somebody else wrote stops no process that may only do what `airflow podrelay acl` allows it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from podrelay.protocol import redis_keys
from podrelay.protocol.access import Role
from podrelay.protocol.redis_keys import RedisKeys
from podrelay.protocol.sizes import RESULT_MAX
from podrelay.settings import Settings
from podrelay.store import scripts
from podrelay.store.bounded_reads import read_entries, read_stream
from podrelay.store.circuit_breaker import CircuitBreaker
from podrelay.store.key_rings import KeyRing, announce
from podrelay.store.ledger import Ledger
from podrelay.store.log_requests import request_logs, take_log_requests
from podrelay.store.script_table import ScriptCall
from tests.harness.redis_users import GuardedRedis, knows_read_only, users_of_each_process

KEYS = RedisKeys("default")
QUEUE = KEYS.launch_queue("default")
LAST_ID = "18446744073709551615-18446744073709551615"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GuardedRedis]:
    monkeypatch.setenv("AIRFLOW__PODRELAY__DEPLOYMENT", "default")
    with users_of_each_process(tmp_path) as server:
        yield server


def run(server: GuardedRedis, role: Role, call: ScriptCall) -> Any:
    breaker = CircuitBreaker(Settings(server.url_of(role), ""))
    try:
        return breaker.run(call)
    finally:
        breaker.close()


def survey(server: GuardedRedis) -> tuple[str, list[str]]:
    """The epoch, and what is said of launch l."""
    epoch, *flat = run(server, "scheduler", scripts.survey(KEYS, fresh_epoch="new", launches=[("l", 0)]))
    return epoch.decode(), [word.decode() for word in flat[1::5]]


def test_who_deletes_a_key_of_another_type_can_begin_a_new_epoch(server: GuardedRedis) -> None:
    """Only a comparison from the beginning restores these keys."""
    publication = scripts.publish(
        KEYS, cluster="default", fence=scripts.UNFENCED, launch_id="l", attempt=0, outcome="failed", result="r",
        now="1.0", results_max=100, fields={},
    )  # fmt: skip
    for key in (KEYS.results, KEYS.unacknowledged):
        server.admin.flushall()
        server.admin.mset({KEYS.epoch: "old", key: "of another type"})
        run(server, "launcher", publication)
        assert survey(server)[0] == "new", key
    assert server.denials() == []


def test_a_stream_at_its_last_id_is_read_on_from_its_beginning(server: GuardedRedis) -> None:
    admin = server.admin
    admin.set(KEYS.epoch, "old")
    admin.xadd(KEYS.results, {"result": "forged"}, id=LAST_ID)
    position, entries = run(server, "scheduler", read_stream(KEYS, KEYS.results, "0-0", 10))
    assert len(entries) == 1
    position, entries = run(server, "scheduler", read_stream(KEYS, KEYS.results, position.decode(), 10))
    assert entries == []
    admin.xadd(KEYS.results, {"result": "of a launcher"})
    _, entries = run(server, "scheduler", read_stream(KEYS, KEYS.results, position.decode(), 10))
    assert [found for _, found in entries] == [[b"result", b"of a launcher"]]
    assert survey(server)[0] == "new"
    # Another scheduler had read up to the end of the former stream.
    _, entries = run(server, "scheduler", read_stream(KEYS, KEYS.results, LAST_ID, 10))
    assert len(entries) == 1
    assert admin.xlen(KEYS.results) == 1


@pytest.mark.parametrize("status", ["queued", "scheduled", "started"])
def test_a_launch_in_a_queue_of_somebody_else_is_offered_again(server: GuardedRedis, status: str) -> None:
    server.admin.hset(
        KEYS.launch("l"), mapping={"state": "offered", "attempt": "0", "queue": "of-somebody-else", "owner": "1"}
    )
    server.admin.hset("rq:job:l_0", "status", status)
    assert survey(server)[1] == ["lost"]


def test_leases_are_renewed_without_a_readable_fence_until_a_scheduler_mends_it(server: GuardedRedis) -> None:
    admin, lease = server.admin, "l_0:x"
    admin.set(KEYS.current, "of another type")
    admin.hset(KEYS.launch("l"), mapping={"state": "claimed", "attempt": "0", "subject": "s"})
    admin.zadd(redis_keys.rq_started(QUEUE), {lease: time.time() + 1})
    renewal = scripts.renew(KEYS, lease_s=60, jobs=[scripts.HeldJob("l_0", "x", QUEUE, "launch")])
    if knows_read_only(server.url):  # elsewhere a launcher mends it
        assert run(server, "launcher", renewal) == [1]
        assert admin.zscore(redis_keys.rq_started(QUEUE), lease) > time.time() + 30
    survey(server)
    assert not admin.exists(KEYS.current)


def test_no_request_for_logs_that_is_too_long_is_taken(server: GuardedRedis) -> None:
    server.admin.rpush(KEYS.log_requests("default"), "x" * (5 << 20), "y" * RESULT_MAX, "x" * (RESULT_MAX + 1))
    taken = run(server, "watcher", take_log_requests(KEYS, cluster="default", most=20))
    assert taken == [b"y" * RESULT_MAX]


def test_any_number_of_logs_can_be_requested_at_once(server: GuardedRedis) -> None:
    run(server, "scheduler", request_logs(KEYS, cluster="default", requests=[*map(str, range(20_000))]))
    taken = run(server, "watcher", take_log_requests(KEYS, cluster="default", most=1000))
    assert (len(taken), taken[-1]) == (200, b"19999")


def test_a_ledger_entry_of_many_fields_is_not_transferred(server: GuardedRedis) -> None:
    server.admin.hset(KEYS.launch("l"), mapping={f"field {number}": "x" for number in range(10_000)})
    server.admin.hset(KEYS.launch("m"), mapping={"state": "created"})
    for role in ("scheduler", "watcher"):
        assert run(server, role, read_entries(KEYS, ["l", "m"])) == [[], [b"state", b"created"]]


def test_the_long_name_of_a_leader_is_not_transferred(server: GuardedRedis) -> None:
    forged = {"leader": "x" * (5 << 20), "fence": "1", "expires": str(time.time() + 1)}
    server.admin.hset(KEYS.watch("default"), mapping=forged)
    lead = scripts.lead(KEYS, cluster="default", candidate="w", lease_s=1.0, fresh_epoch="e", known_epoch="", fields={})
    assert run(server, "watcher", lead)[::2] == [0, b"x" * 300]


def test_many_long_announcements_are_not_transferred(server: GuardedRedis) -> None:
    fingerprints = f"{'x' * 16_000} {time.time()}"
    server.admin.hset(KEYS.key_rings, mapping={f"forged {number}": fingerprints for number in range(1000)})
    reply = run(server, "launcher", announce(KEYS, KeyRing("launcher l", ("ab",))))
    assert reply == [b"launcher l", b"ab"]


def test_only_launch_ids_are_read_from_sorted_sets(server: GuardedRedis) -> None:
    odd = {f"{number} {'x' * (1 << 20)}": 1.0 for number in range(20)}
    for key in (KEYS.unacknowledged, KEYS.live("default")):
        for name, score in {**odd, "l-1": 2.0, "late": 4e9}.items():
            server.admin.zadd(key, {name: score})
    breaker = CircuitBreaker(Settings(server.url_of("scheduler"), ""))
    ledger = Ledger(breaker, KEYS)
    assert ledger.unacknowledged(time.time(), 0, 64) == []
    assert ledger.unacknowledged(time.time(), 0, 64) == ["l-1"]
    assert server.admin.zcard(KEYS.unacknowledged) == 2
    cursor, found = ledger.live("default", 0, time.time(), 1000)
    while cursor:
        cursor, more = ledger.live("default", cursor, time.time(), 1000)
        found += more
    assert found == ["l-1"]
    breaker.close()
    assert server.denials() == []
