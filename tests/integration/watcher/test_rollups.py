"""What the leading watcher counts: every start and end once, whoever leads, whatever somebody writes to Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
import redis
import redis.asyncio

from podrelay.protocol import rollups as protocol
from podrelay.protocol.rollups import EDGES_S, Rollup
from podrelay.store import scripts
from podrelay.store.async_scripts import AsyncScripts
from podrelay.store.rollups import read_rollups
from podrelay_workers.watcher import rollup_writer
from podrelay_workers.watcher.leader_election import Term
from podrelay_workers.watcher.rollup_writer import RollupWriter
from tests.harness.waiting import until
from tests.harness.watcher_rig import WatcherRig

TERM = Term("me", "7", "epoch")


def run(test: Awaitable[None], seconds: float = 110.0) -> None:
    asyncio.run(asyncio.wait_for(test, seconds))


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures that a test can wait for."""
    monkeypatch.setattr(rollup_writer, "SAMPLE_S", 0.1)
    monkeypatch.setattr(rollup_writer, "WRITE_S", 0.2)


def total(rig: WatcherRig) -> Rollup:
    """The whole day."""
    client = redis.Redis.from_url(rig.settings.redis_url)
    return sum(read_rollups(client, rig.names, "default", time.time()).values(), Rollup())


def plain(rig: WatcherRig) -> dict[str, int]:
    """Without the histograms."""
    return {name: count for name, count in total(rig).items() if not name[-1].isdigit()}


def test_a_watcher_counts_each_start_and_each_end_once(rig: WatcherRig) -> None:
    async def test() -> None:
        async with rig.watching():
            running = [rig.launch() for _ in range(3)]
            await until(lambda: plain(rig) == {"started": 3})
            short = [rig.launch(lasts_s=0.0) for _ in range(2)]
            rig.end(running[0], exit_code=1)
            await until(lambda: plain(rig) == {"started": 5, "succeeded": 2, "failed": 1, "failed:application": 1})
            assert len(short) == 2
        # The next leader goes on where the former one ended.
        async with rig.watching():
            rig.end(running[1])
            expected = {"started": 5, "succeeded": 3, "failed": 1, "failed:application": 1}
            await until(lambda: plain(rig) == expected)
            await asyncio.sleep(1)
            assert plain(rig) == expected
            counts = total(rig)
            assert sum(protocol.histogram(counts, "started")) == 5
            assert sum(protocol.histogram(counts, "reported")) == 4

    run(test())


def test_counting_goes_on_after_redis_has_lost_its_data(rig: WatcherRig) -> None:
    async def test() -> None:
        async with rig.watching():
            launch = rig.launch()
            await until(lambda: plain(rig) == {"started": 1})
            rig.redis.flushall()
            await until(lambda: plain(rig).get("started") in (1, 2), 20, "what was counted before")
            rig.end(launch)
            await until(lambda: plain(rig).get("succeeded") == 1, 20)

    run(test())


class Counting:
    """A writer of its own, and what it reads."""

    def __init__(self, rig: WatcherRig) -> None:
        self.rig = rig
        rig.redis.hset(rig.names.watch("default"), mapping={"leader": TERM.leader, "fence": TERM.fence})
        self.client = redis.asyncio.Redis.from_url(rig.settings.redis_url)
        self.runner = AsyncScripts(self.client)
        self.writer = RollupWriter(self.runner, rig.names, "default")

    async def count(self, term: Term = TERM) -> dict[str, int]:
        await self.writer.sum_up(term)
        return plain(self.rig)

    async def publish(self, launch_id: str, outcome: str, cluster: str = "default", **fields: str) -> None:
        now = f"{time.time():.3f}"
        self.rig.redis.hset(self.rig.names.launch(launch_id), mapping={"attempt": "0", "cluster": cluster})
        call = scripts.publish(
            self.rig.names, cluster=cluster, fence=scripts.UNFENCED, launch_id=launch_id, attempt=0, outcome=outcome,
            result="sealed", now=now, results_max=100_000, fields=fields,
        )  # fmt: skip
        assert await self.runner.run(call) == 1


def count_with(rig: WatcherRig, test: Callable[[Counting], Awaitable[None]]) -> None:
    async def with_client() -> None:
        counting = Counting(rig)
        try:
            await counting.writer.load()
            await test(counting)
        finally:
            await counting.client.aclose()

    run(with_client())


