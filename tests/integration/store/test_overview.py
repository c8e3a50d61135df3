"""What `read_overview` makes of what stands in Redis: why launches wait, and what processes wrote about themselves."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Any

import pytest
import redis

from podrelay.protocol import redis_keys
from podrelay.protocol.redis_keys import RedisKeys, rq_queue, rq_scheduled, rq_workers
from podrelay.protocol.snapshots import (
    SNAPSHOT_FIELD,
    LauncherSnapshot,
    WaitingPods,
    WatcherSnapshot,
    encode_snapshot,
)
from podrelay.store.overview import read_overview
from podrelay.store.scripts import announce_scheduler
from tests.harness.lua import evaluate

KEYS = RedisKeys("overview")
QUEUE, URGENT, CLEANUPS = KEYS.launch_queue("default"), KEYS.launch_queue("default", 3), KEYS.cleanup_queue("default")
LAUNCHER = LauncherSnapshot("0.1.0", 3, 16, 12.5, 0.02, 0.0, "", False)


@pytest.fixture
def client(redis_url: str) -> redis.Redis:
    return redis.Redis.from_url(redis_url)


def overview(client: redis.Redis) -> Any:
    return read_overview(client, KEYS, "default", time.time())


def offer(client: redis.Redis, name: str, queue: str = QUEUE, ago_s: float = 10.0) -> None:
    client.rpush(rq_queue(queue), f"{name}_0")
    client.hset(KEYS.launch(name), mapping={"state": "offered", "t_offered": time.time() - ago_s})


def delay(
    client: redis.Redis, name: str, reason: str, message: str = "m", queue: str = QUEUE, ago_s: float = 5.0
) -> None:
    client.zadd(rq_scheduled(queue), {f"{name}_0": time.time() + 5})
    entry = {"state": "waiting", "reason": reason, "message": message, "t_offered": time.time() - ago_s}
    client.hset(KEYS.launch(name), mapping=entry)


def register(client: redis.Redis, snapshot: LauncherSnapshot | None = LAUNCHER, name: str = "host-1") -> None:
    key = KEYS.worker("default", name)
    client.sadd(rq_workers(QUEUE), key)
    client.hset(key, "state", "busy")
    if snapshot is not None:
        client.hset(key, SNAPSHOT_FIELD, encode_snapshot(snapshot))
    client.expire(key, 60)


def lead(client: redis.Redis, snapshot: WatcherSnapshot, leader: str = "host-7") -> None:
    fields = {"leader": leader, "expires": time.time() + 5, "pods": 6, SNAPSHOT_FIELD: encode_snapshot(snapshot)}
    client.hset(KEYS.watch("default"), mapping=fields)


# --- what waits, and why ----------------------------------------------------------------------------------------------
def test_waits_are_grouped_by_reason_with_the_oldest(client: redis.Redis) -> None:
    delay(client, "a-1", "QuotaExceeded", "young", ago_s=5.0)
    delay(client, "a-2", "QuotaExceeded", "old", URGENT, ago_s=50.0)
    delay(client, "a-3", "Throttled")
    lead(client, WatcherSnapshot("host-7", waits=(WaitingPods("Unschedulable", 4, time.time() - 9, "b", "no node"),)))
    found = overview(client)
    waits = {wait["reason"]: wait for wait in found["waits"]}
    assert {reason: wait["count"] for reason, wait in waits.items()} == {
        "Unschedulable": 4, "QuotaExceeded": 2, "Throttled": 1
    }  # fmt: skip
    assert waits["QuotaExceeded"] | {"oldest_s": 0} == {
        "reason": "QuotaExceeded", "count": 2, "oldest_s": 0, "example": "a-2", "message": "old"
    }  # fmt: skip
    assert waits["QuotaExceeded"]["oldest_s"] == pytest.approx(50, abs=2)
    assert waits["Unschedulable"]["oldest_s"] == pytest.approx(9, abs=2)
    assert found["waits"][0]["reason"] == "Unschedulable"
    assert found["waits_read"] == 3


def test_a_long_registry_is_sampled_and_its_counts_are_scaled(client: redis.Redis) -> None:
    names = [f"s-{number}" for number in range(6000)]
    pipeline = client.pipeline()
    for number, name in enumerate(names):
        pipeline.zadd(rq_scheduled(QUEUE), {f"{name}_0": number})
        pipeline.hset(
            KEYS.launch(name), mapping={"reason": "QuotaExceeded" if number % 3 else "Throttled", "t_offered": 1}
        )
    pipeline.execute()
    found = overview(client)
    waits = {wait["reason"]: wait["count"] for wait in found["waits"]}
    assert 1000 < found["waits_read"] <= 2000
    assert waits == {"QuotaExceeded": pytest.approx(4000, rel=0.1), "Throttled": pytest.approx(2000, rel=0.1)}


@pytest.mark.parametrize(
    ("obstacle", "reason"),
    [("none", "Queued"), ("no launcher", "NoLauncher"), ("draining", "NoLauncher"), ("pause", "Throttled"),
     ("rq", "Suspended")],
)  # fmt: skip
def test_launches_that_are_not_claimed_wait_for_what_stops_them(
    client: redis.Redis, obstacle: str, reason: str
) -> None:
    if obstacle != "no launcher":
        register(client, replace(LAUNCHER, draining=obstacle == "draining"))
    if obstacle == "pause":
        client.hset(KEYS.throttle("default"), mapping={"until": time.time() + 60, "reason": "ServerError"})
    if obstacle == "rq":
        client.set(redis_keys.RQ_SUSPENDED, "1")
    offer(client, "q-1", ago_s=30.0)
    offer(client, "q-2", URGENT)
    delay(client, "w-1", "Throttled", "of the launch", ago_s=3.0)
    found = overview(client)
    waits = {wait["reason"]: wait for wait in found["waits"]}
    assert set(waits) == {reason, "Throttled"}
    wait = waits[reason]
    assert (wait["count"], wait["example"]) == (3 if reason == "Throttled" else 2, "q-1")
    assert bool(found["obstacle"]) == (obstacle != "none")
    assert wait["oldest_s"] == pytest.approx(30, abs=2)
    assert (wait["message"] == "ServerError") == (obstacle == "pause")


def test_each_queue_with_its_priority_and_the_age_of_its_first(client: redis.Redis) -> None:
    offer(client, "q-1", URGENT, ago_s=7.0)
    fair = URGENT + redis_keys.fair_queue_mark("9")
    client.hset(KEYS.fair_queues("default"), fair, URGENT)
    offer(client, "q-2", fair, ago_s=3.0)
    client.rpush(rq_queue(CLEANUPS), "c-1_0-pending-revoke")
    client.hset(KEYS.launch("c-1"), "t_acknowledged", time.time() - 2)
    queues = overview(client)["queues"]
    assert list(queues) == [URGENT, fair, QUEUE, CLEANUPS]
    assert [(queue["kind"], queue["priority"], queue["queued"]) for queue in queues.values()] == [
        ("launch", "p8", 1), ("launch", "p8", 1), ("launch", "p1", 0), ("cleanup", "", 1)
    ]  # fmt: skip
    ages = [queue["oldest_s"] for queue in queues.values()]
    assert ages[2] is None
    assert [ages[0], ages[1], ages[3]] == [pytest.approx(age, abs=1.5) for age in (7, 3, 2)]


# --- processes --------------------------------------------------------------------------------------------------------
def test_a_launcher_of_another_version_is_shown_with_unknown_figures(client: redis.Redis) -> None:
    register(client, replace(LAUNCHER, throttled_until_s=time.time() + 30, throttled_why="Throttled"), "host-1")
    register(client, None, "host-2")
    new, old = overview(client)["launchers"]
    assert new["throttled_s"] == pytest.approx(30, abs=2)
    assert {name: new[name] for name in ("version", "in_flight", "limit", "created_per_s", "creation_p50_s")} == {
        "version": "0.1.0", "in_flight": 3, "limit": 16, "created_per_s": 12.5, "creation_p50_s": 0.02
    }  # fmt: skip
    assert (old["name"], old["state"], old["alive"]) == ("host-2", "busy", True)
    assert {old[name] for name in new if name not in ("name", "state", "alive", "last_update_s_ago")} == {None}


def test_a_former_leaders_snapshot_does_not_count(client: redis.Redis) -> None:
    snapshot = WatcherSnapshot("host-7", "0.1.0", 1, 2, 3, time.time() - 4, 0.5, ())
    lead(client, snapshot)
    found = overview(client)
    assert found["pods"] == {"starting": 1, "running": 2, "ending": 3}
    assert (found["watcher"]["version"], found["watcher"]["lag_s"]) == ("0.1.0", 0.5)
    assert found["watcher"]["bookmark_s_ago"] == pytest.approx(4, abs=2)
    lead(client, snapshot, leader="host-8")  # of a version that writes no snapshot
    found = overview(client)
    assert found["pods"] == {"starting": None, "running": None, "ending": None}
    assert (found["watcher"]["leader"], found["watcher"]["version"]) == ("host-8", None)


def test_a_scheduler_announces_what_it_has_not_read(client: redis.Redis) -> None:
    ids = [client.xadd(KEYS.results, {"result": "x"}).decode() for _ in range(5)]  # type: ignore[union-attr]
    for owner, cursor in (("7", ids[1]), ("8", ids[4]), ("9", "")):
        evaluate(
            client, announce_scheduler(KEYS, cluster="default", owner=owner, cursor=cursor, launches=12, version="1")
        )
    evaluate(client, announce_scheduler(KEYS, cluster="team", owner="7", cursor=ids[0], launches=1, version="1"))
    found = overview(client)["schedulers"]
    assert [(one["name"], one["unread"], one["launches"], one["version"]) for one in found] == [
        ("7", 3, 12, "1"), ("8", 0, 12, "1"), ("9", 0, 12, "1")
    ]  # fmt: skip
    assert all(one["last_update_s_ago"] < 5 for one in found)


@pytest.mark.parametrize("cursor", ["18446744073709551615-18446744073709551615", "0-0"])
def test_very_many_unread_reports_are_counted_to_a_limit(client: redis.Redis, cursor: str) -> None:
    pipeline = client.pipeline()
    for _ in range(1500):
        pipeline.xadd(KEYS.results, {"result": "x"})
    pipeline.execute()
    call = announce_scheduler(KEYS, cluster="default", owner="7", cursor=cursor, launches=0, version="1")
    assert evaluate(client, call) == (1000 if cursor == "0-0" else 0)


def test_announcements_of_schedulers_are_bounded(client: redis.Redis) -> None:
    now_s, call = (
        time.time(),
        announce_scheduler(KEYS, cluster="default", owner="7", cursor="", launches=0, version="1"),
    )
    odd = {"default old": f"{now_s - 130} 0 0 1", "default early": f"{now_s + 90} 0 0 1", "default x": "x", "default y": "",
           "default long": f"{now_s} 0 0 {'1' * 2000}", "x" * 2000: f"{now_s} 0 0 1"}  # fmt: skip
    client.hset(KEYS.schedulers, mapping={**odd, "default 8": f"{now_s - 60} 0 0 1"})
    evaluate(client, call)
    assert [one["name"] for one in overview(client)["schedulers"]] == ["7", "8"]
    assert client.hlen(KEYS.schedulers) == 2
    assert 0 < client.ttl(KEYS.schedulers) <= 3600
    client.hset(KEYS.schedulers, mapping={f"default {number}": f"{now_s} 0 0 1" for number in range(3000)})
    evaluate(client, call)
    assert client.hlen(KEYS.schedulers) == 0, "each scheduler announces itself again within seconds"


# --- odd values -------------------------------------------------------------------------------------------------------
def test_what_was_cut_down_is_listed_apart(client: redis.Redis) -> None:
    for number in range(3):
        client.xadd(KEYS.quarantine, {"key": "k", "kind": "bounds", "why": f"a lease of {number} s, shortened"})
    client.xadd(KEYS.quarantine, {"job": "j", "kind": "malformed", "why": "no json"})
    (clamp,) = overview(client)["clamps"]
    assert (clamp["why"], clamp["count"]) == ("a lease of s, shortened", 3)
    assert clamp["last_s_ago"] < 5


def test_long_and_odd_values_are_left_out(client: redis.Redis) -> None:
    huge = "x" * 100_000
    client.zadd(rq_scheduled(QUEUE), {"a_0": 1, b"\xff": 1, "no job": 1, huge: 1})
    client.hset(KEYS.launch("a"), mapping={"reason": huge, "message": b"\xff", "t_offered": "nan"})
    client.hset(KEYS.watch("default"), mapping={"leader": "l", "expires": time.time() + 5, SNAPSHOT_FIELD: huge})
    client.hset(KEYS.schedulers, mapping={huge: huge, "default 7": "1 x x"})
    register(client, None)
    client.hset(KEYS.worker("default", "host-1"), mapping={SNAPSHOT_FIELD: huge, "state": huge})
    client.rpush(rq_queue(QUEUE), huge)
    found = overview(client)
    assert {wait["reason"]: wait["oldest_s"] for wait in found["waits"]} == {"unknown": None, "Queued": None}
    assert (found["launchers"][0]["state"], found["launchers"][0]["version"]) == ("?", None)
    assert len(json.dumps(found)) < 10_000


def test_keys_of_another_type_count_as_empty(client: redis.Redis) -> None:
    for key in (KEYS.watch("default"), KEYS.throttle("default"), KEYS.schedulers, KEYS.results, KEYS.worker("default", "w"),
                KEYS.key_rings, KEYS.launch("a")):  # fmt: skip
        client.set(key, "x")
    client.sadd(rq_workers(QUEUE), KEYS.worker("default", "w"))
    client.zadd(rq_scheduled(QUEUE), {"a_0": 1})
    client.set(rq_scheduled(URGENT), "x")
    found = overview(client)
    assert [wait["reason"] for wait in found["waits"]] == ["unknown"]
    assert found["schedulers"] == []


# --- what nobody of podrelay has written ------------------------------------------------------------------------------
def sent_by(client: redis.Redis) -> int:
    """Bytes that Redis has sent to anybody."""
    return int(client.info("stats")["total_net_output_bytes"])


def test_what_is_too_long_is_not_read(client: redis.Redis) -> None:
    """The leading watcher and the API server read the overview again and again: anybody could fill their memory."""
    lead(client, WatcherSnapshot("host-7", running=3))
    register(client)
    offer(client, "q-1", URGENT)
    long = "x_" * (8 << 20)
    for key in (
        KEYS.watch("default"),
        KEYS.throttle("default"),
        KEYS.fair_queues("default"),
        KEYS.key_rings,
        KEYS.schedulers,
    ):
        client.hset(key, "x", long)
    client.hset(KEYS.worker("default", "host-1"), "x", long)
    client.xadd(KEYS.quarantine, {"kind": "forged", "why": long})
    client.lpush(rq_queue(QUEUE), long)
    client.zadd(rq_scheduled(QUEUE), {long: 1})
    before = sent_by(client)
    found = overview(client)
    assert sent_by(client) - before < 100_000
    assert (found["watcher"]["leader"], found["pods"]["running"]) == ("host-7", 3)
    assert [launcher["name"] for launcher in found["launchers"]] == ["host-1"]
    assert found["queues"][URGENT]["oldest_s"] == pytest.approx(10, abs=2)
    assert (found["queues"][QUEUE]["queued"], found["queues"][QUEUE]["waiting"]) == (1, 1)
    assert found["quarantine_s_ago"] == 0.0, "somebody looks"
    assert found["quarantine_reasons"] == {"entries longer than podrelay writes: not read": 1}
    client.sadd(rq_workers(QUEUE), KEYS.worker("default", long))
    before = sent_by(client)
    assert overview(client)["launchers"] == []
    assert sent_by(client) - before < 100_000


def test_hashes_of_very_many_fields_are_not_read(client: redis.Redis) -> None:
    for key in (KEYS.throttle("default"), KEYS.fair_queues("default"), KEYS.key_rings, KEYS.schedulers):
        client.hset(key, mapping={f"cleanup:{number}": "x" for number in range(30_000)})
    client.sadd(rq_workers(QUEUE), *(KEYS.worker("default", str(number)) for number in range(30_000)))
    before = sent_by(client)
    found = overview(client)
    assert sent_by(client) - before < 100_000
    assert (found["launchers"], found["throttle"], found["schedulers"]) == ([], [], [])
