"""Pods that are timers, and a thousand of them at once."""

from __future__ import annotations

import asyncio
import time

import aiohttp
import pytest

from tests.harness.cluster_api import Json, NamespaceApi, pod, state


def timed(name: str, duration_s: float | str, exit_code: int | str = 0) -> Json:
    body = pod(name)
    body["metadata"]["annotations"] = {
        "local-cluster/duration-s": str(duration_s),
        "local-cluster/exit-code": str(exit_code),
    }
    return body


@pytest.mark.parametrize(("exit_code", "phase"), [(0, "Succeeded"), (9, "Failed")])
def test_ends_by_its_annotations(simulated: NamespaceApi, exit_code: int, phase: str) -> None:
    begun = time.monotonic()
    simulated.create(timed("p", 0.3, exit_code))
    simulated.wait_phase("p", "Running")
    found = simulated.wait_phase("p", phase)
    assert time.monotonic() - begun >= 0.3
    assert state(found)["terminated"]["exitCode"] == exit_code


def test_defaults_are_one_second_and_success(simulated: NamespaceApi) -> None:
    begun = time.monotonic()
    simulated.create(pod())
    simulated.wait_phase("p", "Succeeded")
    assert time.monotonic() - begun >= 0.9


def test_graceful_deletion_ends_the_timer(simulated: NamespaceApi) -> None:
    simulated.create(timed("p", 60))
    simulated.wait_phase("p", "Running")
    version = simulated.version()
    simulated.delete("p")
    assert state(simulated.wait_gone("p", version))["terminated"]["exitCode"] == 143


def test_init_containers_and_sidecars(simulated: NamespaceApi) -> None:
    body = timed("p", 0.1)
    body["spec"]["initContainers"] = [
        {"name": "side", "image": "i", "restartPolicy": "Always"},
        {"name": "init", "image": "i"},
    ]
    simulated.create(body)
    found = simulated.wait_phase("p", "Succeeded")
    assert state(found, "init")["terminated"]["exitCode"] == 0
    assert state(found, "side")["terminated"]["exitCode"] == 143


def test_invalid_annotation(simulated: NamespaceApi) -> None:
    simulated.create(timed("p", "soon"))
    assert state(simulated.wait_phase("p", "Failed"))["terminated"]["reason"] == "StartError"


def test_logs_are_empty(simulated: NamespaceApi) -> None:
    simulated.create(timed("p", 0.01))
    simulated.wait_phase("p", "Succeeded")
    assert simulated.log("p") == ""


def test_many_at_once(simulated: NamespaceApi) -> None:
    """Each concurrent creation makes one pod. The time limit is generous, because machines are shared."""

    async def create_all(count: int) -> None:
        url, headers = simulated.cluster.url + simulated.path, simulated.cluster.headers
        async with aiohttp.ClientSession(headers=headers) as session:
            numbers = iter(range(count))

            async def worker() -> None:
                for number in numbers:
                    async with session.post(url, json=timed(f"p-{number}", 600)) as response:
                        assert response.status == 201

            await asyncio.gather(*(worker() for _ in range(16)))

    begun = time.monotonic()
    asyncio.run(create_all(1000))
    assert time.monotonic() - begun < 60
    assert len(simulated.names()) == 1000
    assert simulated.cluster.stats()["podsRunByNode"] >= 1000
