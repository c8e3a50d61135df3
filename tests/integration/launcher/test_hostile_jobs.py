"""Jobs that somebody who can write to Redis, and has no key, puts before a launcher: too long, or from elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from podrelay.protocol import jobs
from podrelay.protocol.encryption import PayloadCipher
from podrelay.protocol.messages import LaunchRequest
from podrelay.protocol.sizes import JOB_MAX
from podrelay.store import scripts
from tests.harness.launcher_rig import LauncherRig
from tests.harness.lua import evaluate
from tests.harness.waiting import until
from tests.integration.launcher.test_launcher import during, forge

MIB = 1 << 20


def memory_mib(pid: int | None, what: str = "VmHWM") -> float:
    """The most memory that the process has had so far."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split(f"{what}:", 1)[1].split()[0]) / 1024


def wait_for(condition: Callable[[], object], most_s: float = 60.0) -> None:
    end_s = time.monotonic() + most_s
    while not condition():
        assert time.monotonic() < end_s, "not within the time"
        time.sleep(0.05)


def test_jobs_that_are_too_long_are_not_transferred(rig: LauncherRig) -> None:
    process = rig.start_process()
    first = rig.request()
    rig.offer(first)
    wait_for(lambda: rig.states([first]) == {"created": 1})
    before = memory_mib(process.pid)
    oversized = [rig.request(number) for number in range(64)]
    for request in oversized:  # one by one: a job that is offered may be claimed at once
        rig.redis.hset(rig.names.launch(request.launch_id), mapping={
            "state": "offered", "attempt": "0", "subject": request.subject, "namespace": "default"})  # fmt: skip
        rig.redis.hset(rig.names.current, request.subject, request.launch_id)
        job = f"{request.launch_id}_0"
        rig.redis.hset(f"rq:job:{job}", mapping={"status": "queued", "data": "x" * (5 * MIB), "kind_of": "launch"})
        rig.redis.rpush(f"rq:queue:{rig.names.launch_queue('default')}", job)
    good = rig.request()
    rig.offer(good)
    wait_for(lambda: rig.states([good]) == {"created": 1} and len(rig.quarantined()) == 64)
    assert {entry["kind"] for entry in rig.quarantined()} == {"oversized"}
    assert memory_mib(process.pid) - before < 50
    assert not any(rig.redis.hexists(f"rq:job:{request.launch_id}_0", "data") for request in oversized)
    assert process.is_alive()


def test_a_job_that_inflates_too_far_is_oversized(rig: LauncherRig) -> None:
    """RQ compresses the data of a job that rq-dashboard queues again."""
    import zlib

    request, good = rig.request(1), rig.request(2)
    rig.offer(request, good)
    forge(rig, request, zlib.compress(b" " * (JOB_MAX + 1)))

    during(rig, lambda: until(lambda: rig.states([good]) == {"created": 1} and rig.quarantined()))
    assert [entry["kind"] for entry in rig.quarantined()] == ["oversized"]


def test_a_claim_takes_long_jobs_in_portions(rig: LauncherRig) -> None:
    requests = [rig.request(number, args=("x" * (MIB + MIB // 4),)) for number in range(12)]
    rig.offer(*requests)
    queue = rig.names.launch_queue("default")

    def claim() -> list[str]:
        call = scripts.claim(
            rig.names, cluster="default", kind="launch", queues=[queue], most=64, low=0, lease_s=60.0, worker="w",
            execution_id="e", patience_s=0.0, probe_s=1.0, report_every_s=1.0,
        )  # fmt: skip
        reply = evaluate(rig.redis, call)
        assert reply[3] == (0 if not rig.redis.llen(f"rq:queue:{queue}") else 1), "says whether there are more"
        return [job.removesuffix("_0") for job in reply[5][::12]]

    claims = [claim() for _ in range(3)]
    assert [len(found) for found in claims] == [5, 5, 2]
    assert sum(claims, []) == [request.launch_id for request in requests], "in the order of the offers"


def test_a_payload_of_another_deployment_makes_no_pod(rig: LauncherRig) -> None:
    """Both have the same key."""
    other = PayloadCipher(rig.key, "another")
    quarantined_as_foreign(rig, lambda request: jobs.launch_data(request, other))


def test_a_report_is_no_request(rig: LauncherRig) -> None:
    quarantined_as_foreign(
        rig,
        lambda request: f'["{jobs.LAUNCH_FUNCTION}", null, ["{rig.cipher.reports.encrypt(request.encode())}"], {{}}]',
    )


def quarantined_as_foreign(rig: LauncherRig, data: Callable[[LaunchRequest], str]) -> None:
    forged, good = rig.request(1), rig.request(2)
    rig.offer(forged, good)
    forge(rig, forged, data(forged))

    during(rig, lambda: until(lambda: rig.states([good]) == {"created": 1} and rig.quarantined()))
    assert [entry["kind"] for entry in rig.quarantined()] == ["undecryptable"]
    assert rig.api.calls["create"] == 1