def test_what_launchers_publish_counts_too_and_what_is_of_another_cluster_does_not(rig: WatcherRig) -> None:
    async def test(counting: Counting) -> None:
        await counting.publish("a", "failed", failure_class="configuration")
        await counting.publish("b", "failed", cluster="team-b")
        await counting.publish("e", "failed", failure_class="infrastructure")
        rig.redis.hset(rig.names.launch("e"), "attempt", "1")  # launched again before anybody counts
        await counting.publish("c", "pending")
        await counting.publish("d", "expired")
        assert await counting.count() == {
            "failed": 2, "failed:configuration": 1, "failed:infrastructure": 1, "expired": 1,
        }  # fmt: skip

    count_with(rig, test)


def test_a_long_stream_is_read_in_pieces(rig: WatcherRig) -> None:
    async def test(counting: Counting) -> None:
        for number in range(450):
            await counting.publish(
                f"l{number}", "started", t_created=f"{time.time() - 1:.3f}", t_started=f"{time.time():.3f}"
            )
        assert await counting.count() == {"started": 450}
        assert total(rig)[f"started:{EDGES_S.index(1.5)}"] + total(rig)[f"started:{EDGES_S.index(1.0)}"] == 450

    count_with(rig, test)


def test_a_former_leader_writes_nothing(rig: WatcherRig) -> None:
    async def test(counting: Counting) -> None:
        await counting.publish("a", "started")
        assert await counting.count(replace(TERM, fence="6")) == {}
        # The leader counts it.
        leader = RollupWriter(counting.runner, rig.names, "default")
        await leader.load()
        await leader.sum_up(TERM)
        assert plain(rig) == {"started": 1}

    count_with(rig, test)


def test_a_pause_of_all_launches_counts_as_throttled(rig: WatcherRig) -> None:
    async def test(counting: Counting) -> None:
        for until_s in (time.time() + 5, time.time() - 5, time.time() + 1e6, f"{time.time() + 5:.50f}", "nan", "<b>"):
            rig.redis.hset(rig.names.throttle("default"), "until", str(until_s))
            await counting.writer.sample_throttle()
        assert await counting.count() == {"throttled_ms": 100}

    count_with(rig, test)


def bad_cursor(rig: WatcherRig) -> None:
    rig.redis.hset(rig.names.rollups("default"), "cursor", "x" * 50)


def cursor_beyond_all_time(rig: WatcherRig) -> None:
    rig.redis.hset(rig.names.rollups("default"), "cursor", f"{2**64 - 1}-{2**64 - 1}")


def cursor_that_no_stream_has(rig: WatcherRig) -> None:
    rig.redis.hset(rig.names.rollups("default"), "cursor", f"{2**64}-0")


def another_type(rig: WatcherRig) -> None:
    rig.redis.delete(rig.names.rollups("default"))
    rig.redis.set(rig.names.rollups("default"), "not a hash")


def deleted(rig: WatcherRig) -> None:
    rig.redis.delete(rig.names.rollups("default"))


def many_fields(rig: WatcherRig) -> None:
    rig.redis.hset(rig.names.rollups("default"), mapping={str(10**10 + number): "1" for number in range(3000)})


def long_values(rig: WatcherRig) -> None:
    now = protocol.bucket_of(time.time(), time.time())
    rig.redis.hset(rig.names.rollups("default"), mapping={str(now): "x" * 1_000_000, "<b>": "1", "cursor": "1" * 9999})


@pytest.mark.parametrize(
    "damage",
    [bad_cursor, cursor_beyond_all_time, cursor_that_no_stream_has, another_type, deleted, many_fields, long_values],
)
def test_what_somebody_else_writes_stops_nothing(rig: WatcherRig, damage: Callable[[WatcherRig], None]) -> None:
    async def test(counting: Counting) -> None:
        await counting.publish("a", "started")
        await counting.count()
        damage(rig)
        await counting.publish("b", "started")
        await counting.count()
        await counting.publish("c", "started")
        assert await counting.count() == {"started": 3}
        assert rig.redis.hlen(rig.names.rollups("default")) < 10
        # A leader that starts with the damage counts what comes.
        damage(rig)
        leader = RollupWriter(counting.runner, rig.names, "default")
        await leader.load()
        await counting.publish("d", "started")
        await leader.sum_up(TERM)
        await counting.publish("e", "started")
        await leader.sum_up(TERM)
        assert plain(rig).get("started", 0) >= 1

    count_with(rig, test)


def test_a_stream_that_was_replaced_is_read_from_its_end(rig: WatcherRig) -> None:
    async def test(counting: Counting) -> None:
        rig.redis.xadd(rig.names.results, {"launch": "x"}, id=f"{10**15}-0")
        await counting.count()
        rig.redis.delete(rig.names.results)
        await counting.publish("a", "started")
        assert await counting.count() == {}
        await counting.publish("b", "started")
        assert await counting.count() == {"started": 1}

    count_with(rig, test)
