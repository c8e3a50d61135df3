"""One local cluster for all of the watcher's tests, and a separate deployment for each."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.local_cluster import LocalCluster
from tests.harness.watcher_rig import WatcherRig, start_cluster


@pytest.fixture(scope="session")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    cluster = start_cluster(tmp_path_factory.mktemp("cluster"))
    yield cluster
    cluster.close()


@pytest.fixture
def cluster(shared_cluster: LocalCluster) -> Iterator[LocalCluster]:
    yield shared_cluster
    shared_cluster.faults()


@pytest.fixture
def rig(redis_url: str, cluster: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WatcherRig]:
    namespace = f"ns-{uuid.uuid4().hex[:8]}"
    cluster.call("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
    rig = WatcherRig(redis_url, cluster, tmp_path, namespace)
    for name, value in rig.environment().items():
        monkeypatch.setenv(name, value)
    yield rig
    rig.close()
