"""The lead and its fence, on a real Redis: one leader at a time, and nothing gets past a newer one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import redis
from cryptography.fernet import Fernet

from podrelay.errors import RedisUnavailable
from podrelay.protocol import identifiers
from podrelay.protocol.encryption import PayloadCipher
from podrelay.protocol.messages import PodReport
from podrelay.protocol.redis_keys import RedisKeys
from podrelay.settings import Settings
from podrelay.store.async_scripts import AsyncScripts
from podrelay.store.connection import connect_async
from podrelay_workers.watcher.leader_election import LeaderElection, Term
from podrelay_workers.watcher.outbox import NotLeader, Outbox
from podrelay_workers.watcher.pod_table import PodEntry, Publication

NAMES = RedisKeys()
KEY = Fernet.generate_key().decode()


@asynccontextmanager
async def scripts_at(url: str) -> AsyncIterator[AsyncScripts]:
    client = connect_async(Settings(url, KEY), timeout_s=2.0)
    try:
        yield AsyncScripts(client)
    finally:
        await client.aclose()


def run(url: str, test: Callable[[AsyncScripts, Any], Awaitable[None]]) -> None:
    async def with_redis() -> None:
        async with scripts_at(url) as scripts:
            await test(scripts, redis.Redis.from_url(url, decode_responses=True))

    asyncio.run(asyncio.wait_for(with_redis(), 20))


def candidates(scripts: AsyncScripts, lease_s: float) -> tuple[LeaderElection, LeaderElection]:
    return LeaderElection(scripts, NAMES, "default", lease_s), LeaderElection(scripts, NAMES, "default", lease_s)


def test_one_leads_until_its_lease_ends(redis_url: str) -> None:
    async def test(scripts: AsyncScripts, client: Any) -> None:
        first, second = candidates(scripts, 0.5)
        term = await first.claim({"version": "7"})
        assert term is not None
        assert await second.claim() is None
        assert second.leader == first.me
        assert client.hget(NAMES.watch("default"), "version") == "7"
        assert await first.claim() == term  # renewed, not taken anew
        await asyncio.sleep(0.6)
        later = await second.claim()
        assert later is not None
        assert int(later.fence) > int(term.fence)
        assert await first.claim() is None
        await second.leave()
        assert await first.claim() is not None

    run(redis_url, test)


@pytest.mark.parametrize("expires", ["x", "inf", "nan", "9" * 300, "4000000000"])
def test_a_lease_that_no_watcher_could_have_has_ended(redis_url: str, expires: str) -> None:
    async def test(runner: AsyncScripts, client: Any) -> None:
        client.hset(NAMES.watch("default"), mapping={"leader": "somebody", "fence": "x", "expires": expires})
        term = await LeaderElection(runner, NAMES, "default", 2.0).claim()
        assert term is not None
        assert term.fence.isdecimal()

    run(redis_url, test)


def test_after_a_loss_of_data_the_former_leader_comes_first(redis_url: str) -> None:
    async def test(scripts: AsyncScripts, client: Any) -> None:
        first, second = candidates(scripts, 0.5)
        term = await first.claim()
        assert term is not None
        assert await second.claim() is None
        client.flushall()
        assert await second.claim() is None
        again = await first.claim()
        assert again is not None
        assert again.epoch != term.epoch
        assert int(again.fence) > int(term.fence)
        client.flushall()  # and this time the leader is dead
        assert await second.claim() is None
        await asyncio.sleep(0.6)
        await second.claim()
        assert await second.claim() is not None

    run(redis_url, test)


def publication(outcome: Any = "succeeded", attempt: int = 0) -> Publication:
    return Publication("l-1", attempt, PodReport("l-1", attempt, outcome, pod="p", namespace="n"), {"pod": "p"})


def publisher_of(scripts: AsyncScripts) -> Outbox:
    return Outbox(scripts, NAMES, PayloadCipher(KEY, "default"), "default", 1000)


def test_a_former_leader_publishes_nothing(redis_url: str) -> None:
    async def test(scripts: AsyncScripts, client: Any) -> None:
        first, second = candidates(scripts, 0.2)
        term = await first.claim()
        assert term is not None
        await asyncio.sleep(0.3)
        await second.claim()
        publisher = publisher_of(scripts)
        publisher.put(publication())
        publisher.put(Publication("l-2", 0, restore={"pod": "p"}))
        with pytest.raises(NotLeader):
            await publisher.flush(term)
        assert client.xlen(NAMES.results) == 0
        assert not client.exists(NAMES.launch("l-2"))

    run(redis_url, test)


def test_batches_are_published_once_whatever_is_repeated(redis_url: str) -> None:
    async def test(scripts: AsyncScripts, client: Any) -> None:
        term = await candidates(scripts, 5.0)[0].claim()
        assert term is not None
        publisher = publisher_of(scripts)
        for number in range(450):
            launch = f"l-{number}"
            publisher.put(Publication(launch, 0, PodReport(launch, 0, "started", pod="p"), {"node": "a"}))
            publisher.put(Publication(launch, 0, PodReport(launch, 0, "succeeded", pod="p"), {"pod": "p"}))
            publisher.put(
                Publication(launch, 0, PodReport(launch, 0, "pending", pod="p"))
            )  # late, and already outdated
        await publisher.flush(term)
        assert len(publisher) == 0
        publisher.put(publication())
        await publisher.flush(term)
        assert client.xlen(NAMES.results) == 450
        ledger = client.hgetall(NAMES.launch("l-7"))
        assert (ledger["state"], ledger["node"], ledger["pod"]) == ("finished", "a", "p")
        client.flushall()
        client.script_flush()
        again = await candidates(scripts, 5.0)[0].claim()
        assert isinstance(again, Term)
        publisher.requeue_recent()
        await publisher.flush(again)
        assert client.xlen(NAMES.results) == 450

    run(redis_url, test)


def test_what_redis_does_not_take_stays(redis_server: Any, redis_url: str) -> None:
    async def test() -> None:
        client = connect_async(Settings(redis_url, KEY), timeout_s=0.2)
        scripts = AsyncScripts(client)
        term = await candidates(scripts, 30.0)[0].claim()
        assert term is not None
        publisher = publisher_of(scripts)
        publisher.put(publication())
        redis_server.pause()
        try:
            with pytest.raises(RedisUnavailable):
                await publisher.flush(term)
            assert len(publisher) == 1
        finally:
            redis_server.resume()
        await publisher.flush(term)
        assert await client.xlen(NAMES.results) == 1
        await client.aclose()

    asyncio.run(asyncio.wait_for(test(), 20))


def test_what_the_ledger_believes_to_be_alive(redis_url: str) -> None:
    async def test(scripts: AsyncScripts, client: Any) -> None:
        ids = {}
        for name, change, created_s in (
            ("a", {}, 100), ("b", {"state": "started"}, 150), ("young", {}, 300), ("done", {"state": "finished"}, 100),
            ("odd", {"attempt": "x"}, 100), ("again", {"state": "offered"}, 100), ("taken-back", {"state": "withdrawn"}, 100),
            ("stranger", {"pod": "any"}, 100),
            ("later", {"attempt": "2"}, 100), ("fine", {}, 100),
        ):  # fmt: skip
            ids[name] = identifiers.new_launch_id()
            entry = {
                "state": "created",
                "attempt": "1",
                "namespace": "n",
                "pod": identifiers.pod_name("p", ids[name], 1),
            }
            client.hset(NAMES.launch(ids[name]), mapping=entry | change)
            client.zadd(NAMES.live("default"), {ids[name]: created_s})
        client.set(NAMES.launch("another type"), "x")
        client.zadd(NAMES.live("default"), {"forgotten": 100, "another type": 100})
        client.zadd(NAMES.live("other"), {ids["a"]: 100})
        found = {row.launch_id async for row in publisher_of(scripts).believed_live(200.0)}
        assert found == {ids[name] for name in ("a", "b", "fine")}
        left = {ids[name] for name in ("a", "b", "fine", "young")}  # what is over, or not of our making, has left
        assert set(client.zrange(NAMES.live("default"), 0, -1)) == left
        quarantined = {fields.get("launch") or fields["key"] for _, fields in client.xrange(NAMES.quarantine)}
        of_another_type = NAMES.launch("another type")
        assert quarantined == {of_another_type, *(ids[name] for name in ("odd", "stranger", "later"))}

    run(redis_url, test)


def test_a_comparison_does_not_depend_on_what_else_redis_holds(redis_url: str) -> None:
    """Two thousand launches beside many keys of others: as many round trips as there are launches to look at."""

    async def test(scripts: AsyncScripts, client: Any) -> None:
        entry = {"state": "created", "attempt": "0", "namespace": "n"}
        pipeline = client.pipeline(transaction=False)
        launches = [identifiers.new_launch_id() for _ in range(2000)]
        for number, launch in enumerate(launches):
            pipeline.hset(NAMES.launch(launch), mapping={**entry, "pod": identifiers.pod_name("p", launch, 0)})
            pipeline.zadd(NAMES.live("default"), {launch: number})
        for number in range(20_000):
            pipeline.set(f"foreign:{number}", "x")
        pipeline.execute()
        before = client.info("commandstats")
        found = [row.launch_id async for row in publisher_of(scripts).believed_live(1e9)]
        after = client.info("commandstats")
        assert set(found) == set(launches)
        calls = {name: after[name]["calls"] - before.get(name, {"calls": 0})["calls"] for name in after}
        assert calls.get("cmdstat_scan", 0) == 0
        assert calls["cmdstat_zscan"] <= 12
        assert calls["cmdstat_hmget"] <= 2600

    run(redis_url, test)


@pytest.mark.parametrize("value", [b"\xff\xfe", b"", b"x" * 100_000, b"a b"])
def test_an_epoch_that_no_process_wrote_is_replaced(redis_url: str, value: bytes) -> None:
    """A standby compares it with what it knows, and would never lead."""

    async def test(scripts: AsyncScripts, client: Any) -> None:
        first, second = candidates(scripts, 0.3)
        assert await first.claim() is not None
        assert await second.claim() is None
        client.set(NAMES.epoch, value)
        await asyncio.sleep(0.4)
        end = time.monotonic() + 3.0
        while await second.claim() is None:
            assert time.monotonic() < end
            await asyncio.sleep(0.05)
        assert len(client.get(NAMES.epoch)) == 32

    run(redis_url, test)


@pytest.mark.parametrize("value", [b"\xff\xfe", b"x" * 1_000_000])
def test_a_leader_whose_name_is_no_text_is_waited_for_and_replaced(redis_url: str, value: bytes) -> None:
    async def test(scripts: AsyncScripts, client: Any) -> None:
        candidate = LeaderElection(scripts, NAMES, "default", 0.3)
        seconds, _ = client.time()
        client.hset(NAMES.watch("default"), mapping={"leader": value, "fence": b"\xff", "expires": f"{seconds + 2}"})
        assert await candidate.claim() is None
        assert 0 < len(candidate.leader) <= 300
        await asyncio.sleep(0.4)
        assert await candidate.claim() is not None

    run(redis_url, test)


def test_a_lead_lasts_no_longer_than_the_configured_lease(redis_url: str) -> None:
    async def test(scripts: AsyncScripts, client: Any) -> None:
        seconds, _ = client.time()
        client.hset(NAMES.watch("default"), mapping={"leader": "forged", "fence": "1", "expires": f"{seconds + 500}"})
        candidate = LeaderElection(scripts, NAMES, "default", 0.3)
        assert await candidate.claim() is None
        await asyncio.sleep(0.4)
        assert await candidate.claim() is not None
        assert [fields["why"] for _, fields in client.xrange(NAMES.quarantine)] == [
            "a lease longer than that of another watcher, shortened"
        ]

    run(redis_url, test)


def test_shared_keys_of_another_type_stop_no_watcher(redis_url: str) -> None:
    async def test(scripts: AsyncScripts, client: Any) -> None:
        client.rpush(NAMES.epoch, "x")
        client.rpush(NAMES.watch("default"), "x")
        client.rpush(NAMES.live("default"), "x")
        assert await LeaderElection(scripts, NAMES, "default", 2.0).claim() is not None
        assert [row async for row in publisher_of(scripts).believed_live(200.0)] == []
        launch_id = identifiers.new_launch_id()
        client.set(NAMES.launch(launch_id), "x")
        waits = await publisher_of(scripts).waits([PodEntry("n", "p", launch_id, 0)])
        assert waits == [{"attempt": "", "wait": "", "t_wait": ""}]

    run(redis_url, test)


def test_a_pod_name_with_an_endless_attempt_is_quarantined(redis_url: str) -> None:
    async def test(scripts: AsyncScripts, client: Any) -> None:
        launch_id = identifiers.new_launch_id()
        pod = identifiers.pod_name("p", launch_id, 0)[:-1] + "1" * 5000
        client.hset(
            NAMES.launch(launch_id),
            mapping={"state": "created", "attempt": "1", "namespace": "n", "pod": pod, "uid": "u"},
        )
        client.zadd(NAMES.live("default"), {launch_id: 100})
        assert [row async for row in publisher_of(scripts).believed_live(200.0)] == []
        assert client.xlen(NAMES.quarantine) == 1

    run(redis_url, test)


def test_a_report_that_redis_cannot_place_yet_is_published_once_it_can(redis_url: str) -> None:
    """After a loss of data, of a warm pod: a launcher has yet to find it by its labels."""
    pod = "etl-warm-" + "c" * 32
    report = Publication("l-7", 0, PodReport("l-7", 0, "succeeded", pod=pod, namespace="n"), {"pod": pod})

    async def test(scripts: AsyncScripts, client: Any) -> None:
        term = await candidates(scripts, 30.0)[0].claim()
        assert term is not None
        client.hset(NAMES.launch("l-7"), mapping={"state": "claimed", "attempt": "0"})
        outbox = publisher_of(scripts)
        publishing = asyncio.create_task(outbox.run(term))
        try:
            outbox.put(report)
            outbox.put(publication())
            await asyncio.sleep(0.3)
            assert len(outbox) == 1, "unsent"
            client.hset(NAMES.launch("l-7"), mapping={"state": "created", "pod": pod})
            deadline_s = time.monotonic() + 5
            while client.hget(NAMES.launch("l-7"), "state") != "finished":
                assert time.monotonic() < deadline_s
                outbox.put(publication("started", attempt=1))  # others go on meanwhile
                await asyncio.sleep(0.05)
        finally:
            publishing.cancel()
        assert outbox.published == 3
        assert [entry["launch"] for _, entry in client.xrange(NAMES.results)] == ["l-1", "l-1", "l-7"]

    run(redis_url, test)
