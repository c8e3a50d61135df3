"""A launcher against the local cluster, with its quota, its faults and its audit of every request."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from podrelay.protocol import identifiers
from tests.harness.launcher_rig import LauncherRig
from tests.harness.local_cluster import LocalCluster
from tests.harness.waiting import until


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[LocalCluster]:
    with LocalCluster(tmp_path / "cluster", runner="simulate") as cluster:
        yield cluster


@pytest.fixture
def real(redis_url: str, cluster: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LauncherRig:
    rig = LauncherRig.on_cluster(redis_url, cluster, tmp_path)
    for name, value in rig.environment().items():
        if name != "AIRFLOW_HOME":
            monkeypatch.setenv(name, value)
    return rig


def creates(cluster: LocalCluster) -> Counter[int]:
    return Counter(
        entry["status"] for entry in cluster.audit() if entry["verb"] == "create" and entry["resource"] == "pods"
    )


def test_faults_of_every_kind_and_one_pod_per_launch(real: LauncherRig, cluster: LocalCluster) -> None:
    create: dict[str, Any] = {"verbs": ["create"], "resource": "pods"}
    cluster.faults(
        {**create, "lost_response": True, "count": 5},
        {**create, "reset": True, "count": 5},
        {**create, "status": 503, "count": 3},
        {**create, "status": 429, "retry_after_s": 1, "count": 2},
        {**create, "latency_s": 0.02},
    )
    requests = real.offer_many(100)

    async def scenario() -> None:
        async with real.launcher(), real.launcher():
            await until(lambda: real.states(requests) == {"created": 100}, 30)

    asyncio.run(scenario())
    pods = cluster.pods()
    assert Counter(pod["metadata"]["labels"][identifiers.LABEL_LAUNCH_ID] for pod in pods) == Counter(
        request.launch_id for request in requests
    )
    assert {pod["metadata"]["uid"] for pod in pods} == {real.ledger(request)["uid"] for request in requests}
    assert not [result for result in real.results() if result.outcome == "failed"]


def test_a_namespace_that_does_not_exist_fails_its_launch_at_once(real: LauncherRig, cluster: LocalCluster) -> None:
    bad, good = real.request(1, namespace="nowhere"), real.request(2)
    real.offer(bad, good)

    async def scenario() -> None:
        async with real.launcher():
            await until(lambda: real.states([bad, good]) == {"finished": 1, "created": 1}, 10)

    asyncio.run(scenario())
    (result,) = real.results()
    assert "nowhere" in result.message


def test_a_full_quota_costs_at_most_as_many_refusals_as_pods(real: LauncherRig, cluster: LocalCluster) -> None:
    cluster.faults(quota={"default": 10})
    requests = real.offer_many(60)

    async def end_pods() -> None:
        while True:
            await asyncio.sleep(0.5)
            for pod in await asyncio.to_thread(cluster.pods):
                await asyncio.to_thread(cluster.vanish_pod, "default", pod["metadata"]["name"])

    async def scenario() -> None:
        ending = asyncio.create_task(end_pods(), name="end pods")
        async with real.launcher():
            await until(lambda: real.states(requests) == {"created": 60}, 60)
        ending.cancel()

    asyncio.run(scenario())
    counts = creates(cluster)
    assert counts[201] == 60
    assert sum(counts.values()) <= 120


def test_a_wait_for_quota_never_names_the_pod_of_another_launch(real: LauncherRig, cluster: LocalCluster) -> None:
    """The refusal of one launch is what the others of its namespace report, in ledger and event log."""
    cluster.faults(quota={"default": 0})
    requests = real.offer_many(8)

    def messages() -> dict[str, set[str]]:
        texts = {request.launch_id: {real.ledger(request).get("message", "")} for request in requests}
        for result in real.results():
            texts[result.launch_id].add(result.message)
        return texts

    async def scenario() -> None:
        async with real.launcher():
            # Waits are reported after five seconds.
            await until(lambda: len({item.launch_id for item in real.results() if item.outcome == "pending"}) == 8, 40)

    asyncio.run(scenario())
    names = {request.launch_id: request.launch_id.replace("-", "") for request in requests}
    for launch_id, texts in messages().items():
        others = [name for other, name in names.items() if other != launch_id]
        assert not [text for text in texts if any(name in text for name in others)]
    assert all("exceeded quota" in " ".join(texts) for texts in messages().values())
