"""Schedulers with launches of equal priority are served in turn; nothing else changes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from redis import Redis

from podrelay.cli.status import overview
from podrelay.protocol import identifiers, redis_keys
from podrelay.protocol.messages import LaunchRequest
from podrelay.store.connection import connect_async
from podrelay_workers.launcher.job_queue import JobQueue
from podrelay_workers.launcher.leased_job import Job, back, created, done, wait
from tests.harness.launcher_rig import LauncherRig
from tests.harness.waiting import until

Scenario = Callable[[JobQueue], Awaitable[Any]]


def run(rig: LauncherRig, scenario: Scenario) -> Any:
    """Run a scenario with a `JobQueue` of launches."""

    async def inside() -> Any:
        client = connect_async(rig.settings)
        try:
            return await scenario(JobQueue(client, rig.settings, rig.cipher, "launch", "w", "default"))
        finally:
            await client.aclose()

    return asyncio.run(inside())


def jobs_of(requests: list[LaunchRequest]) -> list[str]:
    return [identifiers.job_id(request.launch_id, request.attempt) for request in requests]


def ids(jobs: list[Job]) -> list[str]:
    return [job.id for job in jobs]


async def claimed(intake: JobQueue, most: int, calls: int = 1_000_000) -> list[str]:
    """The jobs of this many claims, or of all."""
    found: list[str] = []
    for _ in range(calls):
        claim = await intake.claim(most)
        found += ids(claim.jobs)
        if not claim.jobs:
            break
    return found


def shown(rig: LauncherRig) -> list[str]:
    """The launch queues that rq-dashboard lists, without their common prefix."""
    base = redis_keys.rq_queue(rig.names.launch_queue("default"))
    return sorted(key.removeprefix(base) for key in rig.redis.smembers(redis_keys.RQ_QUEUES) if key.startswith(base))


def side(rig: LauncherRig, owner: str, level: int = 0) -> str:
    return rig.names.launch_queue("default", level) + redis_keys.fair_queue_mark(owner)


# --- in turn ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("most", "within"), [(1, 20), (7, 22), (64, 32)])
def test_a_few_overtake_the_backlog_of_another_scheduler(rig: LauncherRig, most: int, within: int) -> None:
    rig.offer_many(5000, owner="a")
    few = jobs_of(rig.offer_many(10, owner="b"))

    async def scenario(intake: JobQueue) -> None:
        found = await claimed(intake, most, 1 + 40 // most)
        places = [found.index(job) for job in few]
        assert max(places) < (within if most < 64 else 64)
        assert places == sorted(places)

    run(rig, scenario)


@pytest.mark.parametrize("most", [1, 2, 3, 5, 64])
def test_three_share_evenly(rig: LauncherRig, most: int) -> None:
    owner_of = {job: owner for owner in "abc" for job in jobs_of(rig.offer_many(200, owner=owner))}

    async def scenario(intake: JobQueue) -> None:
        shares = Counter(owner_of[job] for job in await claimed(intake, most, 192 // most))
        assert max(shares.values()) - min(shares.values()) <= 1, shares
        assert len(shares) == 3

    run(rig, scenario)


def test_launchers_that_take_one_by_one_share_the_turn(rig: LauncherRig) -> None:
    rig.offer_many(100, owner="a")
    others = set(jobs_of(rig.offer_many(100, owner="b")))

    async def scenario(intake: JobQueue) -> None:
        second = JobQueue(intake._runner.client, rig.settings, rig.cipher, "launch", "w2", "default")
        found = [ids((await which.claim(1)).jobs)[0] for which in [intake, second] * 20]
        assert len(others & set(found)) == 20

    run(rig, scenario)


def test_who_runs_out_leaves_the_rest_to_the_others(rig: LauncherRig) -> None:
    rig.offer_many(100, owner="a")
    rig.offer_many(3, owner="b")

    async def scenario(intake: JobQueue) -> None:
        claim = await intake.claim(64)
        assert (len(claim.jobs), claim.more) == (64, True)
        claim = await intake.claim(64)
        assert (len(claim.jobs), claim.more) == (39, False)

    run(rig, scenario)


def test_the_order_of_one_scheduler_stays(rig: LauncherRig) -> None:
    offered: dict[str, list[str]] = {"a": [], "b": [], "c": []}

    async def scenario(intake: JobQueue) -> None:
        found: list[str] = []
        for turn in range(30):
            for owner, count in (("a", 9), ("b", 4), ("c", turn % 3)):
                offered[owner] += jobs_of(rig.offer_many(count, owner=owner))
            # Now and then every waiting job is claimed, and another scheduler becomes the first.
            found += await claimed(intake, 64) if turn % 10 == 9 else ids((await intake.claim(11)).jobs)
        for owner, sent in offered.items():
            assert [job for job in found if job in set(sent)] == sent, owner

    run(rig, scenario)


def test_who_waits_aside_goes_on_there_when_the_levels_queue_is_empty(rig: LauncherRig) -> None:
    rig.offer_many(2, owner="a")
    offered = jobs_of(rig.offer_many(20, owner="b"))

    async def scenario(intake: JobQueue) -> None:
        claim = await intake.claim(6)
        assert (len(claim.jobs), claim.more) == (6, True)
        assert not rig.redis.exists(redis_keys.rq_queue(rig.names.launch_queue("default")))
        found = ids(claim.jobs) + ids((await intake.claim(2)).jobs)
        assert len(found) == 8
        offered.extend(jobs_of(rig.offer_many(5, owner="b")))
        found += await claimed(intake, 4)
        assert [job for job in found if job in offered] == offered

    run(rig, scenario)


def test_a_higher_level_still_goes_first_and_the_lowest_has_its_share(rig: LauncherRig) -> None:
    rig.offer_many(100, owner="a")
    rig.offer_many(100, owner="b")
    urgent = jobs_of(rig.offer_many(60, owner="b", priority=10) + rig.offer_many(60, owner="a", priority=10))

    async def scenario(intake: JobQueue) -> None:
        found = ids((await intake.claim(64)).jobs)
        assert len(set(found) & set(urgent)) == 56, "one slot in eight is for the lowest level"
        found = await claimed(intake, 64, 2)
        assert set(found[8:64]) <= set(urgent)
        assert len(set(found) & set(urgent)) == 64

    run(rig, scenario)


def test_the_lowest_share_goes_in_turn_too(rig: LauncherRig) -> None:
    owner_of = {job: owner for owner in "ab" for job in jobs_of(rig.offer_many(20, owner=owner))}
    rig.offer_many(200, owner="a", priority=10)

    async def scenario(intake: JobQueue) -> None:
        low = Counter(owner_of[job] for job in await claimed(intake, 1, 160) if job in owner_of)
        assert low == {"a": 10, "b": 10}

    run(rig, scenario)


# --- what tools see ---------------------------------------------------------------------------------------------------
def test_a_scheduler_alone_has_the_levels_queues_only(rig: LauncherRig) -> None:
    async def scenario(intake: JobQueue) -> None:
        for _ in range(5):
            rig.offer_many(200, owner="a")
            rig.offer_many(5, owner="a", priority=8)
            jobs = (await intake.claim(64)).jobs
            await intake.finish([*map(back, jobs[:9]), wait(jobs[9], 0.0, "Throttled", "slow down")])
            assert shown(rig) == ["", ".p8"]
            assert not rig.redis.exists(rig.names.fair_queues("default"))
        assert len(await claimed(intake, 64)) > 500

    run(rig, scenario)


def test_a_side_queue_is_listed_while_something_is_in_it(rig: LauncherRig) -> None:
    async def scenario(intake: JobQueue) -> None:
        first = rig.offer_many(10, owner="a")
        second = rig.offer_many(10, owner="b")
        assert shown(rig) == ["", ".by-b"]
        assert rig.redis.lrange(redis_keys.rq_queue(side(rig, "b")), 0, -1) == jobs_of(second)
        assert len((await intake.claim(20)).jobs) == 20
        assert shown(rig) == [""]
        assert not rig.redis.exists(rig.names.fair_queues("default"))
        assert {rig.ledger(request)["queue"] for request in first + second} == {rig.names.launch_queue("default")}
        # No launch waits now: the next scheduler gets the level's queue.
        rig.offer_many(1, owner="b")
        rig.offer_many(1, owner="a")
        assert shown(rig) == ["", ".by-a"]

    run(rig, scenario)


@pytest.mark.parametrize("owner", ["", "p8", "by-7", "7", "a b/c", "x:y.z", "ö\n", "o" * 300])
def test_any_owner_makes_a_queue_that_rq_and_its_dashboard_can_name(rig: LauncherRig, owner: str) -> None:
    rig.offer_many(2, owner="first")
    rig.offer_many(2, owner=owner)
    (mark,) = set(shown(rig)) - {""}
    assert mark not in {f".p{1 << level}" for level in range(redis_keys.PRIORITY_LEVELS)}
    assert len(mark) < 50
    assert set(mark) <= set(".-_abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")

    async def scenario(intake: JobQueue) -> None:
        assert len((await intake.claim(64)).jobs) == 4

    run(rig, scenario)
    assert shown(rig) == [""]


def test_status_counts_what_waits_beside_a_level(rig: LauncherRig, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in rig.environment().items():
        monkeypatch.setenv(name, value)
    rig.offer_many(30, owner="a")
    rig.offer_many(7, owner="b")
    rig.offer_many(2, owner="b", priority=8)

    async def scenario(intake: JobQueue) -> None:
        # Leaves the field with the last served owner beside the fair queues.
        await intake.finish([back(job) for job in (await intake.claim(8)).jobs])

    run(rig, scenario)
    assert rig.redis.hget(rig.names.fair_queues("default"), rig.names.launch_queue("default"))
    queues = overview(None, 0.0)["queues"]
    assert sum(counts["queued"] for counts in queues.values()) == 39
    assert list(queues) == [
        rig.names.launch_queue("default", 3),
        rig.names.launch_queue("default"),
        side(rig, "b"),
        rig.names.cleanup_queue("default"),
    ]


# --- what goes wrong --------------------------------------------------------------------------------------------------
def test_what_was_put_back_or_reaped_or_is_due_comes_first(rig: LauncherRig) -> None:
    rig.offer_many(20, owner="a")
    rig.offer_many(20, owner="b")

    async def scenario(intake: JobQueue) -> None:
        jobs = (await intake.claim(8)).jobs
        mine = [job for job in jobs if rig.redis.hget(rig.names.launch(job.launch_id), "owner") == "b"]
        put, late, lost, *rest = mine
        await intake.finish([back(put), wait(late, 0.0, "Throttled", "slow down"), *map(done, rest)])
        await intake.finish([done(job) for job in jobs if job not in mine])
        level = rig.names.launch_queue("default")
        rig.redis.zadd(redis_keys.rq_started(level), {f"{lost.id}:{lost.execution}": 1})
        assert (await intake.reap())[0] == 1
        assert set(ids((await intake.claim(6)).jobs)) > {put.id, late.id, lost.id}

    run(rig, scenario)


def test_a_withdrawn_launch_in_a_side_queue_is_not_claimed(rig: LauncherRig) -> None:
    rig.offer_many(2, owner="a")
    gone, stays = rig.offer_many(2, owner="b")
    rig.queue.withdraw([(gone.launch_id, gone.subject)])

    async def scenario(intake: JobQueue) -> None:
        found = await claimed(intake, 64)
        assert len(found) == 3
        assert jobs_of([stays])[0] in found

    run(rig, scenario)
    assert shown(rig) == [""]


def test_after_a_flush_everything_is_handed_over_anew(rig: LauncherRig) -> None:
    first, second = rig.offer_many(20, owner="a"), rig.offer_many(20, owner="b")

    async def scenario(intake: JobQueue) -> None:
        held = (await intake.claim(4)).jobs
        rig.redis.flushall()
        assert await intake.finish([created(job, "p", "default", "u") for job in held]) == ["lost"] * 4
        assert rig.offer(*second) == ["offered"] * 20
        assert rig.offer(*first) == ["offered"] * 20
        assert shown(rig) == ["", ".by-a"]
        assert sorted(await claimed(intake, 7)) == sorted(jobs_of(first + second))

    run(rig, scenario)


def test_a_side_queue_that_the_hash_has_lost_is_found_again(rig: LauncherRig) -> None:
    rig.offer_many(3, owner="a")
    rig.offer_many(3, owner="b", priority=1)
    rig.offer_many(3, owner="a", priority=9)
    rig.offer_many(3, owner="b", priority=9)
    rig.redis.delete(rig.names.fair_queues("default"))

    async def scenario(intake: JobQueue) -> None:
        assert len(await claimed(intake, 64)) == 6
        assert await intake.reap() == (0, [])
        assert len(await claimed(intake, 64)) == 6

    run(rig, scenario)
    assert shown(rig) == ["", ".p8"]


def test_the_next_offer_makes_a_lost_side_queue_known(rig: LauncherRig) -> None:
    rig.offer_many(3, owner="a")
    rig.offer_many(3, owner="b")
    rig.redis.delete(rig.names.fair_queues("default"))
    rig.offer_many(1, owner="b")

    async def scenario(intake: JobQueue) -> None:
        assert len(await claimed(intake, 64)) == 7

    run(rig, scenario)


def test_a_hash_that_names_no_level_of_ours_keeps_nobody_busy(rig: LauncherRig) -> None:
    rig.redis.hset(rig.names.fair_queues("default"), mapping={"elsewhere": "other", "x": "7"})
    rig.redis.rpush(redis_keys.rq_queue("elsewhere"), "y")
    rig.offer_many(2, owner="a")

    async def scenario(intake: JobQueue) -> None:
        claim = await intake.claim(2)
        assert (len(claim.jobs), claim.more) == (2, False)

    run(rig, scenario)
    assert rig.redis.llen(redis_keys.rq_queue("elsewhere")) == 1


def test_the_clean_up_queue_has_no_side(rig: LauncherRig) -> None:
    rig.offer_many(2, owner="a")
    rig.offer_many(2, owner="b")

    async def scenario(intake: JobQueue) -> None:
        cleanups = JobQueue(intake._runner.client, rig.settings, rig.cipher, "cleanup", "w", "default")
        claim = await cleanups.claim(64)
        assert (claim.jobs, claim.more) == ([], False)
        await cleanups.reap()
        assert len((await intake.claim(64)).jobs) == 4

    run(rig, scenario)


def test_a_launcher_serves_two_schedulers(rig: LauncherRig) -> None:
    """End to end: pods of the second scheduler are created while launches of the first still wait."""
    rig.api.latency_s = 0.02
    backlog = rig.offer_many(300, owner="a")

    async def scenario() -> None:
        async with rig.launcher(launcher_concurrency=8):
            await until(lambda: len(rig.api.creates) > 20)
            few = rig.offer_many(20, owner="b")
            await until(lambda: rig.states(few) == {"created": 20})
            assert rig.states(backlog).get("created", 0) < 150

    asyncio.run(scenario())


def test_emptied_in_the_dashboard_its_jobs_are_handed_over_again(rig: LauncherRig) -> None:
    rq = pytest.importorskip("rq")
    from rq.serializers import JSONSerializer

    from podrelay.store.circuit_breaker import CircuitBreaker
    from podrelay.store.ledger import Ledger

    kept, lost = rig.offer_many(2, owner="a"), rig.offer_many(2, owner="b")
    raw = Redis.from_url(rig.settings.redis_url)
    rq.Queue(side(rig, "b"), connection=raw, serializer=JSONSerializer).delete(delete_jobs=True)

    async def scenario(intake: JobQueue) -> None:
        assert sorted(await claimed(intake, 64)) == sorted(jobs_of(kept))
        _, found = Ledger(CircuitBreaker(rig.settings), rig.names).survey([(one.launch_id, 0) for one in kept + lost])
        assert {finding.launch_id: finding.what for finding in found} == {one.launch_id: "lost" for one in lost}
        assert rig.offer(*lost) == ["offered"] * 2
        assert sorted(await claimed(intake, 64)) == sorted(jobs_of(lost))

    run(rig, scenario)
    assert not rig.redis.exists(rig.names.fair_queues("default"))
