"""The drill: each alert of `monitoring/alerts.yaml` becomes true on a real stack, by the fault that it is for.

Launcher, watcher, Redis, local cluster and Prometheus are processes. Only thresholds are shorter, so that the drill takes
seconds; in good health the expressions are asked as they are, and none is true.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml

from podrelay.protocol import redis_keys
from podrelay.protocol.messages import CleanupRequest, LaunchRequest
from podrelay.settings import Settings
from podrelay.store.circuit_breaker import CircuitBreaker
from podrelay.store.launch_queue import Acknowledgement
from podrelay.store.scripts import announce_scheduler
from tests.chaos import fork_server
from tests.harness.launcher_rig import LauncherRig
from tests.harness.local_cluster import LocalCluster
from tests.harness.prometheus import Prometheus
from tests.harness.redis_server import RedisServer, free_port

RULES = yaml.safe_load((Path(__file__).resolve().parents[2] / "monitoring" / "alerts.yaml").read_text())
EXPRESSIONS: dict[str, str] = {rule["alert"]: rule["expr"] for rule in RULES["groups"][0]["rules"]}
# What is shorter in the drill: thresholds, and the time over which is averaged.
SHORTER = {
    "PodrelayRedisUnavailable": {"> 30": "> 2"},
    "PodrelayThrottled": {"[10m:15s]": "[3s:500ms]"},
    "PodrelayWatchStale": {"> 300": "> 2"},
    "PodrelayWatchLag": {"> 30": "> 0"},
    "PodrelayQueueOld": {"> 300": "> 1"},
    "PodrelayLaunchesWaitLong": {"> 900": "> 1"},
    "PodrelayLaunchesFail": {"> 10": "> 0"},
    "PodrelayResultsUnread": {"> 1000": "> 0"},
    "PodrelayResultsUnprocessed": {"[15m]": "[3s]", "> 100": "> 0"},
}
INTERVALS_S = {
    "podrelay_workers.watcher.overview_metrics.READ_S": 0.5,
    "podrelay_workers.watcher.overview_metrics.OBSOLETE_S": 3.0,
    "podrelay_workers.watcher.quarantine_metric.INTERVAL_S": 0.5,
}
CREATE: dict[str, Any] = {"resource": "pods", "verbs": ["create"]}


class Drill:
    """The stack, and what Prometheus says of it."""

    def __init__(
        self, server: RedisServer, cluster: LocalCluster, prometheus: Prometheus, ports: list[int], folder: Path
    ):
        self.server, self.cluster, self.prometheus, self.folder = server, cluster, prometheus, folder
        self.rig = LauncherRig.on_cluster(server.url, cluster, folder)
        self.redis = redis.Redis.from_url(server.url)
        self.processes: list[fork_server.Process] = []
        self.fired: set[str] = set()
        self._ports = ports

    # --- the stack ----------------------------------------------------------------------------------------------------
    def start(self, role: str, **changes: str) -> None:
        """A process that Prometheus scrapes, as long as ports are left."""
        bind = f"127.0.0.1:{self._ports.pop(0)}" if self._ports else "off"
        environment = {
            **self.rig.environment(),
            "AIRFLOW__PODRELAY__WATCH_LEASE_S": "1",
            "AIRFLOW__PODRELAY__MONITORING_BIND": bind,
            **changes,
        }
        log = self.folder / f"{role}{len(self.processes)}.log"
        self.processes.append(fork_server.start(role, environment, log, intervals_s=INTERVALS_S))

    @contextlib.contextmanager
    def scheduler(self) -> Iterator[None]:
        """A scheduler's heartbeats, without its work: it announces itself and has read nothing."""
        over = threading.Event()

        def beat() -> None:
            breaker = CircuitBreaker(Settings(self.server.url, ""))
            while not over.wait(0.5):
                with contextlib.suppress(Exception):
                    breaker.run(
                        announce_scheduler(
                            self.rig.names, cluster="default", owner="7", cursor="0-0", launches=0, version="0"
                        )
                    )

        thread = threading.Thread(target=beat)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    @contextlib.contextmanager
    def fault(self, **rule: Any) -> Iterator[None]:
        number = self.cluster.add_fault(**rule)
        try:
            yield
        finally:
            self.cluster.remove_fault(number)

    def launch(self, number: int, lasts_s: float = 3600.0) -> LaunchRequest:
        annotations = {"local-cluster/duration-s": str(lasts_s)}
        request = self.rig.request(number, pod_override={"metadata": {"annotations": annotations}})
        self.rig.offer(request)
        return request

    def order_cleanup(self, request: LaunchRequest) -> None:
        cleanup = CleanupRequest(request.launch_id, "delete", "default", self.rig.ledger(request)["pod"])
        self.rig.queue.acknowledge([Acknowledgement(request.launch_id, 0, "", cleanup=cleanup)])

    def forge_a_job(self) -> None:
        self.redis.hset("rq:job:forged_0", mapping={"status": "queued", "data": "x", "origin": "x"})
        self.redis.rpush(redis_keys.rq_queue(self.rig.names.launch_queue("default")), "forged_0")

    # --- alerts -------------------------------------------------------------------------------------------------------
    def is_true(self, alert: str) -> bool:
        expression = EXPRESSIONS[alert]
        for long, short in SHORTER.get(alert, {}).items():
            assert long in expression, alert
            expression = expression.replace(long, short)
        return bool(self.prometheus.query(expression))

    def expect(self, *alerts: str) -> None:
        """Wait until each of them was true."""
        waiting = set(alerts)

        def all_seen() -> bool:
            waiting.difference_update([alert for alert in waiting if self.is_true(alert)])
            return not waiting

        self.until(all_seen, waiting)
        self.fired |= set(alerts)

    def expect_health(self) -> None:
        """Wait until none is true with the thresholds that operators get."""
        wrong: set[str] = set()

        def none() -> bool:
            wrong.clear()
            wrong.update(alert for alert, expression in EXPRESSIONS.items() if self.prometheus.query(expression))
            return not wrong

        self.until(none, wrong)

    def until(self, condition: Callable[[], bool], what: object) -> None:
        deadline = time.monotonic() + 40.0
        while not condition():
            assert time.monotonic() < deadline, what
            time.sleep(0.2)

    def close(self) -> None:
        for process in self.processes:
            fork_server.kill(process)


