"""What anybody else wrote into the keys of warm pods: refused, removed, bounded, and no launch waits for it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet

from podrelay.protocol import identifiers
from podrelay.protocol.access import Role
from podrelay.protocol.encryption import PayloadCipher
from podrelay.protocol.mailbox import MailboxKey
from podrelay.protocol.messages import WarmShape
from podrelay.store.scripts import UNFENCED
from tests.harness.redis_server import find_server
from tests.harness.redis_users import GuardedRedis, knows_read_only, lines
from tests.harness.warm_rig import CLUSTER, FERNET_KEY, KEYS, OTHER_SHAPE, SHAPE, WarmRig, launch_of, mailbox, new_pod

ID = "c" * 32
POOL_KEYS = [
    KEYS.warm_pods(CLUSTER), KEYS.warm_shapes(CLUSTER), KEYS.warm_arrivals(CLUSTER), KEYS.warm_state(CLUSTER),
    KEYS.warm_idle(CLUSTER, SHAPE),
]  # fmt: skip
WRITE: dict[str, Any] = {
    "string": lambda client, key: client.set(key, "x"),
    "hash": lambda client, key: client.hset(key, "x", "y"),
    "zset": lambda client, key: client.zadd(key, {"x": 1}),
    "list": lambda client, key: client.rpush(key, "x"),
    "stream": lambda client, key: client.xadd(key, {"x": "y"}),
}


@pytest.fixture(params=["default", "launcher"])
def rig(request: pytest.FixtureRequest, redis_url: str) -> Iterator[WarmRig]:
    """Launchers as the default user, and as the one of `airflow podrelay acl`."""
    if request.param == "default":
        rig = WarmRig(redis_url)
        yield rig
        rig.close()
        return
    find_server()
    folder: Path = request.getfixturevalue("tmp_path")
    request.getfixturevalue("monkeypatch").setenv("AIRFLOW__PODRELAY__DEPLOYMENT", "default")
    with GuardedRedis(folder) as server:
        server.load(*lines(redis_6=not knows_read_only(server.url)))
        role: Role = "launcher"
        rig = WarmRig(server.url, as_user=server.url_of(role))
        yield rig
        rig.close()
        assert server.denials() == []


def works(rig: WarmRig) -> bool:
    """A launch gets a pod, and the pod gets its workload."""
    job, pod = rig.delivered()
    return rig.take(pod) is not None and rig.taken(pod) == [True] and rig.publish(
        job, "started", pod.pod, fence=UNFENCED
    ) == 1  # fmt: skip


def quarantined(rig: WarmRig) -> list[tuple[str, str]]:
    entries = rig.redis.xrange(KEYS.quarantine)
    return [(entry.get("key", entry.get("launch", "")), entry["kind"]) for _, entry in entries]


# --- keys of another type ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", WRITE)
@pytest.mark.parametrize("key", POOL_KEYS, ids=lambda key: key.split(":")[2])
def test_a_key_of_another_type_stops_nothing(rig: WarmRig, key: str, kind: str) -> None:
    job = rig.offered_job()
    rig.redis.delete(key)
    WRITE[kind](rig.redis, key)
    assert rig.assign(job).word == "cold"
    WRITE["stream"](rig.redis, key) if not rig.redis.exists(key) else None
    assert works(rig)


@pytest.mark.parametrize("kind", WRITE)
@pytest.mark.parametrize("key", ["in", "taken", "alive"])
def test_a_mailbox_of_another_type_stops_nothing(rig: WarmRig, key: str, kind: str) -> None:
    job, pod = rig.assigned()
    full = f"podrelay:default:mailbox:{mailbox(pod)}:{key}"
    rig.redis.delete(full)
    WRITE[kind](rig.redis, full)
    assert rig.deliver(job, pod) == "delivered"
    if key != "taken":
        assert rig.take(pod) is not None
    rig.redis.delete(full)
    WRITE[kind](rig.redis, full)
    assert rig.take_back(job, pod) in ("taken", "unknown", "taken_back")


def test_what_was_in_a_mailbox_before_is_no_workload(rig: WarmRig) -> None:
    job, pod = rig.assigned()
    rig.redis.rpush(KEYS.mailbox_in(mailbox(pod)), "forged", "too")
    rig.deliver(job, pod)
    assert rig.redis.llen(KEYS.mailbox_in(mailbox(pod))) == 1
    assert rig.take(pod) is not None


# --- the pool ---------------------------------------------------------------------------------------------------------
VALUES = {
    "empty": "", "no words": "x", "NUL": "\0", "other words": f"{SHAPE} {'b' * 32} 1.0",
    "no record": f"{SHAPE} {'b' * 32} 1.0 etl-warm-{ID} ", "another id": f"{SHAPE} {'b' * 32} 1.0 etl-warm-{'d' * 32} gA",
    "a long name": f"{SHAPE} {'b' * 32} 1.0 {'x' * 60}-warm-{ID} gA", "a pod of a launch": f"{SHAPE} {'b' * 32} 1.0 etl gA",
    "a long shape": f"{SHAPE}a {'b' * 32} 1.0 etl-warm-{ID} gA", "megabytes": "x" * (5 << 20),
    "a pattern": f"{SHAPE} {'*' * 32} 1.0 etl-warm-{ID} gA",
    "a long record": f"{SHAPE} {'b' * 32} 1.0 etl-warm-{ID} {'g' * 17000}",
}  # fmt: skip


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES.keys())
def test_a_forged_pod_is_removed(rig: WarmRig, value: str) -> None:
    rig.save_shape()
    rig.redis.hset(KEYS.warm_pods(CLUSTER), ID, value)
    rig.redis.zadd(KEYS.warm_idle(CLUSTER, SHAPE), {ID: time.time()})
    rig.redis.set(KEYS.mailbox_alive("b" * 32), "1")
    assert rig.assign(rig.offered_job()).why == "no_idle_pod"
    assert rig.keep().pods == ()
    assert not rig.redis.exists(KEYS.warm_pods(CLUSTER))
    assert quarantined(rig) != []
    assert rig.call(rig.pool.pods([ID])) == [None]
    assert works(rig)


@pytest.mark.parametrize("score", ["-inf", "+inf", -1.0, 0.0, 1e300, 2**62])
def test_a_pod_with_an_impossible_time_is_ready_as_of_now(rig: WarmRig, score: Any) -> None:
    pod = rig.idle_pod()
    rig.redis.zadd(KEYS.warm_idle(CLUSTER, SHAPE), {pod.warm_id: score})
    (found,) = rig.keep().pods
    assert found.idle_s is not None
    assert 0 <= found.idle_s < 1e10
    if score not in (-1.0, 0.0, "-inf"):
        assert rig.assign(rig.offered_job()).pod == pod


def test_a_pod_whose_record_is_forged_is_given_and_condemned(rig: WarmRig) -> None:
    """Before the launch gets another pod: a launcher with other keys must not deliver to this one meanwhile."""
    pod = rig.idle_pod()
    value = rig.redis.hget(KEYS.warm_pods(CLUSTER), pod.warm_id).rpartition(" ")[0]
    rig.redis.hset(KEYS.warm_pods(CLUSTER), pod.warm_id, f"{value} gAAAAA")
    assert rig.call(rig.pool.pods([pod.warm_id])) == [None]
    job = rig.offered_job()
    for _ in range(2):
        found = rig.assign(job)
        assert (found.word, found.pod) == ("condemned", None)
    assert rig.deliver(job, pod) == "condemned"
    assert {kind for _, kind in quarantined(rig)} == {"undecryptable"}
    assert works(rig)


def test_a_genuine_pod_in_the_place_of_another_is_given_and_condemned(rig: WarmRig) -> None:
    """Somebody writes another shape, mailbox or name beside the record, and the record of another pod behind them."""
    for place in range(4):
        pod, other = rig.idle_pod(OTHER_SHAPE), rig.idle_pod()
        value = rig.redis.hget(KEYS.warm_pods(CLUSTER), other.warm_id).split(" ")
        words = rig.redis.hget(KEYS.warm_pods(CLUSTER), pod.warm_id).split(" ")
        forged = [value[0], value[1], value[2], f"x-warm-{other.warm_id}" if place == 0 else value[3], value[4]]
        if place == 1:
            forged[4] = words[4]
        if place in (2, 3):
            forged = [SHAPE, value[1] if place == 2 else words[1], words[2], words[3], words[4]]
        warm_id = pod.warm_id if place in (2, 3) else other.warm_id
        rig.redis.delete(KEYS.warm_pods(CLUSTER), KEYS.warm_idle(CLUSTER, SHAPE))
        rig.redis.hset(KEYS.warm_pods(CLUSTER), warm_id, " ".join(forged))
        rig.redis.zadd(KEYS.warm_idle(CLUSTER, SHAPE), {warm_id: time.time()})
        job = rig.offered_job()
        found = rig.assign(job)
        assert (found.word, found.pod) == ("condemned", None), place
        assert rig.deliver(job, other) == "condemned"


def record_of(rig: WarmRig, cipher: PayloadCipher | None = None, **changes: Any) -> str:
    return (cipher or rig.cipher).pool.encrypt(new_pod(**{"warm_id": ID, "pod": f"etl-warm-{ID}", **changes}).encode())


def forged_records(rig: WarmRig) -> dict[str, str]:
    return {
        "another key": record_of(rig, PayloadCipher(Fernet.generate_key().decode(), "default")),
        "another deployment": record_of(rig, PayloadCipher(FERNET_KEY, "other")),
        "another cluster": record_of(rig, cluster="team-a"),
        "another pod": record_of(rig, warm_id="d" * 32, pod=f"etl-warm-{'d' * 32}"),
        "a pod of a launch": record_of(rig, pod="etl"),
        "no key": record_of(rig, key="x"),
        "another direction": rig.cipher.requests.encrypt(new_pod().encode()),
        "a shape": rig.cipher.pool.encrypt(WarmShape(SHAPE, {}).encode()),
        "no message": rig.cipher.pool.encrypt(b"[]"),
    }


def test_a_genuine_record_in_another_place_counts_as_none(rig: WarmRig) -> None:
    for name, record in forged_records(rig).items():
        rig.redis.hset(KEYS.warm_pods(CLUSTER), ID, f"{SHAPE} {'b' * 32} {time.time():.3f} etl-warm-{ID} {record}")
        assert rig.call(rig.pool.pods([ID])) == [None], name
        assert rig.call(rig.pool.remove([ID])) == [None], name
    assert len(quarantined(rig)) == 2 * len(forged_records(rig))


def test_more_pods_and_shapes_than_any_keeper_makes_are_removed(rig: WarmRig) -> None:
    pods = {f"{number:032x}": "x" * 50 for number in range(12_500)}
    rig.redis.hset(KEYS.warm_pods(CLUSTER), mapping=pods)
    rig.redis.hset(KEYS.warm_shapes(CLUSTER), mapping={f"{number:016x}": "x" for number in range(10_000)})
    rig.redis.hset(KEYS.warm_state(CLUSTER), mapping={f"field {number}": "x" for number in range(20_000)})
    rig.redis.zadd(KEYS.warm_idle(CLUSTER, SHAPE), {f"{number:032x}": time.time() for number in range(20_000)})
    rig.redis.zadd(KEYS.warm_arrivals(CLUSTER), {f"{SHAPE}:{number}": time.time() for number in range(20_000)})
    assert rig.assign(rig.offered_job()).word == "cold"
    began_s = time.monotonic()
    state = rig.keep()
    assert time.monotonic() - began_s < 2
    assert (state.pods, state.shapes) == ((), {})
    assert rig.redis.zcard(KEYS.warm_arrivals(CLUSTER)) <= 10_000
    assert rig.redis.hlen(KEYS.warm_state(CLUSTER)) < 10
    assert works(rig)


def test_ids_of_no_pods_hide_no_idle_pod(rig: WarmRig) -> None:
    pod = rig.idle_pod()
    rig.redis.zadd(KEYS.warm_idle(CLUSTER, SHAPE), {f"{number:032x}": time.time() - 9 for number in range(1000)})
    assert rig.assign(rig.offered_job()).why == "no_idle_pod", "at most 64 are looked at"
    rig.keep()
    assert rig.redis.zrange(KEYS.warm_idle(CLUSTER, SHAPE), 0, -1) == [pod.warm_id]
    assert rig.assign(rig.offered_job()).pod == pod


def test_a_full_pool_takes_no_more_pods(rig: WarmRig) -> None:
    first = rig.starting_pod()
    rig.redis.hset(KEYS.warm_pods(CLUSTER), mapping={f"{number:032x}": "x" for number in range(12_000)})
    assert not rig.call(rig.pool.add(new_pod()))
    assert rig.call(rig.pool.add(first)), "again"


# --- shapes, figures, arrivals ----------------------------------------------------------------------------------------
def test_a_shape_that_cannot_be_read_is_forgotten(rig: WarmRig) -> None:
    other = PayloadCipher(Fernet.generate_key().decode(), "default")
    for sealed in (
        "x", "", "\0", "x" * (5 << 20), other.pool.encrypt(WarmShape(SHAPE, {}).encode()),
        rig.cipher.pool.encrypt(WarmShape(OTHER_SHAPE, {}).encode()),
        rig.cipher.pool.encrypt(WarmShape(SHAPE, {}, "team-a").encode()), rig.cipher.pool.encrypt(new_pod().encode()),
    ):  # fmt: skip
        rig.redis.hset(KEYS.warm_shapes(CLUSTER), SHAPE, sealed)
        assert rig.call(rig.pool.skeleton(SHAPE)) is None
        if sealed:
            assert not rig.redis.hexists(KEYS.warm_shapes(CLUSTER), SHAPE)
    assert rig.assign(rig.offered_job()).why in ("new_shape", "no_idle_pod")
    assert works(rig)


@pytest.mark.parametrize("value", ["", "x", "nan", "inf", "-inf", "1e400", "9" * 400, "-5", "\0", "0x10", str(2**62)])
def test_figures_that_nobody_could_have_measured_are_bounded(rig: WarmRig, value: str) -> None:
    rig.save_shape()
    names = ("hits", "misses", "idle", "starting", "off_until", "ready_s", "seen")
    rig.redis.hset(KEYS.warm_state(CLUSTER), mapping={f"{SHAPE} {name}": value for name in names})
    assert rig.assign(rig.offered_job()).why == "no_idle_pod"
    shape = rig.keep().shapes[SHAPE]
    for number in (shape.hits, shape.misses, shape.ready_s, shape.off_s, shape.seen_s):
        assert 0 <= number < 1e11
    assert shape.off_s == 0
    assert works(rig)


@pytest.mark.parametrize("expires", ["x", "inf", "nan", "9" * 300, "4000000000", ""])
def test_a_keeper_whose_lease_nobody_could_have_is_replaced(rig: WarmRig, expires: str) -> None:
    rig.redis.hset(KEYS.warm_state(CLUSTER), mapping={"keeper": "somebody", "expires": expires})
    assert rig.keep().acquired


def test_a_lease_that_is_longer_than_that_of_a_keeper_is_shortened(rig: WarmRig) -> None:
    rig.redis.hset(KEYS.warm_state(CLUSTER), mapping={"keeper": "somebody", "expires": time.time() + 599})
    assert rig.call(rig.pool.keep(0.05, 10)) is None
    time.sleep(0.1)
    assert rig.keep().acquired


def test_names_that_no_launcher_writes_are_removed(rig: WarmRig) -> None:
    rig.save_shape()
    rig.redis.hset(KEYS.warm_shapes(CLUSTER), mapping={"x" * 16: "y", "": "y", "\0": "y", "a" * 17: "y"})
    odd = {f"{OTHER_SHAPE} hits": "1", f"{SHAPE} x": "1", "x": "y" * 5000, "": "z", f"{SHAPE}  hits": "1"}
    rig.redis.hset(KEYS.warm_state(CLUSTER), mapping=odd)
    rig.redis.zadd(KEYS.warm_arrivals(CLUSTER), dict.fromkeys(("x", "", f"{SHAPE}x:1", f"{SHAPE}:l_0"), time.time()))
    rig.redis.zadd(KEYS.warm_arrivals(CLUSTER), {f"{SHAPE}:of-the-future": time.time() + 1000, f"{SHAPE}:inf": "inf"})
    state = rig.keep()
    assert list(state.shapes) == [SHAPE]
    assert len(state.shapes[SHAPE].arrivals) == 1
    assert set(odd).isdisjoint(rig.redis.hkeys(KEYS.warm_state(CLUSTER)))
    assert rig.redis.zrange(KEYS.warm_arrivals(CLUSTER), 0, -1) == [f"{SHAPE}:l_0"]


# --- the ledger -------------------------------------------------------------------------------------------------------
def test_a_ledger_with_the_pod_of_another_launch_gets_no_workload_there(rig: WarmRig) -> None:
    """A copy of all that a ledger holds: both launches would deliver, and the pod takes one workload only."""
    job, pod = rig.assigned()
    copied = {name: value for name, value in rig.ledger(job).items() if name.startswith("warm_")}
    for left_out in ("warm_id", "warm_pod", "warm_record", ""):
        victim = rig.offered_job()
        mapping = {name: value for name, value in copied.items() if name != left_out}
        rig.redis.hset(KEYS.launch(launch_of(victim)), mapping=mapping)
        found = rig.assign(victim)
        if not left_out:
            assert (found.word, found.pod) == ("again", pod), "its labels say whose it is"
            continue
        assert (found.word, found.pod) == ("condemned", None) if left_out != "warm_pod" else ("cold", None), left_out
        assert rig.deliver(victim, pod) in ("condemned", "lost")
    assert rig.deliver(job, pod) == "delivered"


@pytest.mark.parametrize("value", ["", "x", "\0", "x" * (5 << 20)])
def test_a_ledger_without_a_usable_record_lets_its_launcher_look_for_the_pod(rig: WarmRig, value: str) -> None:
    """If that may have its workload; otherwise it is condemned."""
    job, _ = rig.delivered()
    rig.redis.hset(KEYS.launch(launch_of(job)), "warm_record", value)
    assert rig.assign(job).word == "unreadable"
    rig.redis.hdel(KEYS.launch(launch_of(job)), "delivered")
    for _ in range(2):
        found = rig.assign(job)
        assert (found.word, found.pod) == ("condemned", None)


@pytest.mark.parametrize("name", ["", "x", "\0", "\ud800", "etl-warm-" + "f" * 32, "x" * 16_000])
@pytest.mark.parametrize("field", ["warm_pod", "warm_id", "warm_attempt", "delivered", "condemned", "start"])
def test_no_forged_field_makes_a_launch_wait_without_end(rig: WarmRig, field: str, name: str) -> None:
    """Its launcher gets an answer with which the launch goes on."""
    for job, _ in (rig.assigned(), rig.delivered(), (rig.offered_job(), None)):
        rig.redis.hset(KEYS.launch(launch_of(job)), field, name.encode("utf-8", "surrogatepass"))
        assert rig.assign(job).word in ("assigned", "again", "condemned", "cold", "unreadable")


def test_a_report_that_names_any_text_as_its_pod_is_published(rig: WarmRig) -> None:
    for pod in ("", "\0", "x" * 300, "-warm-" + ID, "etl-warm-" + "c" * 31, "etl-warm-" + "g" * 32):
        assert rig.publish(rig.offered_job(), "started", pod) == 1


def test_the_keys_of_a_mailbox_name_nothing_else() -> None:
    """Such names come from keys only, and are hex digits: no text of anybody becomes part of a Redis key."""
    name = MailboxKey.generate().name
    assert KEYS.mailbox_in(name) == f"podrelay:default:mailbox:{name}:in"
    assert identifiers.warm_id_of_pod(f"x-warm-{name}") == name
