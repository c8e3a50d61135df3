"""When reports are published, and in which order."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import redis
from cryptography.fernet import Fernet

from podrelay.protocol.encryption import PayloadCipher
from podrelay.protocol.messages import PodReport
from podrelay.protocol.redis_keys import RedisKeys
from podrelay.settings import Settings
from podrelay.store.async_scripts import AsyncScripts
from podrelay.store.connection import connect_async
from podrelay_workers.watcher import outbox as outbox_module
from podrelay_workers.watcher.leader_election import LeaderElection, Term
from podrelay_workers.watcher.outbox import Outbox
from podrelay_workers.watcher.pod_table import Publication

KEY = Fernet.generate_key().decode()
KEYS = RedisKeys("default")


@asynccontextmanager
async def leading(redis_url: str) -> AsyncIterator[tuple[Outbox, Term, Any]]:
    client = connect_async(Settings(redis_url, KEY))
    scripts = AsyncScripts(client)
    try:
        term = await LeaderElection(scripts, KEYS, "default", 30.0).claim()
        assert term is not None
        with redis.Redis.from_url(redis_url, decode_responses=True) as reader:
            yield Outbox(scripts, KEYS, PayloadCipher(KEY, "default"), "default", 10_000), term, reader
    finally:
        await client.aclose()


def publication(launch_id: str, outcome: Any, pod: str = "p", attempt: int = 0) -> Publication:
    return Publication(launch_id, attempt, PodReport(launch_id, attempt, outcome, pod=pod, namespace="n"), {"pod": pod})


def test_ends_are_published_before_progress(redis_url: str) -> None:
    """A burst of ends waits for no other report; those of one launch keep their order."""

    async def test() -> None:
        async with leading(redis_url) as (outbox, term, reader):
            for number in range(outbox_module.BATCH + 50):
                outbox.put(publication(f"running-{number}", "started"))
            outbox.put(publication("ended", "started", attempt=0))
            outbox.put(publication("ended", "succeeded", attempt=1))
            outbox.put(publication("failed", "failed"))
            await outbox.flush(term)
            found = [(item["launch"], item["outcome"]) for _, item in reader.xrange(KEYS.results)]
        assert found[:3] == [("ended", "started"), ("ended", "succeeded"), ("failed", "failed")]
        assert len(found) == outbox_module.BATCH + 53

    asyncio.run(test())


def test_a_report_after_a_silence_is_published_at_once_and_the_next_ones_together(
    redis_url: str, monkeypatch: Any
) -> None:
    monkeypatch.setattr(outbox_module, "GATHER_S", 1.0)

    async def test() -> None:
        async with leading(redis_url) as (outbox, term, reader):
            await outbox.flush(term)
            publishing = asyncio.create_task(outbox.run(term))
            try:
                put_s = time.monotonic()
                outbox.put(publication("first", "succeeded"))
                while not reader.xlen(KEYS.results):
                    await asyncio.sleep(0.01)
                assert time.monotonic() - put_s < 0.9
                for number in range(3):
                    outbox.put(publication(f"next-{number}", "succeeded"))
                    await asyncio.sleep(0.01)
                assert reader.xlen(KEYS.results) == 1
                while reader.xlen(KEYS.results) < 4:
                    assert time.monotonic() - put_s < 5
                    await asyncio.sleep(0.01)
                assert time.monotonic() - put_s >= 1.0
            finally:
                publishing.cancel()

    asyncio.run(test())


def test_a_launch_is_restored_before_its_report_though_redis_has_lost_a_script(redis_url: str) -> None:
    """The report alone would leave an entry without an owner, which no later restoration completes."""

    async def test() -> None:
        async with leading(redis_url) as (outbox, term, reader):
            reader.script_flush()
            outbox.put(publication("other", "started"))
            await outbox.flush(term)  # this loads one script of the two
            found = publication("l-1", "started")
            outbox.put(replace(found, restore={"pod": "p", "owner": "7"}))
            await outbox.flush(term)
            entry = reader.hgetall(KEYS.launch("l-1"))
            assert (entry["state"], entry.get("owner")) == ("started", "7")

    asyncio.run(test())
