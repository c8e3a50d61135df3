"""A local cluster, a ledger and watchers, for the watcher's tests."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import redis
from cryptography.fernet import Fernet

from podrelay.monitoring_address import MonitoringAddress
from podrelay.protocol import identifiers
from podrelay.protocol.encryption import PayloadCipher
from podrelay.protocol.messages import PodReport
from podrelay.protocol.redis_keys import RedisKeys
from podrelay.settings import Settings
from tests.harness.local_cluster import LocalCluster
from tests.harness.waiting import until

ROOT = Path(__file__).parents[3]
Json = dict[str, Any]


def start_cluster(folder: Path, **options: object) -> LocalCluster:
    """A local cluster whose pods are timers, unless `options` choose another runner; close it afterwards."""
    cluster = LocalCluster(folder, **{"runner": "simulate", "bookmark_interval_s": 0.5, **options})
    cluster.start()
    return cluster


@dataclass
class Launch:
    """A launch whose pod exists and whose ledger says so, as a launcher leaves it."""

    launch_id: str
    pod: str
    namespace: str
    uid: str


class WatcherRig:
    """One deployment with its watchers."""

    def __init__(self, url: str, cluster: LocalCluster, folder: Path, namespace: str) -> None:
        self.cluster = cluster
        self.folder = folder
        self.namespace = namespace
        key = Fernet.generate_key().decode()
        # Each test is a separate deployment, so that tests can share a cluster.
        self.settings = Settings(url, key, f"d{uuid.uuid4().hex[:8]}", watch_silence_s=3.0, watch_lease_s=2.0)
        self.names = RedisKeys(self.settings.deployment)
        self.cipher = PayloadCipher(key, self.settings.deployment)
        self.redis: Any = redis.Redis.from_url(url, decode_responses=True)
        self.processes: list[subprocess.Popen[bytes]] = []

    # --- pods -------------------------------------------------------------------------------------------------------

    def launch(self, lasts_s: float = 3600.0, exit_code: int = 0, namespace: str = "", **changes: Any) -> Launch:
        """Create a pod and write its ledger entry; `name`, `labels`, `spec` and `ledger` are changes."""
        launch_id, namespace = str(uuid.uuid4()), namespace or self.namespace
        pod = {
            "metadata": {
                "name": changes.get("name") or identifiers.pod_name("etl-load", launch_id, 0),
                "labels": {
                    "podrelay/launch-id": launch_id, "podrelay/attempt": "0", "podrelay/cluster": "default",
                    "podrelay/deployment": self.settings.deployment, "airflow-worker": "7", **changes.get("labels", {}),
                },
                "annotations": {
                    "podrelay/subject": f"ti-{launch_id}", "local-cluster/duration-s": str(lasts_s),
                    "local-cluster/exit-code": str(exit_code), "dag_id": "etl", "task_id": "load", "run_id": "r",
                    "try_number": "1", **changes.get("annotations", {}),
                },
            },
            "spec": {"restartPolicy": "Never", "containers": [{"name": "base", "image": "repo/airflow:3"}],
                     **changes.get("spec", {})},
        }  # fmt: skip
        made = self.cluster.call("POST", f"/api/v1/namespaces/{namespace}/pods", pod)
        launch = Launch(launch_id, made["metadata"]["name"], namespace, made["metadata"]["uid"])
        ledger = {
            "state": "created", "attempt": "0", "cluster": "default", "owner": "7", "namespace": namespace,
            "pod": launch.pod, "uid": launch.uid, "t_created": f"{changes.get('created_s', time.time()):.3f}",
        }  # fmt: skip
        if changes.get("ledger", True):
            self.redis.hset(self.names.launch(launch_id), mapping=ledger)
            self.redis.zadd(self.names.live("default"), {launch_id: float(ledger["t_created"])})
        return launch

    def end(self, launch: Launch, **ending: Any) -> None:
        self.cluster.control(f"pods/{launch.namespace}/{launch.pod}/end", ending or {"exit_code": 0})

    def vanish(self, launch: Launch) -> None:
        self.cluster.control(f"pods/{launch.namespace}/{launch.pod}/vanish")

    def delete(self, launch: Launch, grace_s: int = 0) -> None:
        body = {"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": grace_s}
        self.cluster.call("DELETE", f"/api/v1/namespaces/{launch.namespace}/pods/{launch.pod}", body)

    def label(self, launch: Launch, **labels: str) -> None:
        patch = {"metadata": {"labels": labels}}
        path = f"/api/v1/namespaces/{launch.namespace}/pods/{launch.pod}"
        self.cluster.call("PATCH", path, patch, "application/merge-patch+json")

    # --- what was published -----------------------------------------------------------------------------------------

    def results(self, launch: Launch | None = None) -> list[PodReport]:
        found = [
            PodReport.decode(self.cipher.reports.decrypt(item["result"]))
            for _, item in self.redis.xrange(self.names.results)
        ]
        return [result for result in found if launch is None or result.launch_id == launch.launch_id]

    def ends(self) -> Counter[str]:
        """How often each launch was said to be over."""
        return Counter(result.launch_id for result in self.results() if result.terminal)

    def end_of(self, launch: Launch) -> PodReport | None:
        ends = [result for result in self.results(launch) if result.terminal]
        assert len(ends) < 2
        return ends[0] if ends else None

    def ledger(self, launch: Launch) -> dict[str, str]:
        return dict(self.redis.hgetall(self.names.launch(launch.launch_id)))

    def watch(self) -> dict[str, str]:
        return dict(self.redis.hgetall(self.names.watch("default")))

    def said(self, outcome: str) -> int:
        return sum(result.outcome == outcome for result in self.results())

    # --- watchers ---------------------------------------------------------------------------------------------------

    def environment(self) -> dict[str, str]:
        return {
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "INFO",
            "AIRFLOW__KUBERNETES_EXECUTOR__CONFIG_FILE": str(self.cluster.kubeconfig),
            "AIRFLOW__KUBERNETES_EXECUTOR__IN_CLUSTER": "False",
            "AIRFLOW__KUBERNETES_EXECUTOR__NAMESPACE": self.namespace,
            "AIRFLOW__PODRELAY__REDIS_URL": self.settings.redis_url,
            "AIRFLOW__PODRELAY__FERNET_KEY": self.settings.fernet_key,
            "AIRFLOW__PODRELAY__DEPLOYMENT": self.settings.deployment,
            "AIRFLOW__PODRELAY__WATCH_SILENCE_S": str(self.settings.watch_silence_s),
            "AIRFLOW__PODRELAY__WATCH_LEASE_S": str(self.settings.watch_lease_s),
        }

    def start(self) -> subprocess.Popen[bytes]:
        """A watcher as a separate process, its log in the folder."""
        with (self.folder / f"watcher{len(self.processes)}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "podrelay_workers", "watcher"],
                env=environment({"AIRFLOW_HOME": str(self.folder / "airflow"), **self.environment()}),
                stdout=subprocess.DEVNULL,
                stderr=log,
            )
        self.processes.append(process)
        return process

    def log_of(self, number: int) -> str:
        return (self.folder / f"watcher{number}.log").read_text()

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait()
        self.redis.close()

    @asynccontextmanager
    async def watching(self, **changes: Any) -> AsyncIterator[Any]:
        """A watcher inside the test's loop, once it leads and has listed."""
        from podrelay_workers.runtime.shutdown import Shutdown
        from podrelay_workers.watcher.process import run_watcher
        from podrelay_workers.watcher.start import read_options

        shutdown = Shutdown()
        settings = replace(self.settings, **{"monitoring_bind": MonitoringAddress(), **changes})
        task = asyncio.ensure_future(run_watcher(read_options(settings), shutdown))
        try:
            await until(lambda: self.watch().get("t_listed") or task.done(), 60, "a first list")
            yield task
        finally:
            shutdown.request()
            assert await asyncio.wait_for(task, 10) == 0


def environment(changes: dict[str, str]) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": f"{ROOT}/executor:{ROOT}/workers"} | changes
