"""Fixtures of the launcher's tests: a pods API in this process, and a deployment that uses it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.launcher_rig import LauncherRig
from tests.harness.local_cluster import LocalCluster
from tests.harness.pod_api import PodApi
from tests.harness.warm_pods import TEMPLATE, Warm, WarmPodThreads


@pytest.fixture
def api() -> Iterator[PodApi]:
    with PodApi() as api:
        yield api


@pytest.fixture
def rig(redis_url: str, api: PodApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LauncherRig]:
    rig = LauncherRig(redis_url, api, tmp_path)
    for name, value in rig.environment().items():
        if name != "AIRFLOW_HOME":
            monkeypatch.setenv(name, value)
    yield rig
    rig.stop_processes()


@pytest.fixture(scope="module")
def warm_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with LocalCluster(tmp_path_factory.mktemp("cluster"), runner="simulate") as cluster:
        yield cluster


@pytest.fixture
def warm(redis_url: str, warm_cluster: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Warm]:
    """On a cluster without faults, pods and Secrets."""
    rig = LauncherRig.on_cluster(redis_url, warm_cluster, tmp_path)
    rig.template.write_text(TEMPLATE)
    for name, value in rig.environment().items():
        if name != "AIRFLOW_HOME":
            monkeypatch.setenv(name, value)
    pods = WarmPodThreads(warm_cluster, rig.settings)
    warm = Warm(rig, warm_cluster, pods)
    warm.mark()
    with pods.running():
        yield warm
    rig.stop_processes()
    _clear(warm_cluster)


def _clear(cluster: LocalCluster) -> None:
    cluster.faults()
    cluster.call("DELETE", "/api/v1/namespaces/default/pods", {"gracePeriodSeconds": 0})
    assert not cluster.pods()
    path = "/api/v1/namespaces/default/secrets"
    for secret in cluster.call("GET", path)["items"]:  # those that no pod owned
        cluster.call("DELETE", f"{path}/{secret['metadata']['name']}")
