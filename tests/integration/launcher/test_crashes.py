"""Launcher processes, killed, suspended, stopped or misconfigured: no launch is lost and none gets two pods."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from podrelay.protocol import redis_keys
from podrelay.protocol.messages import LaunchRequest
from podrelay.store.connection import connect_async
from podrelay_workers.launcher.job_queue import JobQueue
from tests.harness.launcher_rig import TOKEN, LauncherRig
from tests.harness.waiting import until

# A launcher imports Airflow first.
START_S = 40.0


def ended(process: BaseProcess, seconds: float = 15.0) -> int | None:
    process.join(seconds)
    return process.exitcode


async def serving(rig: LauncherRig, count: int) -> None:
    await until(lambda: rig.redis.scard("rq:workers") == count, START_S, f"{count} launchers registered")


def test_two_launchers_share_a_queue_and_one_is_killed(rig: LauncherRig) -> None:
    rig.api.latency_s = 0.05
    first, _ = rig.start_process(), rig.start_process()

    def creators(requests: list[LaunchRequest]) -> set[str]:
        """Recorded with what they have created; what was under way when one was killed is recorded by the other."""
        entries = map(rig.ledger, requests)
        return {entry["launcher"] for entry in entries if entry["state"] == "created"}

    async def scenario() -> None:
        await serving(rig, 2)
        requests = rig.offer_many(400)
        await until(lambda: len(rig.api.creates) > 100 and len(creators(requests)) == 2)
        first.kill()
        killed = time.monotonic()
        await until(lambda: rig.states(requests) == {"created": 400}, 20)
        # Another launcher takes over within a lease and one interval of the reaper.
        assert time.monotonic() - killed < 1.5 * rig.settings.launch_lease_s + 2.5
        assert len(creators(requests)) == 2

    asyncio.run(scenario())
    assert set(rig.api.names.values()) == {1}
    assert len(rig.api.names) == 400
    assert rig.in_hand() == 0


def test_a_frozen_launcher_creates_nothing_after_its_lease(rig: LauncherRig) -> None:
    rig.api.latency_s = 0.2
    frozen = rig.start_process()

    async def scenario() -> None:
        await serving(rig, 1)
        requests = rig.offer_many(200)
        await until(lambda: len(rig.api.creates) > 30)
        os.kill(frozen.pid or 0, signal.SIGSTOP)
        await asyncio.sleep(0.5)
        held = rig.in_hand()
        # Other launchers create what it holds; it must not create any of them when it resumes.
        waiting = [request for request in requests if rig.ledger(request)["state"] == "claimed"]
        assert held
        async with rig.launcher():
            await until(lambda: rig.states(requests).get("claimed", 0) == 0, 10)
            await until(lambda: rig.states(requests) == {"created": 200}, 20)
        assert waiting
        before = len(rig.api.creates)
        os.kill(frozen.pid or 0, signal.SIGCONT)
        await asyncio.sleep(1.5)
        assert len(rig.api.creates) == before

    asyncio.run(scenario())
    assert set(rig.api.names.values()) == {1}


def test_sigterm_finishes_what_is_in_flight_and_puts_the_rest_back(rig: LauncherRig) -> None:
    rig.api.latency_s = 0.3
    process = rig.start_process()

    async def scenario() -> None:
        await serving(rig, 1)
        requests = rig.offer_many(200)
        await until(lambda: len(rig.api.creates) > 20)
        process.terminate()
        assert await asyncio.to_thread(ended, process) == 0
        assert rig.in_hand() == 0
        states = rig.states(requests)
        assert set(states) == {"created", "offered"}
        assert states["created"] == len(rig.api.pods)
        waiting = sum(rig.redis.llen(redis_keys.rq_queue(queue)) for queue in rig.names.launch_queues("default"))
        assert states["offered"] == waiting
        assert rig.redis.scard("rq:workers") == 0

    asyncio.run(scenario())
    assert set(rig.api.names.values()) == {1}
    assert TOKEN not in rig.log_of(0)
    assert "gAAAA" not in rig.log_of(0)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"AIRFLOW__PODRELAY__LAUNCHER_CONCURRENCY": "many"}, "[podrelay] launcher_concurrency"),
        ({"AIRFLOW__PODRELAY__FERNET_KEY": "short"}, "[podrelay] fernet_key"),
        ({"AIRFLOW__KUBERNETES_EXECUTOR__DELETE_OPTION_KWARGS": "[1]"}, "delete_option_kwargs"),
    ],
    ids=["number", "key", "json"],
)
def test_a_wrong_option_is_one_clear_line(rig: LauncherRig, environment: dict[str, str], message: str) -> None:
    process = rig.start_process(**environment)
    assert ended(process, START_S) == 2
    last = rig.log_of(0).strip().splitlines()[-1]
    assert last.startswith("podrelay: ")
    assert message in last
    assert "Traceback" not in rig.log_of(0)


def test_a_missing_kubeconfig_is_one_clear_line(rig: LauncherRig) -> None:
    root = Path(__file__).parents[3]
    environment = rig.environment() | {"PYTHONPATH": f"{root}/executor:{root}/workers"}
    environment["AIRFLOW__KUBERNETES_EXECUTOR__CONFIG_FILE"] = "/nowhere/kubeconfig"
    process = subprocess.run(
        [sys.executable, "-m", "podrelay_workers", "launcher"],
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 2
    last = process.stderr.strip().splitlines()[-1]
    assert last.startswith("podrelay: ")
    assert "[kubernetes_executor] config_file = /nowhere/kubeconfig" in last
    assert "Traceback" not in process.stderr


def test_a_password_that_redis_refuses_is_one_clear_line(rig: LauncherRig, tmp_path: Path) -> None:
    from tests.harness.redis_server import RedisServer

    with RedisServer(tmp_path) as server:
        rig.redis.from_url(server.url).config_set("requirepass", "right")
        url = server.url.replace("redis://", "redis://:wrong@")
        process = rig.start_process(AIRFLOW__PODRELAY__REDIS_URL=url)
        assert ended(process, START_S) == 2
    last = rig.log_of(0).strip().splitlines()[-1]
    assert last.startswith("podrelay: [podrelay] redis_url: Redis rejects the user or password")
    assert ":wrong@" not in rig.log_of(0)


def test_sigusr1_logs_the_state_and_sighup_does_no_harm(rig: LauncherRig) -> None:
    rig.api.latency_s = 1.0
    process = rig.start_process()

    async def scenario() -> None:
        await serving(rig, 1)
        requests = rig.offer_many(3)
        await until(lambda: len(rig.api.creates) == 3)
        os.kill(process.pid or 0, signal.SIGHUP)
        os.kill(process.pid or 0, signal.SIGUSR1)
        await until(lambda: "State: launches: 3 in hand, 3 leases" in rig.log_of(0))
        await until(lambda: rig.states(requests) == {"created": 3} and not rig.in_hand())

    asyncio.run(scenario())
    os.kill(process.pid or 0, signal.SIGTERM)
    assert ended(process) == 0
    log = rig.log_of(0)
    assert "Ignored SIGHUP" in log
    assert log.count("State: job ") == 3
    assert TOKEN not in log


def test_redis_away_at_start_is_waited_for(rig: LauncherRig, tmp_path: Path) -> None:
    from tests.harness.redis_server import RedisServer

    server = RedisServer(tmp_path)  # not started: its port is closed
    process = rig.start_process(AIRFLOW__PODRELAY__REDIS_URL=server.url)

    async def scenario() -> None:
        await until(lambda: "Waiting for Redis" in rig.log_of(0), START_S)
        server.start()
        await until(lambda: "serves" in rig.log_of(0), 5)

    try:
        asyncio.run(scenario())
        process.terminate()
        assert ended(process) == 0
    finally:
        server.__exit__()


def test_redis_that_dies_and_returns_empty(rig: LauncherRig, tmp_path: Path) -> None:
    """A launcher survives the loss of Redis; the scheduler offers lost launches again."""
    from dataclasses import replace

    from podrelay.store.circuit_breaker import CircuitBreaker
    from podrelay.store.launch_queue import LaunchQueue
    from tests.harness.redis_server import RedisServer

    async def scenario(server: RedisServer) -> None:
        rig.settings = replace(rig.settings, redis_url=server.url)
        rig.redis = rig.redis.from_url(server.url, decode_responses=True)
        rig.queue = LaunchQueue(CircuitBreaker(rig.settings), rig.names, rig.cipher, "default", 3600.0)
        async with rig.launcher():
            requests = rig.offer_many(20)
            await until(lambda: rig.states(requests) == {"created": 20})
            server.kill()
            await asyncio.sleep(1.0)
            server.start()
            more = rig.offer_many(20)
            await until(lambda: rig.states(more) == {"created": 20}, 10)
            await until(lambda: rig.redis.scard("rq:workers") == 1, 10)

    with RedisServer(tmp_path) as server:
        asyncio.run(scenario(server))


def test_a_launcher_takes_over_as_soon_as_it_starts(rig: LauncherRig) -> None:
    """Launchers that are killed before their first reap would never take over."""
    requests = rig.offer_many(20)
    lost = asyncio.run(_claim(rig, 20))
    assert lost == 20
    for key in rig.redis.keys("rq:wip:*"):
        for member in rig.redis.zrange(key, 0, -1):
            rig.redis.zadd(key, {member: time.time() - 1.0})

    async def scenario() -> None:
        async with rig.launcher(launch_lease_s=60.0):
            await until(lambda: rig.states(requests) == {"created": 20}, 10.0)

    asyncio.run(scenario())
    assert set(rig.api.names.values()) == {1}


async def _claim(rig: LauncherRig, most: int) -> int:
    """Claim jobs as a launcher that is then killed."""
    client = connect_async(rig.settings)
    queue = JobQueue(client, rig.settings, rig.cipher, "launch", "a-launcher-that-is-dead", "default")
    jobs = (await queue.claim(most)).jobs
    await client.aclose()
    return len(jobs)
