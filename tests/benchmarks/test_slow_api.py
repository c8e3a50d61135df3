"""A benchmark that names a latency has it, whatever the API server."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
import yaml

from podrelay_workers.kube.client import PodClient
from tests.benchmarks.rig import Rig
from tests.benchmarks.slow_api import slow_api
from tests.harness.local_cluster import LocalCluster


def took_s(kubeconfig: Path, monkeypatch: pytest.MonkeyPatch) -> float:
    """The fastest of three requests on one connection."""
    monkeypatch.setenv("AIRFLOW__KUBERNETES_EXECUTOR__IN_CLUSTER", "False")
    monkeypatch.setenv("AIRFLOW__KUBERNETES_EXECUTOR__CONFIG_FILE", str(kubeconfig))

    async def measure() -> float:
        async with await PodClient.connect() as api:
            times = []
            for _ in range(3):
                began_s = time.monotonic()
                await api.list_page("default")
                times.append(time.monotonic() - began_s)
            return min(times)

    return asyncio.run(measure())


def test_an_api_server_that_is_not_ours_is_delayed_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with LocalCluster(tmp_path, runner="simulate") as cluster:
        with slow_api(cluster.kubeconfig, tmp_path, 0.3) as slow:
            assert took_s(slow.kubeconfig, monkeypatch) >= 0.3
        assert took_s(cluster.kubeconfig, monkeypatch) < 0.3
        rig = Rig(0.05, kubeconfig=cluster.kubeconfig)
        assert rig.latency_s == 0.05, "what the rows are named after"


def test_the_kubeconfig_is_otherwise_the_same(tmp_path: Path) -> None:
    config = {
        "current-context": "b",
        "contexts": [
            {"name": "a", "context": {"cluster": "one", "user": "u"}},
            {"name": "b", "context": {"cluster": "two", "user": "u", "namespace": "n"}},
        ],
        "clusters": [
            {"name": "one", "cluster": {"server": "https://one.example.com"}},
            {"name": "two", "cluster": {"server": "https://localhost:7443/path", "certificate-authority": "ca.pem"}},
        ],
        "users": [{"name": "u", "user": {"client-key": "/keys/key.pem", "tokenFile": "token"}}],
    }
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    (tmp_path / "other").mkdir()
    with slow_api(path, tmp_path / "other", 0.1) as slow:
        found = yaml.safe_load(slow.kubeconfig.read_text())
        assert slow.kubeconfig.stat().st_mode & 0o777 == 0o600
    (one, two) = (entry["cluster"] for entry in found["clusters"])
    assert one == {"server": "https://one.example.com"}
    assert two["server"].startswith("https://127.0.0.1:")
    assert two["server"].endswith("/path")
    assert (two["tls-server-name"], two["certificate-authority"]) == ("localhost", str(tmp_path / "ca.pem"))
    assert found["users"][0]["user"] == {"client-key": "/keys/key.pem", "tokenFile": str(tmp_path / "token")}
    assert found["contexts"] == config["contexts"]
