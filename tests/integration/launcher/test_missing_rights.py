"""A launcher whose Redis user lacks a right loses no job and quarantines none; a forged name in Redis costs no right."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from podrelay.errors import RedisUnavailable
from podrelay.protocol import access, redis_keys
from podrelay.store.connection import connect_async
from podrelay_workers.launcher.job_queue import JobQueue
from podrelay_workers.launcher.leased_job import back
from tests.harness.launcher_rig import LauncherRig

USER = "of-a-launcher"


@pytest.fixture
def guarded(rig: LauncherRig) -> Iterator[LauncherRig]:
    """The rig's launchers log in as a user with the rights of a launcher."""
    version = int(rig.redis.info("server")["redis_version"].split(".")[0])
    rules = access.rules("launcher", "default", "default", read_only_patterns=version >= 7)
    rig.redis.execute_command("ACL", "SETUSER", USER, "on", ">p", *rules.split())
    yield rig
    rig.redis.execute_command("ACL", "DELUSER", USER)
    rig.redis.acl_log_reset()


def queue_as_user(rig: LauncherRig) -> tuple[JobQueue, object]:
    from dataclasses import replace

    settings = replace(rig.settings, redis_url=rig.settings.redis_url.replace("//", f"//{USER}:p@"))
    client = connect_async(settings, timeout_s=2.0)
    return JobQueue(client, settings, rig.cipher, "launch", "w", "default"), client


@pytest.mark.parametrize("right", ["zadd", "hset", "hget", "hmget"])
def test_a_claim_without_a_right_takes_no_job(guarded: LauncherRig, right: str) -> None:
    requests = guarded.offer_many(3)
    ids = guarded.redis.lrange(redis_keys.rq_queue(guarded.names.launch_queue("default")), 0, -1)

    async def scenario() -> None:
        queue, client = queue_as_user(guarded)
        guarded.redis.execute_command("ACL", "SETUSER", USER, f"-{right}")
        for _ in range(2):
            with pytest.raises(RedisUnavailable, match=f"denies .* to the user ({USER}|default)"):
                await queue.claim(10)
        assert guarded.quarantined() == []
        assert guarded.redis.lrange(redis_keys.rq_queue(queue.queues[-1]), 0, -1) == ids, "in their order"
        guarded.redis.execute_command("ACL", "SETUSER", USER, f"+{right}")
        claimed = (await queue.claim(10)).jobs
        assert [job.id for job in claimed] == ids
        await queue.finish([back(job) for job in claimed])
        await client.aclose()  # type: ignore[attr-defined]

    asyncio.run(scenario())
    assert guarded.states(requests) == {"offered": 3}


def test_a_forged_name_costs_no_right(guarded: LauncherRig) -> None:
    """What anybody may write into a list, a registry or a hash names keys to which a launcher has no rights."""
    names, admin = guarded.names, guarded.redis
    level = names.launch_queue("default")
    (request,) = guarded.offer_many(1)
    admin.lpush(redis_keys.rq_queue(level), "mail")
    admin.zadd(redis_keys.rq_scheduled(level), {"mail": 1})
    admin.zadd(redis_keys.rq_started(level), {"mail:e": 1, "mail": 1})
    admin.zadd(redis_keys.rq_finished(level), {"mail": 4e9})
    admin.hset(names.fair_queues("default"), mapping={"mail": level, f"{level}2": level})
    admin.rpush("rq:queue:mail", "of-somebody-else")

    async def scenario() -> None:
        queue, client = queue_as_user(guarded)
        await queue.reap()
        (job,) = (await queue.claim(10)).jobs
        assert job.id == f"{request.launch_id}_0"
        assert await queue.finish([back(job)]) == ["ok"]
        await client.aclose()  # type: ignore[attr-defined]

    asyncio.run(scenario())
    assert [entry["username"] for entry in admin.acl_log() if entry["username"] == USER] == []
    assert admin.lrange("rq:queue:mail", 0, -1) == ["of-somebody-else"]
    assert {entry["job"] for entry in guarded.quarantined()} == {"mail"}
    assert set(admin.hkeys(names.fair_queues("default"))) <= {level}