@pytest.fixture
def drill(redis_url: str, redis_server: RedisServer, tmp_path: Path) -> Iterator[Drill]:
    ports = [free_port(), free_port()]
    with LocalCluster(tmp_path / "cluster", runner="simulate") as cluster, Prometheus(tmp_path, *ports) as prometheus:
        drill = Drill(redis_server, cluster, prometheus, ports, tmp_path)
        try:
            yield drill
        finally:
            redis_server.resume()
            drill.close()


@pytest.mark.timeout(240)
def test_each_alert_becomes_true_by_its_fault(drill: Drill) -> None:
    drill.expect("PodrelayNoWatcherLeads")
    drill.redis.set(redis_keys.RQ_SUSPENDED, 1)
    drill.start("watcher")
    first = drill.launch(1, lasts_s=0.5)
    drill.expect("PodrelayNoLauncher", "PodrelayNoScheduler", "PodrelayQueueOld", "PodrelaySuspended")
    drill.redis.delete(redis_keys.RQ_SUSPENDED)
    drill.start("launcher")
    launcher = drill.processes[-1]
    with drill.scheduler():
        drill.expect("PodrelayWatchLag", "PodrelayResultsUnread", "PodrelayResultsUnprocessed")
        drill.expect_health()
        drill.expect("PodrelayWatchStale")
        with (
            drill.fault(**CREATE, status=422, reason="Invalid", message="no"),
            drill.fault(resource="pods", verbs=["delete"], status=403, reason="Forbidden", message="no"),
        ):
            drill.launch(2)
            drill.order_cleanup(first)
            drill.forge_a_job()
            drill.start("launcher", AIRFLOW__PODRELAY__FERNET_KEY="bm90LXRoZS1rZXktb2YtdGhlLW90aGVycy1hdC1hbGw=")
            drill.expect(
                "PodrelayLaunchesFail", "PodrelayCleanupsRefused", "PodrelayQuarantineGrows", "PodrelayKeyMismatch"
            )
        fork_server.kill(drill.processes[-1])
        with drill.fault(**CREATE, status=429, retry_after_s=2):
            drill.launch(3)
            drill.expect("PodrelayThrottled", "PodrelayLaunchesWaitLong")
        with drill.fault(resource="pods", verbs=["list", "watch"], reset=True):
            drill.cluster.drop_streams()
            drill.expect("PodrelayWatchFails", "PodrelayNotReady")
        with drill.fault(**CREATE, status=422, reason="Invalid", message="no"):
            drill.start("launcher", AIRFLOW__PODRELAY__WARM_PODS_MAX="1", AIRFLOW__PODRELAY__WARM_PODS_MIN="1")
            fork_server.kill(launcher)
            drill.launch(4)
            drill.expect("PodrelayWarmPodsFail")
        drill.server.pause()
        drill.expect("PodrelayRedisUnavailable", "PodrelayFiguresMissing")
    assert drill.fired == set(EXPRESSIONS)
