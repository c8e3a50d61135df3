"""A launcher in a Redis that is full, or that refuses single writes: no lease, launch or clean-up order is lost."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from aiohttp import web

from podrelay.errors import RedisUnavailable
from podrelay.protocol import redis_keys
from podrelay.store.connection import connect_async
from podrelay_workers.launcher import registration
from podrelay_workers.launcher.job_queue import JobQueue
from podrelay_workers.launcher.leased_job import Job, back, created, done, failed, wait
from podrelay_workers.launcher.leases import Leases
from tests.harness.launcher_rig import LauncherRig
from tests.harness.pod_api import status
from tests.harness.waiting import until


@pytest.fixture(autouse=True)
def _memory_again(rig: LauncherRig) -> Iterator[None]:
    yield
    rig.redis.config_set("maxmemory", 0)


def test_launches_that_wait_and_are_given_back_survive_a_full_redis(rig: LauncherRig) -> None:
    requests = rig.offer_many(30, namespace="full") + rig.offer_many(10, namespace="free")
    counter = itertools.count()

    def sometimes_busy(*_: Any) -> web.Response | None:
        return status(503, "ServiceUnavailable", "busy") if next(counter) % 4 == 1 else None

    rig.api.fault = sometimes_busy
    rig.api.quota["full"] = 5

    async def scenario() -> None:
        async with rig.launcher():
            await until(lambda: rig.states(requests).get("created", 0) > 5, 20)
            rig.redis.config_set("maxmemory", 1)
            await until(lambda: rig.redis.zcard(redis_keys.rq_scheduled(rig.names.launch_queue("default"))) > 0, 10)
        # The launcher has given back what it held, and another continues: Redis is still full.
        rig.api.quota.clear()
        async with rig.launcher():
            await until(lambda: rig.states(requests) == {"created": 40}, 30)

    asyncio.run(scenario())
    assert rig.in_hand() == 0
    assert set(rig.api.names.values()) == {1}
    assert rig.quarantined() == []


def test_leases_and_registration_are_renewed_in_a_full_redis(rig: LauncherRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registration, "HEARTBEAT_S", 0.3)
    request = rig.request()
    rig.offer(request)
    rig.api.latency_s = 2.5 * rig.settings.launch_lease_s

    async def scenario() -> None:
        async with rig.launcher() as launcher:
            key = rig.names.worker("default", launcher.name)
            # A registration is renewed in a full Redis, and not made: it may come after the first claim.
            await until(lambda: rig.in_hand() and rig.redis.exists(key))
            rig.redis.config_set("maxmemory", 1)
            rig.redis.expire(key, 20)
            await asyncio.sleep(1.5 * rig.settings.launch_lease_s)
            assert rig.redis.ttl(key) > 50
            assert rig.in_hand() == 1
            assert rig.ledger(request)["state"] == "claimed"
            await until(lambda: rig.ledger(request)["state"] == "created")

    asyncio.run(scenario())


def test_a_forged_job_is_put_aside_once_in_a_full_redis(rig: LauncherRig) -> None:
    request = rig.request()
    rig.offer(request)
    rig.redis.hset(f"rq:job:{request.launch_id}_0", "data", "forged")

    async def scenario() -> None:
        rig.redis.config_set("maxmemory", 1)
        async with rig.launcher():
            await until(lambda: rig.redis.hget(f"rq:job:{request.launch_id}_0", "status") == "failed")

    asyncio.run(scenario())
    assert [entry["job"] for entry in rig.quarantined()] == [f"{request.launch_id}_0"]


@pytest.fixture
def guarded(rig: LauncherRig) -> Iterator[str]:
    """URL for a user who may not do everything; the rights of `launcher` change during a test."""
    rig.redis.execute_command("ACL", "SETUSER", "launcher", "on", ">p", "~*", "&*", "+@all")
    yield rig.settings.redis_url.replace("//", "//launcher:p@")
    rig.redis.execute_command("ACL", "DELUSER", "launcher")


@pytest.mark.parametrize(
    ("what", "right"), [("failed", "xadd"), ("wait", "hincrby"), ("back", "lpush"), ("created", "hdel"), ("done", "expire"),
                        ("abandon", "rpush"), ("order", "rpush")],
)  # fmt: skip
def test_an_outcome_that_redis_refuses_stays_in_hand(rig: LauncherRig, guarded: str, what: str, right: str) -> None:
    request = rig.request()
    rig.offer(request)

    async def scenario() -> None:
        client = connect_async(rig.settings, timeout_s=2.0)
        denied = redis.asyncio.Redis.from_url(guarded)
        queue = JobQueue(denied, rig.settings, rig.cipher, "launch", "w", "default")
        leases = Leases(queue, rig.settings.launch_lease_s)
        (job,) = (await queue.claim(1)).jobs
        leases.hold([job])
        rig.redis.execute_command("ACL", "SETUSER", "launcher", f"-{right}")
        leases.finish(disposition(queue, job, what))
        with pytest.raises(RedisUnavailable, match="denies"):
            await leases.flush()
        await leases.renew()
        assert (rig.in_hand(), len(leases)) == (1, 1)
        rig.redis.execute_command("ACL", "SETUSER", "launcher", f"+{right}")
        await leases.flush()
        assert (rig.in_hand(), len(leases)) == ((1, 1) if what == "order" else (0, 0))
        await denied.aclose()
        await client.aclose()

    asyncio.run(scenario())
    places = {
        "wait": redis_keys.rq_scheduled(rig.names.launch_queue("default")),
        "back": redis_keys.rq_queue(rig.names.launch_queue("default")),
        "failed": redis_keys.rq_failed(rig.names.launch_queue("default")),
        "abandon": redis_keys.rq_queue(rig.names.cleanup_queue("default")),
        "order": redis_keys.rq_queue(rig.names.cleanup_queue("default")),
    }
    if what in places:
        assert rig.redis.exists(places[what])


def disposition(queue: JobQueue, job: Job, what: str) -> Any:
    from podrelay.protocol.messages import CleanupRequest

    cleanup = CleanupRequest(job.launch_id, "revoke", "default", "pod-1")
    made = {
        "failed": lambda: failed(job, "why"),
        "wait": lambda: wait(job, 60.0, "Quota", "q"),
        "back": lambda: back(job),
        "created": lambda: created(job, "pod-1", "default", "u"),
        "done": lambda: done(job),
        "abandon": lambda: queue.with_cleanup(job, cleanup, 0, "abandon"),
        "order": lambda: queue.with_cleanup(job, cleanup, 0),
    }
    return made[what]()


def test_a_job_whose_keys_are_of_another_type_is_released(rig: LauncherRig) -> None:
    request = rig.request()
    rig.offer(request)

    async def scenario() -> None:
        client = connect_async(rig.settings)
        queue = JobQueue(client, rig.settings, rig.cipher, "launch", "w", "default")
        (job,) = (await queue.claim(1)).jobs
        rig.redis.delete(f"rq:job:{job.id}")
        rig.redis.set(f"rq:job:{job.id}", "not a hash")
        assert await queue.finish([back(job)]) == ["ok"], "as if an operator had deleted the job"
        await client.aclose()

    asyncio.run(scenario())
    assert rig.in_hand() == 0
    assert rig.quarantined() == [
        {"key": f"rq:job:{request.launch_id}_0", "kind": "malformed", "why": "a key of another type, deleted"}
    ]
