"""Messages of a format that this release does not read wait for a launcher that does: not quarantined, not guessed at."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from podrelay.cli.status import overview
from podrelay.protocol import identifiers
from podrelay.protocol.messages import VERSION, CleanupRequest, Json, PodReport
from podrelay.store.launch_queue import Acknowledgement
from tests.harness.launcher_rig import LauncherRig
from tests.harness.waiting import until

NEWER = VERSION + 1


def of_newer_format(encoded: bytes) -> bytes:
    """As a coming release could write it: another number, and other fields."""
    document: Json = json.loads(encoded)
    return json.dumps({"v": NEWER, "is": document["is"], "launch": document["launch_id"], "what": "new"}).encode()


def rewrite(rig: LauncherRig, job: str, payload: bytes) -> str:
    """Replace the payload of a queued job; the data that was there."""
    data = str(rig.redis.hget(f"rq:job:{job}", "data"))
    document = json.loads(data)
    document[2][0] = rig.cipher.requests.encrypt(payload)
    rig.redis.hset(f"rq:job:{job}", "data", json.dumps(document))
    return data


def test_a_launch_waits_is_logged_and_runs_after_the_upgrade(rig: LauncherRig, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = [rig.request(number) for number in range(3)]
    rig.offer(*requests)
    jobs = [identifiers.job_id(request.launch_id, 0) for request in requests]
    readable = {
        job: rewrite(rig, job, of_newer_format(request.encode())) for job, request in zip(jobs, requests, strict=True)
    }
    readable_too = rig.request(9)
    rig.offer(readable_too)
    rig.start_process()

    async def scenario() -> None:
        await until(lambda: rig.states([*requests, readable_too]) == {"waiting": 3, "created": 1}, 30)

    asyncio.run(scenario())
    assert {rig.ledger(request)["reason"] for request in requests} == {"UnknownFormat"}
    message = rig.ledger(requests[0])["message"]
    assert f"format {NEWER}, and this process reads format {VERSION}" in message
    assert "upgrade the launchers" in message
    log = [line for line in rig.log_of(0).splitlines() if f"format {NEWER}" in line]
    assert len(log) == 1
    assert rig.quarantined() == []
    monkeypatch.setenv("AIRFLOW__PODRELAY__REDIS_URL", rig.settings.redis_url)
    found = overview(None, time.time())
    assert sum(counts["waiting"] for counts in found["queues"].values()) == 3
    assert sum(counts["failed"] for counts in found["queues"].values()) == 0
    (wait,) = [wait for wait in found["waits"] if wait["reason"] == "UnknownFormat"]
    assert wait["count"] == 3
    assert "upgrade the launchers" in wait["message"]

    # The launcher of the coming release reads it: here, the payload is of the present format again.
    for job, data in readable.items():
        rig.redis.hset(f"rq:job:{job}", "data", data)
    asyncio.run(until(lambda: rig.states(requests) == {"created": 3}, 30))
    assert rig.quarantined() == []


@pytest.mark.parametrize(("offered_s_ago", "least_s", "most_s"), [(0, 3, 6), (60, 25, 32), (10_000, 50, 61)])
def test_a_launch_that_has_waited_for_long_is_tried_rarely(
    rig: LauncherRig, offered_s_ago: float, least_s: float, most_s: float
) -> None:
    """Else very many of them, which go to the front of their queue, would leave launchers no time for others."""
    request = rig.request()
    rig.offer(request)
    job = identifiers.job_id(request.launch_id, 0)
    rewrite(rig, job, of_newer_format(request.encode()))
    rig.redis.hset(rig.names.launch(request.launch_id), "t_offered", time.time() - offered_s_ago)

    async def scenario() -> None:
        async with rig.launcher():
            await until(lambda: rig.states([request]) == {"waiting": 1})

    asyncio.run(scenario())
    due_s = rig.redis.zscore(f"rq:scheduled:{rig.names.launch_queue('default')}", job)
    assert due_s is not None
    assert least_s < due_s - time.time() < most_s


def test_a_clean_up_waits(rig: LauncherRig) -> None:
    request = rig.request()
    rig.offer(request)

    async def scenario() -> None:
        async with rig.launcher():
            await until(lambda: rig.ledger(request)["state"] == "created")
        entry = rig.ledger(request)
        cleanup = CleanupRequest(request.launch_id, "delete", entry["namespace"], entry["pod"], entry["uid"])
        rig.queue.acknowledge([Acknowledgement(request.launch_id, 0, request.subject, cleanup=cleanup)])
        queue = rig.names.cleanup_queue("default")
        (job,) = rig.redis.lrange(f"rq:queue:{queue}", 0, -1)
        rewrite(rig, job, of_newer_format(cleanup.encode()))
        async with rig.launcher():
            await until(lambda: rig.redis.zcard(f"rq:scheduled:{queue}") == 1)

    asyncio.run(scenario())
    assert len(rig.api.pods) == 1
    assert rig.quarantined() == []


@pytest.mark.parametrize("version", [None, True, "2", 1.5, []])
def test_what_has_no_format_number_is_quarantined(rig: LauncherRig, version: object) -> None:
    request = rig.request()
    rig.offer(request)
    job = identifiers.job_id(request.launch_id, 0)
    rewrite(rig, job, json.dumps({**json.loads(request.encode()), "v": version}).encode())

    async def scenario() -> None:
        async with rig.launcher():
            await until(rig.quarantined)

    asyncio.run(scenario())
    assert [(entry["job"], entry["kind"]) for entry in rig.quarantined()] == [(job, "malformed")]


def test_an_end_of_another_format_is_not_replaced(rig: LauncherRig) -> None:
    """A newer process has reported the end of the pod; an older one, which sees that end as well, leaves the report."""
    request = rig.request()
    rig.offer(request)
    newer = rig.cipher.reports.encrypt(of_newer_format(PodReport(request.launch_id, 0, "failed").encode()))

    async def scenario() -> None:
        async with rig.launcher() as launcher:
            await until(lambda: rig.ledger(request)["state"] == "created")
            end = {"state": "finished", "outcome": "failed", "result": newer, "result_key": rig.cipher.fingerprints[0]}
            rig.redis.hset(rig.names.launch(request.launch_id), mapping=end)
            assert await launcher._launch_queue.publish(PodReport(request.launch_id, 0, "succeeded", pod="p")) == 0

    asyncio.run(scenario())
    assert rig.ledger(request)["result"] == newer
    assert rig.quarantined() == []
