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
from podrelay.settings import Settings
from podrelay.store import scripts
from podrelay.store.circuit_breaker import CircuitBreaker
from podrelay.store.script_table import ScriptCall
from tests.harness.redis_server import find_server
from tests.harness.redis_users import GuardedRedis, knows_read_only, lines

KEYS = RedisKeys("default")
QUEUE = KEYS.launch_queue("default")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GuardedRedis]:
    find_server()
    monkeypatch.setenv("AIRFLOW__PODRELAY__DEPLOYMENT", "default")
    with GuardedRedis(tmp_path) as server:
        server.load(*lines(redis_6=not knows_read_only(server.url)))
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
