"""The figures of the whole deployment: what the overview holds, as gauges of the leading watcher."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
import redis

from podrelay import metrics_table
from podrelay.errors import RedisUnavailable
from podrelay.protocol import redis_keys
from podrelay.protocol.redis_keys import RedisKeys
from podrelay.settings import Settings
from podrelay.store.overview import read_overview
from podrelay_workers.runtime.metrics import Metrics
from podrelay_workers.runtime.tasks import cancel_and_wait
from podrelay_workers.watcher import overview_metrics
from podrelay_workers.watcher.overview_metrics import EXPORTED, OverviewMetrics, figures_of
from tests.harness.waiting import until

NOW_S = time.time()


@pytest.fixture
def client(redis_url: str) -> Any:
    return redis.Redis.from_url(redis_url)


def figures(client: Any) -> Any:
    return figures_of(read_overview(client, RedisKeys(), "default", NOW_S))


def test_an_empty_redis_has_every_figure(client: Any) -> None:
    found = figures(client)
    assert set(found) == set(EXPORTED)
    assert found[metrics_table.LAUNCHERS] == {("alive",): 0, ("silent",): 0, ("throttled",): 0, ("draining",): 0}
    assert found[metrics_table.QUARANTINE] == 0
    assert found[metrics_table.LIST_AGE] is None, "nothing was ever listed"


def test_queues_and_waits(client: Any) -> None:
    keys = RedisKeys()
    level = keys.launch_queue("default", 3)
    fair = level + redis_keys.fair_queue_mark("9")
    client.hset(keys.fair_queues("default"), fair, level)
    for number, queue in enumerate((level, fair, fair, keys.cleanup_queue("default"))):
        client.rpush(redis_keys.rq_queue(queue), f"l{number}_0")
        client.hset(keys.launch(f"l{number}"), mapping={"t_offered": NOW_S - 10 * number, "t_acknowledged": NOW_S - 7})
    for number, reason in enumerate(("QuotaExceeded", "QuotaExceeded", "<b>", "what somebody wrote")):
        client.zadd(redis_keys.rq_scheduled(level), {f"w{number}_0": NOW_S})
        client.hset(keys.launch(f"w{number}"), mapping={"reason": reason, "t_offered": NOW_S - 100 - number})
    found = figures(client)
    queued, oldest_s = found[metrics_table.QUEUE], found[metrics_table.OLDEST_QUEUED]
    assert queued["p8", "queued"] == 3, "the queue of a level, and the fair queues beside it"
    assert queued["p8", "waiting"] == 4
    assert queued["cleanup", "queued"] == 1
    assert oldest_s["p8",] == pytest.approx(10.0, abs=0.1)
    assert oldest_s["cleanup",] == pytest.approx(7.0, abs=0.1)
    waiting, oldest_wait_s = found[metrics_table.WAITING], found[metrics_table.OLDEST_WAIT]
    assert (waiting["QuotaExceeded",], waiting["other",], waiting["NoLauncher",]) == (2, 2, 3)
    assert oldest_wait_s["QuotaExceeded",] == pytest.approx(101.0, abs=0.1)
    assert oldest_wait_s["other",] == pytest.approx(103.0, abs=0.1)


def test_only_a_leader_exports_and_nothing_old(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics, leads = Metrics("watcher", "default"), False
    overview = OverviewMetrics(Settings(redis_url, ""), "default", metrics, lambda: leads)
    monkeypatch.setattr(overview_metrics, "STANDBY_S", 0.05)

    def exported() -> bool:
        return b"podrelay_quarantine_entries{" in metrics.render("")[0]

    async def test() -> None:
        nonlocal leads
        task = asyncio.create_task(overview.keep())
        await asyncio.sleep(0.2)
        assert not exported()
        leads = True
        await until(exported)
        leads = False
        assert not exported()
        leads = True
        monkeypatch.setattr(overview_metrics, "OBSOLETE_S", 0.0)
        assert not exported()
        await cancel_and_wait(task)

    asyncio.run(test())


def test_redis_away_is_an_error_of_podrelay() -> None:
    overview = OverviewMetrics(
        Settings("redis://127.0.0.1:1", ""), "default", Metrics("watcher", "default"), lambda: True
    )
    with pytest.raises(RedisUnavailable):
        asyncio.run(overview.read())
