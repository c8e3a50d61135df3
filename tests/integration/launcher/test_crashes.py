"""Launchers as processes: killed, frozen, stopped and misconfigured at any moment; nothing is lost and nothing doubled."""

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
from podrelay.store.connection import connect_async
from podrelay_workers.launcher.job_queue import JobQueue
from tests.integration.launcher.conftest import TOKEN, Bench, until

# A launcher imports Airflow first.
START_S = 40.0


def ended(process: BaseProcess, seconds: float = 15.0) -> int | None:
    process.join(seconds)
    return process.exitcode


async def serving(bench: Bench, count: int) -> None:
    await until(lambda: bench.redis.scard("rq:workers") == count, START_S, f"{count} launchers registered")


def test_two_launchers_share_a_queue_and_one_is_killed(bench: Bench) -> None:
    bench.api.latency_s = 0.05
    first, _ = bench.start_process(), bench.start_process()

    async def scenario() -> None:
        await serving(bench, 2)
        requests = bench.offer_many(400)
        await until(lambda: len(bench.api.creates) > 100)
        first.kill()
        killed = time.monotonic()
        await until(lambda: bench.states(requests) == {"created": 400}, 20)
        # What it held is taken over within a lease and the time between two looks.
        assert time.monotonic() - killed < 1.5 * bench.settings.launch_lease_s + 2.5
        launchers = {bench.ledger(request)["launcher"] for request in requests}
        assert len(launchers) == 2

    asyncio.run(scenario())
    assert set(bench.api.names.values()) == {1}
    assert len(bench.api.names) == 400
    assert bench.in_hand() == 0


def test_a_frozen_launcher_creates_nothing_after_its_lease(bench: Bench) -> None:
    bench.api.latency_s = 0.2
    frozen = bench.start_process()

    async def scenario() -> None:
        await serving(bench, 1)
        requests = bench.offer_many(200)
        await until(lambda: len(bench.api.creates) > 30)
        os.kill(frozen.pid or 0, signal.SIGSTOP)
        await asyncio.sleep(0.5)
        held = bench.in_hand()
        # A newer launch takes the place of each one that it holds; its own may not come to life again.
        waiting = [request for request in requests if bench.ledger(request)["state"] == "claimed"]
        assert held
        async with bench.launcher():
            await until(lambda: bench.states(requests).get("claimed", 0) == 0, 10)
            await until(lambda: bench.states(requests) == {"created": 200}, 20)
        assert waiting
        before = len(bench.api.creates)
        os.kill(frozen.pid or 0, signal.SIGCONT)
        await asyncio.sleep(1.5)
        assert len(bench.api.creates) == before

    asyncio.run(scenario())
    assert set(bench.api.names.values()) == {1}


def test_sigterm_finishes_what_is_in_flight_and_puts_the_rest_back(bench: Bench) -> None:
    bench.api.latency_s = 0.3
    process = bench.start_process()

    async def scenario() -> None:
        await serving(bench, 1)
        requests = bench.offer_many(200)
        await until(lambda: len(bench.api.creates) > 20)
        process.terminate()
        assert await asyncio.to_thread(ended, process) == 0
        assert bench.in_hand() == 0
        states = bench.states(requests)
        assert set(states) == {"created", "offered"}
        assert states["created"] == len(bench.api.pods)
        waiting = sum(bench.redis.llen(redis_keys.rq_queue(queue)) for queue in bench.names.launch_queues("default"))
        assert states["offered"] == waiting
        assert bench.redis.scard("rq:workers") == 0

    asyncio.run(scenario())
    assert set(bench.api.names.values()) == {1}
    assert TOKEN not in bench.log_of(0)
    assert "gAAAA" not in bench.log_of(0)


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({"AIRFLOW__PODRELAY__LAUNCHER_CONCURRENCY": "many"}, "[podrelay] launcher_concurrency"),
        ({"AIRFLOW__PODRELAY__FERNET_KEY": "short"}, "[podrelay] fernet_key"),
        ({"AIRFLOW__KUBERNETES_EXECUTOR__DELETE_OPTION_KWARGS": "[1]"}, "delete_option_kwargs"),
    ],
    ids=["number", "key", "json"],
)
def test_a_wrong_option_is_one_clear_line(bench: Bench, environment: dict[str, str], told: str) -> None:
    process = bench.start_process(**environment)
    assert ended(process, START_S) == 2
    last = bench.log_of(0).strip().splitlines()[-1]
    assert last.startswith("podrelay: ")
    assert told in last
    assert "Traceback" not in bench.log_of(0)


