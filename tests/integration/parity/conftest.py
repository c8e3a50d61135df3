"""One local cluster, Redis, launcher and watcher for all parity tests; each test starts its own executors on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from podrelay.protocol import identifiers
from tests.harness.local_cluster import LocalCluster
from tests.harness.parity_rig import NAMESPACES, TEMPLATE, PodrelayRig, Rig, StockRig, Workers, workers
from tests.harness.redis_server import RedisServer, find_server

RIGS: dict[str, type[Rig]] = {rig.name: rig for rig in (PodrelayRig, StockRig)}

Rigs = Callable[..., Rig]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("parity")


@pytest.fixture(scope="session")
def redis_server(folder: Path) -> Iterator[RedisServer]:
    """Not the one of the other suites: they empty theirs."""
    find_server()
    with RedisServer(folder) as server:
        yield server


@pytest.fixture(scope="session")
def shared_cluster(folder: Path) -> Iterator[LocalCluster]:
    with LocalCluster(folder, runner="simulate", namespaces=",".join(NAMESPACES)) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def environment(folder: Path, redis_server: RedisServer, shared_cluster: LocalCluster) -> dict[str, str]:
    """The environment of all processes: the executors of both rigs, launcher and watcher."""
    template = folder / "template.yaml"
    template.write_text(TEMPLATE)
    return {
        "AIRFLOW__KUBERNETES_EXECUTOR__CONFIG_FILE": str(shared_cluster.kubeconfig),
        "AIRFLOW__KUBERNETES_EXECUTOR__POD_TEMPLATE_FILE": str(template),
        "AIRFLOW__KUBERNETES_EXECUTOR__MULTI_NAMESPACE_MODE": "True",
        "AIRFLOW__KUBERNETES_EXECUTOR__MULTI_NAMESPACE_MODE_NAMESPACE_LIST": ",".join(NAMESPACES),
        "AIRFLOW__PODRELAY__REDIS_URL": redis_server.url,
        "AIRFLOW__PODRELAY__RECONCILE_INTERVAL_S": "0.2",
        "AIRFLOW__PODRELAY__PENDING_GRACE_S": "1",
        "AIRFLOW__PODRELAY__LAUNCH_LEASE_S": "2",
        "AIRFLOW__PODRELAY__POD_POLICY": '{"host_pid": false}',
    }


@pytest.fixture(scope="session")
def shared_workers(folder: Path, redis_server: RedisServer, environment: dict[str, str]) -> Iterator[Workers]:
    with workers(folder / "workers", redis.Redis.from_url(redis_server.url), environment=environment) as made:
        yield made


@pytest.fixture
def cluster(shared_cluster: LocalCluster) -> Iterator[LocalCluster]:
    """Without faults; without pods afterwards, but for idle ones."""
    yield shared_cluster
    shared_cluster.faults()
    for namespace in NAMESPACES:
        path = f"/api/v1/namespaces/{namespace}/pods?labelSelector=%21{identifiers.LABEL_IDLE}"
        shared_cluster.call("DELETE", path, {"gracePeriodSeconds": 0})


@pytest.fixture
def rigs(
    airflow_db: None,
    cluster: LocalCluster,
    environment: dict[str, str],
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Rigs]:
    """Start the named executor in its own scheduler, with these options of [kubernetes_executor].

    `deployment` is one whose workers the test starts itself.
    """
    made: list[Rig] = []

    def start(name: str, deployment: str = "", **options: object) -> Rig:
        kind = RIGS[name]
        if kind.workers and not deployment:
            request.getfixturevalue(kind.workers)
        variables = {f"AIRFLOW__KUBERNETES_EXECUTOR__{key.upper()}": str(value) for key, value in options.items()}
        variables["AIRFLOW__PODRELAY__DEPLOYMENT"] = deployment or kind.deployment
        for key, value in (environment | variables).items():
            monkeypatch.setenv(key, value)
        made.append(kind(cluster))
        return made[-1]

    yield start
    for rig in made:
        rig.close()


@pytest.fixture
def ours(rigs: Rigs) -> Rig:
    """Ours, where the stock executor has nothing to compare with."""
    return rigs(PodrelayRig.name)
