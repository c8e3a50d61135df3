"""Launchers and watchers are not ready while they are cut off, and become ready again by themselves."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from podrelay import health
from podrelay.settings import Settings
from tests.chaos import fork_server
from tests.harness.local_cluster import LocalCluster
from tests.harness.redis_server import RedisServer

TEMPLATE = """
apiVersion: v1
kind: Pod
metadata: {name: template}
spec: {restartPolicy: Never, containers: [{name: base, image: none}]}
"""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[LocalCluster]:
    with LocalCluster(tmp_path) as cluster:
        yield cluster


def until(condition: Callable[[], bool], most_s: float) -> None:
    end_s = time.monotonic() + most_s
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.2)


@pytest.mark.timeout(240)
def test_red_while_deaf(
    redis_url: str, redis_server: RedisServer, cluster: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "STALE_AFTER_S", 5.0)
    (tmp_path / "template.yaml").write_text(TEMPLATE)
    environment = {
        "AIRFLOW__PODRELAY__REDIS_URL": redis_url,
        "AIRFLOW__PODRELAY__WATCH_SILENCE_S": "20",
        "AIRFLOW__KUBERNETES_EXECUTOR__IN_CLUSTER": "False",
        "AIRFLOW__KUBERNETES_EXECUTOR__CONFIG_FILE": str(cluster.kubeconfig),
        "AIRFLOW__KUBERNETES_EXECUTOR__POD_TEMPLATE_FILE": str(tmp_path / "template.yaml"),
    }
    place = Settings(redis_url, "key").place
    kinds = ("launcher", "watcher")
    processes = {kind: fork_server.start(kind, environment, tmp_path / f"{kind}.log") for kind in kinds}

    def deaf(kind: str) -> str:
        """What this very process says; others of this machine are not asked."""
        own = [found for found in health.read(kind, None, place) if found.pid == processes[kind].pid]
        return own[0].why_not_ready(time.time()) if own else "not there"

    try:
        until(lambda: not deaf("launcher") and not deaf("watcher"), 60)
        redis_server.pause()
        try:
            until(lambda: bool(deaf("launcher") and deaf("watcher")), 30)
        finally:
            redis_server.resume()
        until(lambda: not deaf("launcher") and not deaf("watcher"), 30)
        rule = cluster.add_fault(resource="pods", verbs=["list", "watch"], reset=True)
        cluster.drop_streams()
        until(lambda: "no reply from Redis" not in deaf("watcher") and deaf("watcher") != "", 30)
        assert not deaf("launcher"), "it has nothing to ask the API server now"
        cluster.remove_fault(rule)
        until(lambda: not deaf("watcher"), 60)
    finally:
        for process in processes.values():
            fork_server.kill(process)
