"""A Redis that has reached its maxmemory, on every server at hand: an offer is refused as a whole, all other scripts run.

Redis refuses for memory only the first write of a script, so each case makes another command the first or a later write.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from cryptography.fernet import Fernet

from podrelay.errors import RedisFull
from podrelay.protocol import redis_keys
from podrelay.protocol.redis_keys import RedisKeys
from podrelay.protocol.sizes import JOB_MAX, RESULT_MAX
from podrelay.settings import Settings
from podrelay.store import scripts, warm_scripts
from podrelay.store.bounded_reads import read_entries, read_launches, read_stream
from podrelay.store.circuit_breaker import CircuitBreaker
from podrelay.store.key_rings import KeyRing, announce
from podrelay.store.log_requests import request_logs, take_log_requests
from podrelay.store.quarantine import Quarantined, quarantine
from podrelay.store.rollups import load_rollups, read_steps, write_rollups
from podrelay.store.script_table import ScriptCall
from podrelay.store.scripts import AcknowledgedLaunch, Fence, HeldJob, OfferedLaunch, ThrottleEvent
from podrelay.store.warm_scripts import PoolChange
from tests.harness.redis_server import RedisServer, all_servers

KEYS = RedisKeys("full")
CLUSTER = "default"
QUEUE, URGENT, CLEANUP = KEYS.launch_queue(CLUSTER), KEYS.launch_queue(CLUSTER, 3), KEYS.cleanup_queue(CLUSTER)
LEASES = redis_keys.rq_started(QUEUE)
FENCE = Fence("me", "7")
POD = {"pod": "pod-1", "namespace": "n", "uid": "u"}
CLEANUP_JOB = (CLEANUP, "cleanup-1", "data", "delete pod-1")

Prepare = Callable[["World"], Any]


class World:
    """One Redis, and the scripts that bring it into the state before a case."""

    def __init__(self, url: str) -> None:
        self.redis = redis.Redis.from_url(url, decode_responses=True)
        self.breaker = CircuitBreaker(Settings(url, Fernet.generate_key().decode()))

    def run(self, *calls: ScriptCall) -> Any:
        return [self.breaker.run(call) for call in calls][-1]

    def offered(self, count: int = 2) -> None:
        self.run(offer(*(launch(f"l{number}") for number in range(count))))

    def claimed(self, count: int = 2) -> None:
        self.offered(count)
        self.run(claim())

    def created(self, **changes: str) -> None:
        self.claimed(1)
        self.run(finish(["created", "l0_0", "e", QUEUE, "pod-1", "n", "u", "1.0"]))
        if changes:
            self.redis.hset(KEYS.launch("l0"), mapping=changes)  # type: ignore[arg-type]

    def leading(self) -> None:
        self.run(lead())
        self.redis.hset(KEYS.watch(CLUSTER), mapping={"leader": FENCE.leader, "fence": FENCE.number})

    def content(self) -> dict[str, Any]:
        """All that Redis holds, without the times."""
        return {key: self._value(key) for key in sorted(self.redis.scan_iter())}

    def _value(self, key: str) -> Any:
        kind = self.redis.type(key)
        if kind == "hash":
            fields: Any = self.redis.hgetall(key)
            if key == KEYS.schedulers:  # the time comes first
                return {name: announced.split()[1:] for name, announced in fields.items()}
            if key == KEYS.warm_pods(CLUSTER):  # the time is the third word
                return {warm_id: [*pod.split()[:2], *pod.split()[3:]] for warm_id, pod in fields.items()}
            if key == KEYS.key_rings:  # the time follows the fingerprints
                return {process: announced.split()[0] for process, announced in fields.items()}
            return {name: "" if is_time(name) else value for name, value in fields.items()}
        if kind == "zset":
            return self.redis.zrange(key, 0, -1)
        if kind == "stream":
            entries: Any = self.redis.xrange(key)
            return [fields for _, fields in entries]
        if kind == "set":
            return self.redis.smembers(key)
        return self.redis.lrange(key, 0, -1) if kind == "list" else self.redis.get(key)


def is_time(field: str) -> bool:
    return (
        field.startswith(("t_", "until", "window"))
        or field.endswith("_at")
        or field.endswith(("seen", "ready_s", "off_until"))
        or field in ("expires", "last_heartbeat", "fence", "clock_skew")
    )


# --- calls ------------------------------------------------------------------------------------------------------------
def launch(launch_id: str, attempt: int = 0, subject: str = "", queue: str = QUEUE) -> OfferedLaunch:
    job_id = f"{launch_id}_{attempt}"
    return OfferedLaunch(
        launch_id, attempt, job_id, subject or f"s-{launch_id}", queue, "data", "text", "[]", "task", "n", 0
    )


def offer(*launches: OfferedLaunch, owner: str = "o") -> ScriptCall:
    return scripts.offer(KEYS, cluster=CLUSTER, owner=owner, now_s=1.0, ledger_ttl_s=60.0, launches=launches)


def claim(kind: str = "launch", most: int = 10) -> ScriptCall:
    queues = [URGENT, QUEUE] if kind == "launch" else [CLEANUP]
    return scripts.claim(
        KEYS, cluster=CLUSTER, kind=kind, queues=queues, most=most, low=1, lease_s=6.0, worker="w", execution_id="e",
        patience_s=0.0, probe_s=1.0, report_every_s=1.0,
    )  # fmt: skip


def finish(*items: list[Any]) -> ScriptCall:
    return scripts.finish(KEYS, cluster=CLUSTER, worker="w", spent_data="spent", results_max=10, items=items)


def acknowledge(over: str, launch_id: str = "l0", cleanup: bool = True) -> ScriptCall:
    item = AcknowledgedLaunch(launch_id, 0, f"s-{launch_id}", over, *(CLEANUP_JOB[1:] if cleanup else ()))
    return scripts.acknowledge(KEYS, cluster=CLUSTER, now_s=2.0, ledger_ttl_s=60.0, launches=[item])


def withdraw(launch_id: str = "l0") -> ScriptCall:
    return scripts.withdraw(KEYS, launch_id=launch_id, subject=f"s-{launch_id}", now_s=2.0, ledger_ttl_s=60.0)


def publish(
    outcome: str,
    fields: dict[str, str] | None = None,
    *,
    attempt: int = 0,
    fence: Fence = scripts.UNFENCED,
    not_genuine: str = "",
) -> ScriptCall:
    return scripts.publish(
        KEYS, cluster=CLUSTER, fence=fence, launch_id="l0", attempt=attempt, outcome=outcome, result="sealed", now="3.0",
        results_max=10, fields=fields or {}, not_genuine=not_genuine,
    )  # fmt: skip


def restore(launch_id: str) -> ScriptCall:
    return scripts.restore(
        KEYS, cluster=CLUSTER, fence=FENCE, launch_id=launch_id, attempt=0, created="1.0", fields=POD
    )


def lead(candidate: str = "me", **fields: str) -> ScriptCall:
    return scripts.lead(
        KEYS, cluster=CLUSTER, candidate=candidate, lease_s=0.05, fresh_epoch="epoch", known_epoch="", fields=fields
    )


def reap(losses_max: int = 9) -> ScriptCall:
    return scripts.reap(
        KEYS, cluster=CLUSTER, queues=[QUEUE], worker="w2", execution_id="e2", lease_s=6.0, losses_max=losses_max,
        most_per_queue=9,
    )  # fmt: skip


SHAPE, MAILBOX, WARM_ID = "a" * 16, "b" * 32, "c" * 32
WARM_POD = f"etl-warm-{WARM_ID}"
JOB = HeldJob("l0_0", "e", QUEUE, "launch")
DELIVER = warm_scripts.deliver(KEYS, job=JOB, warm_id=WARM_ID, mailbox=MAILBOX, sealed="sealed")
TAKE_BACK = warm_scripts.take_back(KEYS, job=JOB, warm_id=WARM_ID, mailbox=MAILBOX, pod=WARM_POD)
KEEP = warm_scripts.keep_warm(KEYS, cluster=CLUSTER, keeper="w", lease_s=60.0, most=9)


def assign(why: str = "", shape: str = SHAPE) -> ScriptCall:
    return warm_scripts.assign(KEYS, cluster=CLUSTER, job=JOB, shape=shape, why=why, given_for_s=60.0)


def change(what: PoolChange, *args: str) -> ScriptCall:
    return warm_scripts.warm_pool(KEYS, cluster=CLUSTER, what=what, args=list(args))


ROLL_UP = write_rollups(KEYS, cluster=CLUSTER, fence=FENCE, oldest=300, cursor="1-1", changed={600: '{"started":1}'})


def throttle(event: ThrottleEvent, namespace: str = "") -> ScriptCall:
    return scripts.throttle(
        KEYS, cluster=CLUSTER, event=event, namespace=namespace, x=5.0, y=50.0, reason="r", message="m"
    )


def survey(launch_id: str = "l0") -> ScriptCall:
    return scripts.survey(KEYS, fresh_epoch="epoch", launches=[(launch_id, 0)])


def announce_scheduler() -> ScriptCall:
    return scripts.announce_scheduler(KEYS, cluster=CLUSTER, owner="7", cursor="0-0", launches=3, version="0.1.0")


# --- states before a case ---------------------------------------------------------------------------------------------
def nothing(_: World) -> None:
    """An empty Redis."""


def closed_gate(world: World) -> None:
    world.run(throttle("refused", "n"))
    world.redis.hset(KEYS.throttle(CLUSTER), "until:n", time.time() + 60)
    world.offered()
    world.redis.hset(KEYS.launch("l0"), "t_offered", time.time() - 60)


def open_gate(world: World) -> None:
    closed_gate(world)
    world.redis.hset(KEYS.throttle(CLUSTER), "until:n", time.time() - 1)


def due_again(world: World) -> None:
    world.claimed(1)
    world.run(finish(["wait", "l0_0", "e", QUEUE, "0", "r", "m", "", 1]))


def unknown_job(world: World) -> None:
    world.offered(1)
    world.redis.delete(KEYS.launch("l0"))


def foreign_ledger(world: World) -> None:
    world.offered(2)
    world.redis.delete(KEYS.launch("l0"))
    world.redis.set(KEYS.launch("l0"), "not a hash")


def superseded(world: World) -> None:
    world.offered(1)
    world.redis.hset(KEYS.current, "s-l0", "newer")


def both_owners(world: World) -> None:
    world.offered(1)
    world.run(offer(launch("l8"), owner="other"), offer(launch("l9", queue=URGENT)))


def expired_lease(world: World) -> None:
    world.claimed()
    for member in world.redis.zrange(LEASES, 0, -1):
        world.redis.zadd(LEASES, {member: 1.0})


def lost_fair_queue(world: World) -> None:
    world.offered(1)
    world.run(offer(launch("l8"), owner="other"))
    world.redis.delete(KEYS.fair_queues(CLUSTER))


def cleanup_waits(world: World) -> None:
    world.created()
    world.run(publish("succeeded", POD), acknowledge("1"))


def ended(world: World) -> None:
    world.created()
    world.run(publish("succeeded", POD))


def requested_logs(world: World) -> None:
    world.run(request_logs(KEYS, cluster=CLUSTER, requests=["a", "b"]))


def oversized_report(world: World) -> None:
    world.redis.xadd(KEYS.results, {"result": "x" * (RESULT_MAX + 2000)}, id="1-0")


def odd_members(world: World) -> None:
    world.redis.zadd(KEYS.unacknowledged, {"l-1": 1.0, "no launch id": 2.0, "l-2": 3.0})


def oversized_job(world: World) -> None:
    world.offered(2)
    world.redis.hset("rq:job:l0_0", "data", "x" * (JOB_MAX + 1))


def foreign_requests(world: World) -> None:
    world.redis.set(KEYS.log_requests(CLUSTER), "not a list")


def withdrawn_with_pod(world: World) -> None:
    world.created()
    world.run(withdraw())


def withdrawn(world: World) -> None:
    world.claimed(1)
    world.run(withdraw())


def gone_job(world: World) -> None:
    world.claimed(1)
    world.redis.delete("rq:job:l0_0")


def rolled_up(world: World) -> None:
    world.leading()
    world.run(ROLL_UP)


def damaged_entry(world: World) -> None:
    world.redis.hset(KEYS.launch("l0"), mapping={"attempt": "x", "state": "offered"})


def probing(world: World) -> None:
    world.run(throttle("refused", "n"))
    world.redis.hset(KEYS.throttle(CLUSTER), mapping={"probing:n": "1", "passed:n": "1"})


def forgotten_scheduler(world: World) -> None:
    world.redis.hset(KEYS.schedulers, mapping={"default 1": "1.0 0 0 0.1.0", "default 2": "x"})


def open_again(world: World) -> None:
    probing(world)
    world.redis.hset(KEYS.throttle(CLUSTER), "passed:n", "63")


def shaped(world: World) -> None:
    world.claimed(1)
    world.run(change("save", SHAPE, "sealed"))


def with_idle_pod(world: World) -> None:
    shaped(world)
    world.run(change("add", WARM_ID, SHAPE, MAILBOX, WARM_POD, "sealed"))
    world.redis.set(KEYS.mailbox_alive(MAILBOX), "1")
    world.run(KEEP)


def switched_off(world: World) -> None:
    with_idle_pod(world)
    world.run(change("off", SHAPE, "60", "why"))


def with_many_shapes(world: World) -> None:
    world.run(*(change("save", f"{number:016x}", "sealed") for number in range(64)))


def assigned(world: World) -> None:
    with_idle_pod(world)
    world.run(assign())


def delivered(world: World) -> None:
    assigned(world)
    world.run(DELIVER)


def condemned(world: World) -> None:
    assigned(world)
    world.run(TAKE_BACK)


HELD = ("l0_0", "e", QUEUE)
CREATED = ["created", *HELD, "pod-1", "n", "u", "1.0"]
WAIT = ["wait", *HELD, "5", "r", "m", "sealed", 1]
FAILED, BACK, DONE = ["failed", *HELD, "eJwDAAAAAAE="], ["back", *HELD], ["done", *HELD]
ABANDON, ORDER = ["abandon", *HELD, *CLEANUP_JOB], ["order", "l0_0", "", QUEUE, *CLEANUP_JOB]
OTHER = ("l1_0", "e", QUEUE)

# What runs although Redis is full. All of it ends work that Redis holds already, or concerns a bounded key.
RUNS: list[tuple[Prepare, ScriptCall]] = [
    *((World.claimed, finish(item)) for item in (CREATED, DONE, FAILED, BACK, WAIT, ABANDON, ORDER)),
    (World.claimed, finish([*WAIT[:7], "", 0], ["back", *OTHER])),
    (World.claimed, finish(["back", *OTHER], CREATED, ORDER)),
    *((withdrawn, finish(item)) for item in (CREATED, WAIT, BACK, ABANDON)),
    *((gone_job, finish(item)) for item in (CREATED, DONE, FAILED, BACK, WAIT)),
    *((before, claim()) for before in (World.offered, closed_gate, open_gate, due_again, unknown_job, foreign_ledger)),
    *((before, claim(most=1)) for before in (superseded, both_owners, World.offered)),
    (cleanup_waits, claim("cleanup")),
    (World.claimed, scripts.renew(KEYS, lease_s=60.0, jobs=[HeldJob(*HELD, "launch"), HeldJob("no", "e", QUEUE, "launch")])),
    *((before, reap()) for before in (expired_lease, lost_fair_queue)),
    (expired_lease, reap(losses_max=0)),
    *((before, acknowledge(over)) for before in (ended, World.created, nothing) for over in ("1", "0", "revoked")),
    (ended, acknowledge("1", cleanup=False)),
    *((before, withdraw()) for before in (nothing, World.offered, World.created, ended, due_again, withdrawn)),
    *((World.created, publish(outcome, POD)) for outcome in ("pending", "started", "succeeded", "failed")),
    *((withdrawn_with_pod, publish(outcome, POD)) for outcome in ("pending", "started", "succeeded")),
    (World.claimed, publish("expired")),
    *((before, publish("log")) for before in (ended, World.created)),
    *((before, request_logs(KEYS, cluster=CLUSTER, requests=["a", "b"])) for before in (nothing, foreign_requests)),
    (requested_logs, take_log_requests(KEYS, cluster=CLUSTER, most=1)),
    (World.created, publish("failed", attempt=1)),
    (World.leading, publish("started", POD, fence=FENCE)),
    (damaged_entry, publish("failed")),
    *((World.leading, restore(launch_id)) for launch_id in ("l0", "l1")),
    (ended, scripts.live(KEYS, cluster=CLUSTER, cursor="0", count=10, before_s=9.0)),
    *((before, lead(pods="3")) for before in (nothing, World.leading)),
    (World.leading, lead("other")),
    (World.leading, scripts.resign(KEYS, cluster=CLUSTER, candidate="me", fresh_epoch="epoch")),
    *((before, throttle(event)) for before in (nothing, probing) for event in ("pause", "stumble", "remind", "recover")),
    *((before, throttle("refused", "n")) for before in (nothing, probing)),
    *((before, throttle("passed", "n")) for before in (nothing, probing, open_again)),
    *((before, survey()) for before in (nothing, World.offered, ended, damaged_entry)),
    *((before, read_stream(KEYS, KEYS.results, "0-0", 10)) for before in (ended, oversized_report)),
    (ended, read_entries(KEYS, ["l0", "l1"])),
    *(
        (before, read_launches(KEYS, KEYS.unacknowledged, before=9e9, most=10, cursor=cursor))
        for before in (ended, odd_members)
        for cursor in ("", "0")
    ),
    (oversized_job, claim()),
    (ended, publish("failed", not_genuine="sealed")),
    (World.created, publish("failed", {"started": "1"})),
    *((before, read_steps(KEYS, cluster=CLUSTER, after="0-0", most=10)) for before in (nothing, ended, oversized_report)),
    *((before, load_rollups(KEYS, cluster=CLUSTER, now_s=900.0)) for before in (nothing, rolled_up)),
    *((before, ROLL_UP) for before in (nothing, World.leading)),
    (nothing, announce(KEYS, KeyRing("launcher a", ("1", "2")))),
    *((before, announce_scheduler()) for before in (nothing, ended, forgotten_scheduler)),
    (nothing, scripts.permissions([["ping"]])),
    *((before, assign()) for before in (World.claimed, shaped, with_idle_pod, switched_off, assigned, condemned)),
    *((with_idle_pod, call) for call in (assign("not_eligible", ""), assign(shape="f" * 16))),
    *((before, DELIVER) for before in (assigned, delivered, condemned)),
    *((before, TAKE_BACK) for before in (assigned, delivered, condemned)),
    *((before, KEEP) for before in (nothing, with_idle_pod, switched_off)),
    (with_many_shapes, change("save", SHAPE, "sealed")),
    (shaped, change("add", WARM_ID, SHAPE, MAILBOX, WARM_POD, "sealed")),
    *((with_idle_pod, change(what, WARM_ID)) for what in ("read", "remove")),
    *((shaped, change(what, SHAPE)) for what in ("load", "forget")),
    *((with_idle_pod, call) for call in (change("off", SHAPE, "60", "why"), change("leave", "w"))),
    *((before, publish(outcome, {"pod": WARM_POD})) for before in (assigned, delivered) for outcome in ("started", "failed")),
    (nothing, quarantine(KEYS, [Quarantined("job", "j", "oversized", "why"), Quarantined("launch", "l", "foreign", "why")])),
]  # fmt: skip

REFUSED: list[tuple[Prepare, ScriptCall]] = [
    (nothing, offer(launch("l0"))),
    (World.offered, offer(launch("l0"), launch("l5"))),
    (World.offered, offer(launch("l5", subject="s-l0"), launch("l6", queue=URGENT))),
    (World.created, offer(launch("l5", subject="s-l0"))),
    (ended, offer(launch("l0", attempt=1))),
    (both_owners, offer(launch("l5"), owner="third")),
]


@pytest.fixture(scope="module", params=all_servers(), ids=lambda path: "-".join(Path(path).parts[-3:]))
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis"), program=request.param) as server:
        yield server


@pytest.fixture
def world(server: RedisServer) -> Iterator[World]:
    world = World(server.url)
    world.redis.config_set("maxmemory", 0)
    world.redis.flushall()
    yield world
    world.redis.config_set("maxmemory", 0)
    world.breaker.close()


def case(value: Any) -> str:
    return f"{value.name}-{json.dumps(value.args[-1])[:20]}" if isinstance(value, ScriptCall) else value.__name__


def outcome(world: World, prepare: Prepare, call: ScriptCall, maxmemory: int) -> tuple[Any, dict[str, Any]]:
    world.redis.config_set("maxmemory", 0)
    world.redis.flushall()
    prepare(world)
    world.redis.config_set("maxmemory", maxmemory)
    return world.run(call), world.content()


def without_times(reply: Any) -> Any:
    """Claims and the like return times and waits: numbers with a fraction. Ids of stream entries are times too."""
    if isinstance(reply, list):
        return [without_times(item) for item in reply]
    return b"time" if isinstance(reply, bytes) and (b"." in reply or re.fullmatch(rb"\d+-\d+", reply)) else reply


@pytest.mark.parametrize(("prepare", "call"), RUNS, ids=case)
def test_what_ends_work_runs_as_with_memory(world: World, prepare: Prepare, call: ScriptCall) -> None:
    reply, content = outcome(world, prepare, call, maxmemory=0)
    full_reply, full_content = outcome(world, prepare, call, maxmemory=1)
    assert full_content == content
    if call.name != "lead":  # the fence is a time
        assert without_times(full_reply) == without_times(reply)


@pytest.mark.parametrize(("prepare", "call"), REFUSED, ids=case)
def test_an_offer_is_refused_as_a_whole_and_succeeds_later(world: World, prepare: Prepare, call: ScriptCall) -> None:
    prepare(world)
    before = world.content()
    world.redis.config_set("maxmemory", 1)
    with pytest.raises(RedisFull, match="Redis is full.*Raise maxmemory"):
        world.run(call)
    assert world.content() == before
    assert world.breaker.available
    world.redis.config_set("maxmemory", 0)
    assert b"offered" in world.run(call)


def test_every_script_is_tried() -> None:
    from importlib.resources import files

    names = {item.name.removesuffix(".lua") for item in files("podrelay.protocol").joinpath("lua").iterdir()}
    assert {call.name for _, call in [*RUNS, *REFUSED]} == names - {"prelude"}
