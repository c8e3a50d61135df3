"""The job queue on a real Redis: claims, leases, dispositions and throttles, without a launcher around it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from podrelay.protocol import redis_keys
from podrelay.store.connection import connect_async
from podrelay_workers.launcher import job_queue as module
from podrelay_workers.launcher.job_queue import JobQueue
from podrelay_workers.launcher.leased_job import Job, back, created, done, failed, wait
from tests.harness.launcher_rig import LauncherRig

Scenario = Callable[[JobQueue, JobQueue], Awaitable[Any]]


@pytest.fixture
def two(rig: LauncherRig) -> Iterator[Callable[[Scenario], Any]]:
    """Run a scenario with two job queues over the same launch queues."""

    def run(scenario: Scenario) -> Any:
        async def inside() -> Any:
            client = connect_async(rig.settings)
            made = [JobQueue(client, rig.settings, rig.cipher, "launch", name, "default") for name in ("a", "b")]
            try:
                return await scenario(*made)
            finally:
                await client.aclose()

        return asyncio.run(inside())

    yield run


def test_two_launchers_never_claim_the_same_job(rig: LauncherRig, two: Callable[[Scenario], Any]) -> None:
    requests = rig.offer_many(500)

    async def drain(queue: JobQueue) -> list[str]:
        taken: list[str] = []
        while True:
            jobs = (await queue.claim(7)).jobs
            if not jobs:
                return taken
            taken += [job.id for job in jobs]

    async def scenario(a: JobQueue, b: JobQueue) -> None:
        first, second = await asyncio.gather(drain(a), drain(b))
        assert Counter(first + second) == Counter(f"{request.launch_id}_0" for request in requests)
        assert first
        assert second

    two(scenario)
    assert rig.states(requests) == {"claimed": 500}


def test_a_job_listed_twice_is_claimed_once(rig: LauncherRig, two: Callable[[Scenario], Any]) -> None:
    request = rig.request()
    rig.offer(request)
    rig.redis.rpush(redis_keys.rq_queue(rig.names.launch_queue("default")), f"{request.launch_id}_0")

    async def scenario(a: JobQueue, b: JobQueue) -> None:
        assert len((await a.claim(10)).jobs) + len((await b.claim(10)).jobs) == 1

    two(scenario)


def test_who_lost_the_lease_writes_nothing(rig: LauncherRig, two: Callable[[Scenario], Any]) -> None:
    request = rig.request()
    rig.offer(request)
    queue = redis_keys.rq_started(rig.names.launch_queue("default"))

    async def scenario(a: JobQueue, b: JobQueue) -> None:
        (lost,) = (await a.claim(10)).jobs
        rig.redis.zadd(queue, {rig.redis.zrange(queue, 0, 0)[0]: time.time() - 1})
        assert await b.reap() == (1, [])
        assert await a.reap() == (0, [])
        (held,) = (await b.claim(10)).jobs
        assert await a.finish([created(lost, "p", "default", "u")]) == ["lost"]
        assert await a.renew([lost]) == [0]
        assert lost.lost
        assert "pod" not in rig.ledger(request)
        assert await b.renew([held]) == [1]
        assert await b.finish([created(held, "p", "default", "u")]) == ["ok"]
        assert await b.finish([created(held, "p", "default", "u")]) == ["lost"]

    two(scenario)
    entry = rig.ledger(request)
    assert (entry["state"], entry["launcher"], entry["uid"]) == ("created", "b", "u")


def test_a_renewal_reports_withdrawn_launches(rig: LauncherRig, two: Callable[[Scenario], Any]) -> None:
    withdrawn, wanted = rig.request(1), rig.request(2)
    rig.offer(withdrawn, wanted)

    async def scenario(a: JobQueue, _: JobQueue) -> None:
        jobs = (await a.claim(10)).jobs
        rig.queue.withdraw([(withdrawn.launch_id, withdrawn.subject)])
        assert await a.renew(jobs) == [-1, 1]

    two(scenario)


def test_what_is_put_back_comes_first_and_what_waits_comes_in_time(
    rig: LauncherRig, two: Callable[[Scenario], Any]
) -> None:
    rig.offer_many(4)

    async def scenario(a: JobQueue, b: JobQueue) -> None:
        jobs = (await a.claim(3)).jobs
        await a.finish([back(jobs[1]), wait(jobs[0], 0.2, "Throttled", "slow down"), wait(jobs[2], 60.0, "Quota", "q")])
        claim = await b.claim(10)
        assert [job.id for job in claim.jobs] == [jobs[1].id, (set(claim_ids(claim.jobs)) - {jobs[1].id}).pop()]
        assert 0.0 < claim.due_s <= 0.2
        await asyncio.sleep(0.25)
        (again,) = (await b.claim(10)).jobs
        assert (again.id, again.tries) == (jobs[0].id, 1)

    two(scenario)


def claim_ids(jobs: list[Job]) -> list[str]:
    return [job.id for job in jobs]


def test_a_job_that_loses_every_launcher_is_quarantined(rig: LauncherRig, two: Callable[[Scenario], Any]) -> None:
    request = rig.request()
    rig.offer(request)
    queue = redis_keys.rq_started(rig.names.launch_queue("default"))

    async def scenario(a: JobQueue, b: JobQueue) -> None:
        for number in range(module.LOSSES_MAX + 1):
            assert len((await a.claim(1)).jobs) == 1
            rig.redis.zadd(queue, {rig.redis.zrange(queue, 0, 0)[0]: 1})
            count, crashed = await b.reap()
            assert count == (number < module.LOSSES_MAX)
        (job,) = crashed
        assert b.open_launch(job) == request
        assert await b.finish([failed(job, "LauncherCrashed")]) == ["ok"]

    two(scenario)
    assert [entry["job"] for entry in rig.quarantined()] == [f"{request.launch_id}_0"]


def test_suspended_launchers_claim_nothing(rig: LauncherRig, two: Callable[[Scenario], Any]) -> None:
    from rq import suspension

    rig.offer_many(3)
    suspension.suspend(rig.redis)  # type: ignore[arg-type]

    async def scenario(a: JobQueue, _: JobQueue) -> None:
        claim = await a.claim(10)
        assert (claim.jobs, claim.wait_s, claim.suspended) == ([], 1.0, True)
        suspension.resume(rig.redis)  # type: ignore[arg-type]
        assert len((await a.claim(10)).jobs) == 3

    two(scenario)


@pytest.mark.parametrize("until", ["inf", "nan", "9" * 300, "4000000000"])
def test_a_pause_that_no_launcher_writes_is_removed(
    rig: LauncherRig, two: Callable[[Scenario], Any], until: str
) -> None:
    """Whoever can write to Redis could stop all work with it, and launchers would restore it after a loss of data."""
    rig.offer_many(3)
    fields = ("until", "cleanup_until", "until:default")
    rig.redis.hset(rig.names.throttle("default"), mapping=dict.fromkeys(fields, until))

    async def scenario(a: JobQueue, _: JobQueue) -> None:
        assert len((await a.claim(10)).jobs) == 3
        assert await a.throttle("remind", x=5.0, y=0.5, reason="Throttled") == pytest.approx(5.0), "an honest one"

    two(scenario)
    forged = {
        "key": rig.names.throttle("default"), "kind": "pause", "why": "no pause that a launcher writes, deleted"
    }  # fmt: skip
    assert rig.quarantined()[0] == forged


def test_a_field_that_no_launcher_writes_is_removed(rig: LauncherRig, two: Callable[[Scenario], Any]) -> None:
    """Each claim reads it, and nobody else shows a pause while it is there."""
    rig.offer_many(3)
    honest = {"until:other": "0", "reason:other": "QuotaExceeded"}
    rig.redis.hset(rig.names.throttle("default"), mapping={**honest, "reason:default": "x" * 20_000})

    async def scenario(a: JobQueue, _: JobQueue) -> None:
        assert len((await a.claim(10)).jobs) == 3

    two(scenario)
    assert rig.redis.hgetall(rig.names.throttle("default")) == honest
    assert [entry["kind"] for entry in rig.quarantined()] == ["bounds"]


def test_a_pause_applies_to_all_launchers(rig: LauncherRig, two: Callable[[Scenario], Any]) -> None:
    rig.offer_many(3)

    async def scenario(a: JobQueue, b: JobQueue) -> None:
        assert await a.throttle("pause", x=0.3, reason="Throttled") == pytest.approx(0.3)
        claim = await b.claim(10)
        assert not claim.jobs
        assert 0.2 < claim.wait_s <= 0.3
        await asyncio.sleep(0.35)
        assert len((await b.claim(10)).jobs) == 3

    two(scenario)


def test_repeated_failures_double_the_shared_pause(rig: LauncherRig, two: Callable[[Scenario], Any]) -> None:
    async def scenario(a: JobQueue, b: JobQueue) -> None:
        async def fails() -> float:
            first = await a.throttle("stumble", x=0.1, y=10.0)
            assert await b.throttle("stumble", x=0.1, y=10.0) <= first
            await asyncio.sleep(first + 0.02)
            return first

        assert [round(await fails(), 2) for _ in range(3)] == [0.1, 0.2, 0.4]
        assert (await a.claim(1)).failures == 3
        await a.throttle("recover")
        assert round(await fails(), 2) == 0.1

    two(scenario)


def test_one_launch_probes_a_full_quota_and_success_admits_more(
    rig: LauncherRig, two: Callable[[Scenario], Any]
) -> None:
    rig.offer_many(40, namespace="full")
    rig.offer_many(2, namespace="free")

    async def scenario(a: JobQueue, b: JobQueue) -> None:
        (first,) = (await a.claim(1)).jobs
        await a.throttle("refused", "full", 0.2, 5.0, "QuotaExceeded", "exceeded quota")
        await a.finish([wait(first, 0.2, "QuotaExceeded", "exceeded quota")])
        open_ones = (await b.claim(64)).jobs
        assert {b.open_launch(job).namespace for job in open_ones} == {"free"}
        await asyncio.sleep(0.3)
        allowed = []
        for _ in range(8):
            jobs = (await b.claim(64)).jobs
            allowed.append(len(jobs))
            assert all(job.probe for job in jobs)
            for _ in jobs:
                await b.throttle("passed", "full", 1.25, 10.0)
            await asyncio.sleep(0.3)
        assert allowed == [1, 1, 1, 1, 2, 2, 3, 3]
        await b.throttle("refused", "full", 0.2, 5.0, "QuotaExceeded", "exceeded quota")
        assert not (await b.claim(64)).jobs

    two(scenario)


def test_a_launch_that_waits_too_long_for_quota_is_overdue(rig: LauncherRig, two: Callable[[Scenario], Any]) -> None:
    request = rig.request(namespace="full")
    rig.offer(request)

    async def scenario(a: JobQueue, _: JobQueue) -> None:
        await a.throttle("refused", "full", 60.0, 60.0, "QuotaExceeded", "exceeded quota: q")
        rig.redis.hset(rig.names.launch(request.launch_id), "t_offered", time.time() - 100)
        (job,) = (await a.claim(10, patience_s=50.0)).jobs
        assert job.overdue == ("QuotaExceeded", "exceeded quota: q")

    two(scenario)


def test_finished_jobs_stay_bounded(
    rig: LauncherRig, two: Callable[[Scenario], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FINISHED_MAX", 20)
    requests = rig.offer_many(60)

    async def scenario(a: JobQueue, _: JobQueue) -> None:
        while jobs := (await a.claim(16)).jobs:
            await a.finish([done(job) for job in jobs])

    two(scenario)
    assert rig.redis.zcard(redis_keys.rq_finished(rig.names.launch_queue("default"))) == 20
    kept = [request for request in requests if rig.redis.exists(f"rq:job:{request.launch_id}_0")]
    assert len(kept) == 20
    assert all(0 < rig.redis.ttl(f"rq:job:{request.launch_id}_0") <= 600 for request in kept)


# --- what anybody with access to Redis may write ------------------------------------------------------------------------
@pytest.mark.parametrize("failures", ["many", "", "nan", "1e400", b"\xff"])
def test_a_count_of_failures_that_is_no_number_ends_no_launcher(
    rig: LauncherRig, two: Callable[[Scenario], Any], failures: str | bytes
) -> None:
    rig.offer_many(3)
    rig.redis.hset(rig.names.throttle("default"), "failures", failures)

    async def scenario(a: JobQueue, _: JobQueue) -> None:
        claim = await a.claim(10)
        assert (len(claim.jobs), claim.failures) == (3, 0)
        assert 0.0 < await a.throttle("stumble", x=0.25, y=15.0) < 1.0

    two(scenario)


@pytest.mark.parametrize("place", ["nan", "inf", "-1", "0.5", "x", "1e300"])
def test_a_place_in_the_rotation_that_does_not_exist_stops_no_claim(
    rig: LauncherRig, two: Callable[[Scenario], Any], place: str
) -> None:
    rig.offer_many(3)
    rig.redis.hset(rig.names.fair_queues("default"), rig.names.launch_queue("default"), place)
    rig.redis.hset(rig.names.fair_queues("default"), "podrelay.other.default.launch", rig.names.launch_queue("default"))
    rig.redis.rpush(redis_keys.rq_queue("podrelay.other.default.launch"), "of another deployment")

    async def scenario(a: JobQueue, _: JobQueue) -> None:
        assert len((await a.claim(10)).jobs) == 3

    two(scenario)
    assert rig.redis.llen(redis_keys.rq_queue("podrelay.other.default.launch")) == 1


def test_shared_keys_of_another_type_are_deleted_and_work_goes_on(
    rig: LauncherRig, two: Callable[[Scenario], Any]
) -> None:
    """One such key stopped every launcher for good."""
    shared = [
        rig.names.throttle("default"), rig.names.current, rig.names.fair_queues("default"), rig.names.results,
        rig.names.live("default"), redis_keys.RQ_QUEUES, redis_keys.rq_started(rig.names.launch_queue("default")),
        redis_keys.rq_scheduled(rig.names.launch_queue("default")), redis_keys.rq_queue(rig.names.launch_queue("default")),
    ]  # fmt: skip
    for key in shared:
        rig.redis.set(key, "x")

    async def scenario(a: JobQueue, _: JobQueue) -> None:
        requests = rig.offer_many(2)
        jobs = (await a.claim(10)).jobs
        assert len(jobs) == 2
        assert await a.finish([created(job, "p", "default", "u") for job in jobs]) == ["ok", "ok"]
        assert rig.states(requests) == {"created": 2}
        assert await a.renew([]) == []
        assert await a.reap() == (0, [])

    two(scenario)
    assert {entry["key"] for entry in rig.quarantined()} >= set(shared) - {rig.names.results}
    assert {entry["why"] for entry in rig.quarantined()} == {"a key of another type, deleted"}


def test_a_launch_whose_keys_are_of_another_type_holds_up_no_other(
    rig: LauncherRig, two: Callable[[Scenario], Any]
) -> None:
    bad, good, held = rig.offer_many(3)

    async def scenario(a: JobQueue, _: JobQueue) -> None:
        jobs = (await a.claim(1)).jobs
        rig.redis.set(rig.names.launch(bad.launch_id), "x")
        assert await a.renew(jobs) == [-1], "no longer wanted, and no error for the others"
        rig.redis.set(redis_keys.RQ_JOB_PREFIX + f"{good.launch_id}_0", "x")
        assert [job.launch_id for job in (await a.claim(10)).jobs] == [held.launch_id]

    two(scenario)


def test_tries_that_no_job_has_had_wait_no_longer_than_others(rig: LauncherRig, two: Callable[[Scenario], Any]) -> None:
    (request,) = rig.offer_many(1)
    rig.redis.hset(redis_keys.RQ_JOB_PREFIX + f"{request.launch_id}_0", mapping={"waits": "-1e308"})

    async def scenario(a: JobQueue, _: JobQueue) -> None:
        (job,) = (await a.claim(10)).jobs
        assert job.tries == 0
        assert await a.finish([wait(job, 0.0, "R", "m")]) == ["ok"]
        assert len((await a.claim(10)).jobs) == 1

    two(scenario)


@pytest.mark.parametrize("job_id", ["x_" + "1" * 5000, "a b_0", "x" * 100 + "_0"])
def test_a_job_id_that_is_none_of_ours_is_rejected(
    rig: LauncherRig, two: Callable[[Scenario], Any], job_id: str
) -> None:
    rig.redis.hset(redis_keys.RQ_JOB_PREFIX + job_id, mapping={"status": "queued", "data": "x"})
    rig.redis.rpush(redis_keys.rq_queue(rig.names.launch_queue("default")), job_id)
    launch_id, _, attempt = job_id.rpartition("_")
    rig.redis.hset(rig.names.launch(launch_id), mapping={"state": "offered", "attempt": attempt, "subject": "s"})
    rig.redis.hset(rig.names.current, "s", launch_id)
    honest = rig.offer_many(1)

    async def scenario(a: JobQueue, _: JobQueue) -> None:
        assert [job.launch_id for job in (await a.claim(10)).jobs] == [honest[0].launch_id]

    two(scenario)


@pytest.mark.parametrize("field", ["until:default", "allow:default", "window:default", "passed:default"])
@pytest.mark.parametrize("value", ["inf", "-inf", "nan", "x", "1e300", "-5"])
def test_a_forged_wait_for_quota_is_no_longer_than_any(
    rig: LauncherRig, two: Callable[[Scenario], Any], field: str, value: str
) -> None:
    rig.offer_many(2)
    rig.redis.hset(rig.names.throttle("default"), mapping={"probing:default": "1", field: value})

    async def scenario(a: JobQueue, _: JobQueue) -> None:
        assert len((await a.claim(10)).jobs) == 2
        assert await a.throttle("passed", "default", 1.25, 10.0) == 0.0
        assert 0.0 < await a.throttle("refused", "default", 1.0, 15.0, "QuotaExceeded", "m") <= 15.0

    two(scenario)


def test_a_forged_lease_ends(rig: LauncherRig, two: Callable[[Scenario], Any]) -> None:
    (request,) = rig.offer_many(1)

    async def scenario(a: JobQueue, b: JobQueue) -> None:
        (job,) = (await a.claim(10)).jobs
        leases = redis_keys.rq_started(job.queue)
        rig.redis.zadd(leases, {f"{job.id}:{job.execution}": 1e15, "x:y": float("inf"), b"\xff": 1e15})
        assert await b.reap() == (1, [])
        assert [job.launch_id for job in (await b.claim(10)).jobs] == [request.launch_id]
        assert rig.redis.zcard(leases) == 1

    two(scenario)


def test_hashes_with_endless_fields_slow_no_claim_down(rig: LauncherRig, two: Callable[[Scenario], Any]) -> None:
    rig.offer_many(2)
    many = {f"until:{number}": "1" for number in range(20_000)}
    rig.redis.hset(rig.names.throttle("default"), mapping=many)
    rig.redis.hset(rig.names.fair_queues("default"), mapping=many)

    async def scenario(a: JobQueue, _: JobQueue) -> None:
        assert len((await a.claim(10)).jobs) == 2

    two(scenario)
    assert rig.redis.hlen(rig.names.throttle("default")) == rig.redis.hlen(rig.names.fair_queues("default")) == 0
