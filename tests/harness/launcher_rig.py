"""A deployment for launcher tests: Redis, a pods API, a template, and launchers inside the test or as processes."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import redis
from cryptography.fernet import Fernet

from podrelay.protocol.encryption import PayloadCipher
from podrelay.protocol.messages import LaunchRequest, PodReport
from podrelay.protocol.redis_keys import RedisKeys
from podrelay.settings import Settings
from podrelay.store.circuit_breaker import CircuitBreaker
from podrelay.store.connection import connect_async
from podrelay.store.launch_queue import LaunchQueue
from tests.harness.local_cluster import LocalCluster
from tests.harness.pod_api import PodApi

TEMPLATE = """
apiVersion: v1
kind: Pod
metadata: {name: template, labels: {from: template}}
spec:
  restartPolicy: Never
  containers: [{name: base, image: "apache/airflow:3.3.2"}]
"""
# Importing Airflow takes seconds: launcher processes are forked from a process that has imported it.
FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload(["podrelay_workers.launcher.start", "podrelay_workers.launcher.provider_rendering"])
TOKEN = "tok3n-that-nobody-may-see"


def launcher_main(environment: dict[str, str], log: str) -> None:
    """Run a launcher in this process, as `airflow podrelay launcher` does."""
    os.environ.update(environment)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 2)
    from podrelay_workers.launcher import start
    from podrelay_workers.runtime.start import exit_code
    from podrelay_workers.runtime.state_signals import ignore_while_starting

    ignore_while_starting()
    sys.exit(exit_code(start.run))


class LauncherRig:
    """One deployment: offers launches like a scheduler and inspects their outcomes."""

    def __init__(self, url: str, api: PodApi, folder: Path) -> None:
        self.api = api
        self.folder = folder
        self.key = Fernet.generate_key().decode()
        self.settings = Settings(redis_url=url, fernet_key=self.key, redis_timeout_s=1.0, launch_lease_s=2.0)
        self.redis = redis.Redis.from_url(url, decode_responses=True)
        self.names = RedisKeys()
        self.cipher = PayloadCipher(self.key, self.settings.deployment)
        self.queue = LaunchQueue(CircuitBreaker(self.settings), self.names, self.cipher, "default", 3600.0)
        self.template = folder / "template.yaml"
        self.template.write_text(TEMPLATE)
        self.kubeconfig = api.kubeconfig(folder)
        self.processes: list[BaseProcess] = []

    @classmethod
    def on_cluster(cls, url: str, cluster: LocalCluster, folder: Path) -> LauncherRig:
        """With a local cluster in the place of `api`."""

        class Address:
            def kubeconfig(self, _: Path) -> Path:
                return cluster.kubeconfig

        return cls(url, Address(), folder)  # type: ignore[arg-type]

    # --- scheduler ----------------------------------------------------------------------------------------------------
    def request(self, number: int = 0, **changes: Any) -> LaunchRequest:
        values: dict[str, Any] = {
            "launch_id": str(uuid.uuid4()), "attempt": 0, "kind": "task", "subject": f"ti-{uuid.uuid4()}",
            "key": ("etl", f"load{number}", "manual__2026-11-20", 1, -1), "owner": "7",
            "args": ("python", "-m", "airflow.sdk.execution_time.execute_workload", "--json-string", TOKEN),
        }  # fmt: skip
        return LaunchRequest(**(values | changes))

    def offer(self, *requests: LaunchRequest) -> list[str]:
        return [str(answer) for answer in self.queue.offer([(request, 0) for request in requests])]

    def offer_many(self, count: int, **changes: Any) -> list[LaunchRequest]:
        requests = [self.request(number, **changes) for number in range(count)]
        self.offer(*requests)
        return requests

    # --- outcomes -----------------------------------------------------------------------------------------------------
    def ledger(self, request: LaunchRequest) -> dict[str, str]:
        return self.redis.hgetall(self.names.launch(request.launch_id))

    def states(self, requests: list[LaunchRequest]) -> dict[str, int]:
        counts: dict[str, int] = {}
        for request in requests:
            state = self.ledger(request).get("state", "missing")
            counts[state] = counts.get(state, 0) + 1
        return counts

    def results(self) -> list[PodReport]:
        return [
            PodReport.decode(self.cipher.reports.decrypt(fields["result"]))
            for _, fields in self.redis.xrange(self.names.results)
        ]

    def quarantined(self) -> list[dict[str, str]]:
        return [fields for _, fields in self.redis.xrange(self.names.quarantine)]

    def in_hand(self) -> int:
        return sum(self.redis.zcard(key) for key in self.redis.keys("rq:wip:*"))

    # --- launchers ----------------------------------------------------------------------------------------------------
    def environment(self) -> dict[str, str]:
        return {
            "AIRFLOW_HOME": str(self.folder / "airflow"),
            "AIRFLOW__KUBERNETES_EXECUTOR__CONFIG_FILE": str(self.kubeconfig),
            "AIRFLOW__KUBERNETES_EXECUTOR__IN_CLUSTER": "False",
            "AIRFLOW__KUBERNETES_EXECUTOR__POD_TEMPLATE_FILE": str(self.template),
            "AIRFLOW__PODRELAY__REDIS_URL": self.settings.redis_url,
            "AIRFLOW__PODRELAY__FERNET_KEY": self.key,
            "AIRFLOW__PODRELAY__LAUNCH_LEASE_S": str(self.settings.launch_lease_s),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "INFO",
        }

    def start_process(self, **environment: str) -> BaseProcess:
        """A launcher in a separate process, with its log in the folder."""
        log = self.folder / f"launcher{len(self.processes)}.log"
        process = FORKSERVER.Process(target=launcher_main, args=(self.environment() | environment, str(log)))
        process.start()
        self.processes.append(process)
        return process

    def log_of(self, number: int) -> str:
        path = self.folder / f"launcher{number}.log"
        return path.read_text() if path.exists() else ""

    def stop_processes(self) -> None:
        for process in self.processes:
            if process.is_alive() and process.pid:
                os.kill(process.pid, signal.SIGCONT)
                process.kill()
            process.join()

    @asynccontextmanager
    async def launcher(self, **changes: Any) -> AsyncIterator[Any]:
        """A launcher in the test's event loop. `changes` are settings, or `wait_limit`, `team` and
        `sends_stats`.
        """
        from dataclasses import replace

        from podrelay.teams import kube_config_of, watched_namespaces
        from podrelay_workers.kube.client import PodClient
        from podrelay_workers.launcher.launcher import Launcher
        from podrelay_workers.launcher.pod_manifest import ManifestRenderer
        from podrelay_workers.launcher.pod_policy import load_pod_policy
        from podrelay_workers.launcher.wait_limit import WaitLimit
        from podrelay_workers.runtime.monitor import Monitor
        from podrelay_workers.runtime.shutdown import Shutdown

        wait_limit, team = changes.pop("wait_limit", WaitLimit(600.0)), changes.pop("team", None)
        sends_stats = changes.pop("sends_stats", False)
        settings = replace(self.settings, **changes)
        monitor = Monitor.of("launcher", settings, team, sends_stats=sends_stats)
        shutdown = Shutdown()
        client = connect_async(settings)
        namespaces = watched_namespaces(kube_config_of(None))
        policy = load_pod_policy(settings.pod_policy, namespaces)
        manifests = ManifestRenderer(settings.deployment, policy=policy, workload_in_secret=settings.workload_in_secret)
        async with await PodClient.connect() as pods:
            launcher = Launcher(
                settings, client, pods, manifests, wait_limit, shutdown, monitor, team=team, namespaces=namespaces
            )
            serving = asyncio.create_task(launcher.run(), name="launcher")
            try:
                yield launcher
            finally:
                shutdown.request()
                await serving
                await client.aclose()
                manifests.close()