def test_a_missing_kubeconfig_is_one_clear_line(bench: Bench) -> None:
    root = Path(__file__).parents[3]
    environment = bench.environment() | {"PYTHONPATH": f"{root}/executor:{root}/workers"}
    environment["AIRFLOW__KUBERNETES_EXECUTOR__CONFIG_FILE"] = "/nowhere/kubeconfig"
    process = subprocess.run(
        [sys.executable, "-m", "podrelay_workers.launcher.process"],
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 2
    last = process.stderr.strip().splitlines()[-1]
    assert last.startswith("podrelay: ")
    assert "[kubernetes_executor] config_file = /nowhere/kubeconfig" in last
    assert "Traceback" not in process.stderr


def test_a_password_that_redis_refuses_is_one_clear_line(bench: Bench, tmp_path: Path) -> None:
    from tests.harness.redis_server import RedisServer

    with RedisServer(tmp_path) as server:
        bench.redis.from_url(server.url).config_set("requirepass", "right")
        url = server.url.replace("redis://", "redis://:wrong@")
        process = bench.start_process(AIRFLOW__PODRELAY__REDIS_URL=url)
        assert ended(process, START_S) == 2
    last = bench.log_of(0).strip().splitlines()[-1]
    assert last.startswith("podrelay: [podrelay] redis_url: Redis rejects the user or password")
    assert ":wrong@" not in bench.log_of(0)


def test_redis_away_at_start_is_waited_for(bench: Bench, tmp_path: Path) -> None:
    from tests.harness.redis_server import RedisServer

    server = RedisServer(tmp_path)  # not started: nobody listens on its port
    process = bench.start_process(AIRFLOW__PODRELAY__REDIS_URL=server.url)

    async def scenario() -> None:
        await until(lambda: "Waiting for it" in bench.log_of(0), START_S)
        server.start()
        await until(lambda: "serves" in bench.log_of(0), 5)

    try:
        asyncio.run(scenario())
        process.terminate()
        assert ended(process) == 0
    finally:
        server.__exit__()


def test_redis_that_dies_and_returns_empty(bench: Bench, tmp_path: Path) -> None:
    """A launcher never ends for Redis; what was lost is offered again by the scheduler."""
    from dataclasses import replace

    from podrelay.store.circuit_breaker import CircuitBreaker
    from podrelay.store.launch_queue import LaunchQueue
    from tests.harness.redis_server import RedisServer

    async def scenario(server: RedisServer) -> None:
        bench.settings = replace(bench.settings, redis_url=server.url)
        bench.redis = bench.redis.from_url(server.url, decode_responses=True)
        bench.queue = LaunchQueue(CircuitBreaker(bench.settings), bench.names, bench.cipher, "default", 3600.0)
        async with bench.launcher():
            requests = bench.offer_many(20)
            await until(lambda: bench.states(requests) == {"created": 20})
            server.kill()
            await asyncio.sleep(1.0)
            server.start()
            more = bench.offer_many(20)
            await until(lambda: bench.states(more) == {"created": 20}, 10)
            await until(lambda: bench.redis.scard("rq:workers") == 1, 10)

    with RedisServer(tmp_path) as server:
        asyncio.run(scenario(server))


def test_a_launcher_takes_over_as_soon_as_it_starts(bench: Bench) -> None:
    """Launchers that are killed sooner than they look for the first time would never take over (kill-launchers, seed 1)."""
    requests = bench.offer_many(20)
    lost = asyncio.run(_claim(bench, 20))
    assert lost == 20
    for key in bench.redis.keys("rq:wip:*"):
        for member in bench.redis.zrange(key, 0, -1):
            bench.redis.zadd(key, {member: time.time() - 1.0})

    async def scenario() -> None:
        async with bench.launcher(launch_lease_s=60.0):
            await until(lambda: bench.states(requests) == {"created": 20}, 10.0)

    asyncio.run(scenario())
    assert set(bench.api.names.values()) == {1}


async def _claim(bench: Bench, most: int) -> int:
    """What a launcher had in hand that was killed."""
    client = connect_async(bench.settings)
    intake = JobQueue(client, bench.settings, bench.cipher, "launch", "a-launcher-that-is-dead", "default")
    jobs = (await intake.claim(most)).jobs
    await client.aclose()
    return len(jobs)
