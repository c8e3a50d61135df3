"""One namespace on the API server of PODRELAY_REAL_KUBECONFIG; without that variable, on a local cluster."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.harness.local_cluster import LocalCluster
from tests.real_cluster.server import POD_SPEC, Server, pod, unique_namespace

VARIABLE = "PODRELAY_REAL_KUBECONFIG"

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def kubeconfig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    named = os.environ.get(VARIABLE)
    if named:
        path = Path(named).expanduser()
        assert path.is_file(), f"{VARIABLE}: no such file: {path}"
        yield path.resolve()
        return
    with LocalCluster(tmp_path_factory.mktemp("real"), runner="simulate") as cluster:
        yield cluster.kubeconfig


@pytest.fixture(scope="session")
def server(kubeconfig: Path) -> Iterator[Server]:
    server = Server(kubeconfig, unique_namespace())
    server.make_namespace()
    try:
        yield server
    finally:
        server.drop_namespace()


@pytest.fixture(scope="session")
def environment(kubeconfig: Path, server: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The options of executor, launcher and watcher that select this cluster."""
    template: dict[str, Any] = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "template"}, "spec": POD_SPEC}
    path = tmp_path_factory.mktemp("template") / "template.yaml"
    path.write_text(yaml.safe_dump(template))
    return {
        "AIRFLOW__KUBERNETES_EXECUTOR__IN_CLUSTER": "False",
        "AIRFLOW__KUBERNETES_EXECUTOR__CONFIG_FILE": str(kubeconfig),
        "AIRFLOW__KUBERNETES_EXECUTOR__NAMESPACE": server.namespace,
        "AIRFLOW__KUBERNETES_EXECUTOR__POD_TEMPLATE_FILE": str(path),
    }


@pytest.fixture(autouse=True)
def _configured(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def name(server: Server) -> Iterator[str]:
    """A name for a pod, which is removed after the test."""
    name = f"pod-{next(_numbers)}"
    yield name
    found = server.get(name)
    if found and found["metadata"].get("finalizers"):
        server.patch(f"{server.pods_path}/{name}", {"metadata": {"finalizers": None}})
    server.delete(name)


@pytest.fixture
def seven(server: Server) -> Iterator[list[str]]:
    """Seven pods with a common label, by which tests select them."""
    made = [f"many-{next(_numbers)}" for _ in range(7)]
    for each in made:
        server.call("POST", server.pods_path, pod(each, labels={"podrelay.test/of": "seven"}))
    yield made
    for each in made:
        server.delete(each)
