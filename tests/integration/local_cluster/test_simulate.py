"""Pods that are timers, and a thousand of them at once."""

from __future__ import annotations

import asyncio
import time

import aiohttp
import pytest

from tests.harness.cluster_api import Json, NamespaceApi, pod, state, status_of


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


class TestBulkEnd:
    """`POST end-pods`."""

    def test_running_pods_that_match_end_at_once(self, simulated: NamespaceApi) -> None:
        for name in ("a", "b", "other", "init"):
            body = timed(name, 600)
            body["metadata"]["labels"] = {"burst": "no" if name == "other" else "yes"}
            if name == "init":
                body["metadata"]["annotations"]["local-cluster/hold"] = "true"
            simulated.create(body)
        for name in ("a", "b", "other"):
            simulated.wait_phase(name, "Running")
        end = simulated.cluster.end_pods
        assert end(label_selector="burst=yes", namespace="another") == 0
        assert end(3, simulated.namespace, "burst in (yes)") == 2
        for name in ("a", "b"):
            assert state(simulated.wait_phase(name, "Failed"))["terminated"]["exitCode"] == 3
        assert end(namespace=simulated.namespace) == 1
        simulated.wait_phase("other", "Succeeded")
        assert simulated.get("init")["status"]["phase"] == "Pending"

    def test_a_process_is_killed_and_its_code_is_as_given(self, api: NamespaceApi) -> None:
        api.create(pod("p", "sleep", "600"))
        api.wait_phase("p", "Running")
        assert api.cluster.end_pods(0, api.namespace) == 1
        assert state(api.wait_phase("p", "Succeeded"))["terminated"]["exitCode"] == 0

    def test_a_container_that_is_to_run_again_does(self, simulated: NamespaceApi) -> None:
        simulated.create(timed("p", 600) | {"spec": {**pod()["spec"], "restartPolicy": "Always"}})
        simulated.wait_phase("p", "Running")
        assert simulated.cluster.end_pods(1, simulated.namespace) == 1
        found = simulated.wait("p", lambda now: now["status"]["containerStatuses"][0]["restartCount"] == 1)
        assert found["status"]["containerStatuses"][0]["lastState"]["terminated"]["exitCode"] == 1

    @pytest.mark.parametrize(
        ("body", "text"),
        [
            ({"exit_code": 256}, "exit_code must be a number from 0 to 255"),
            ({"exit_code": "0"}, "exit_code must be an integer"),
            (
                {"labels": "a=b"},
                "unknown fields ['labels']; known fields: ['exit_code', 'label_selector', 'namespace']",
            ),
            ({"label_selector": "a in"}, "a in"),
            ([], "must be an object"),
        ],
    )
    def test_a_wrong_body_is_refused(self, simulated: NamespaceApi, body: object, text: str) -> None:
        refused = simulated.request("POST", "/local-cluster/end-pods", body)
        assert text in status_of(refused, 400, "BadRequest")["message"]


def test_many_at_once(simulated: NamespaceApi) -> None:
    """Each concurrent creation makes one pod. The time limit is generous, because machines are shared."""

    async def create_all(count: int) -> None:
        url, headers = simulated.cluster.url + simulated.path, simulated.cluster.headers
        async with aiohttp.ClientSession(headers=headers) as session:
            numbers = iter(range(count))

            async def worker() -> None:
                for number in numbers:
                    async with session.post(url, json=timed(f"p-{number}", 600), ssl=simulated.cluster.tls) as response:
                        assert response.status == 201

            await asyncio.gather(*(worker() for _ in range(16)))

    begun = time.monotonic()
    asyncio.run(create_all(1000))
    assert time.monotonic() - begun < 60
    assert len(simulated.names()) == 1000
    assert simulated.cluster.stats()["podsRunByNode"] >= 1000
