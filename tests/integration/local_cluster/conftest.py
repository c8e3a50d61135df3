"""Two servers for the whole suite, one per runner. Each test gets its own namespace and starts without faults."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from tests.harness.cluster_api import NamespaceApi
from tests.harness.local_cluster import LocalCluster

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def process_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    folder = tmp_path_factory.mktemp("process")
    with LocalCluster(folder, bookmark_interval_s=0.2, crash_backoff_s=0.3) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def simulated_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with LocalCluster(tmp_path_factory.mktemp("simulate"), runner="simulate", watch_window=200) as cluster:
        yield cluster


def _api(cluster: LocalCluster) -> Iterator[NamespaceApi]:
    cluster.faults()
    namespace = f"test-{next(_numbers)}"
    cluster.call("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
    api = NamespaceApi(cluster, namespace)
    yield api
    cluster.faults()
    cluster.call("DELETE", f"{api.path}?gracePeriodSeconds=0")
    for found in cluster.pods(namespace):  # pods with finalizers
        cluster.vanish_pod(namespace, found["metadata"]["name"])
    api.client.close()


@pytest.fixture
def api(process_cluster: LocalCluster) -> Iterator[NamespaceApi]:
    """Pods are processes."""
    yield from _api(process_cluster)


@pytest.fixture
def simulated(simulated_cluster: LocalCluster) -> Iterator[NamespaceApi]:
    """Pods are timers."""
    yield from _api(simulated_cluster)
