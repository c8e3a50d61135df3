"""The stack seen from outside: Airflow's REST API, the cluster's list of requests, the ledger, and process ids."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from demo.airflow_api import TaskState
from demo.progress import Launch
from demo.run import read_launches
from demo.stack import NAMESPACE, Stack
from podrelay.protocol import identifiers
from tests.harness.local_cluster import LocalCluster

# An answer of Airflow's API takes tens of milliseconds of a core.
PAUSE_S = 0.5


class StackRig:
    """What end-to-end tests do with a running stack."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.api = stack.api
        self.cluster = _attached(stack)

    def repair(self) -> None:
        """No faults, no dead process unnoticed, and as many launchers and watchers as the shape says."""
        self.cluster.faults()
        running = self.stack.processes.children
        for number in range(1, self.stack.shape.launchers + 1):
            if f"launcher.{number}" not in running:
                self.stack.start_launcher(f"launcher.{number}")
        for number in range(1, self.stack.shape.watchers + 1):
            if f"watcher.{number}" not in running:
                self.stack.start_watcher(f"watcher.{number}")
        self.stack.processes.check()

    def trigger(self, dag_id: str, **conf: Any) -> Run:
        self.until("the DAG is there", lambda: self.api.dag_is_known(dag_id), 60)
        return Run(self, dag_id, self.api.trigger(dag_id, conf))

    def until(self, what: str, true: Callable[[], object], limit_s: float = 120.0, pause_s: float = PAUSE_S) -> None:
        """Wait for something, with an eye on the processes; fails with `what` after `limit_s`."""
        self.stack.processes.wait_for(what, lambda: bool(true()), limit_s, pause_s)

    def pods(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.cluster.call("GET", f"/api/v1/namespaces/{NAMESPACE}/pods")["items"]
        return found

    def launcher_of(self, launcher: str) -> str:
        """The process that is the launcher with this name in the ledger (`<host>-<pid>-<random>`)."""
        pid = int(launcher.split("-")[-2])
        (name,) = [name for name, child in self.stack.processes.children.items() if child.process.pid == pid]
        return name


class Run:
    """One DAG run."""

    def __init__(self, rig: StackRig, dag_id: str, run_id: str) -> None:
        self.rig = rig
        self.dag_id = dag_id
        self.run_id = run_id
        self.began = time.time()

    def tasks(self) -> list[TaskState]:
        return self.rig.api.tasks(self.dag_id, self.run_id)

    def launches(self) -> list[Launch]:
        return read_launches(self.rig.stack.redis_url, self.run_id)

    def state(self) -> str:
        return self.rig.api.run_state(self.dag_id, self.run_id)

    def finish(self, limit_s: float = 300.0) -> str:
        """The run's final state."""
        self.rig.until(f"{self.dag_id} is over", lambda: self.state() in ("success", "failed"), limit_s)
        return self.state()

    def fail_rest(self) -> None:
        """No task of this run waits any more."""
        for task in self.tasks():
            if task.state not in ("success", "failed"):
                path = f"/api/v2/dags/{self.dag_id}/dagRuns/{self.run_id}/taskInstances/{task.task_id}"
                mapped = f"/{task.map_index}" if task.map_index >= 0 else ""
                self.rig.api.patch(path + mapped, {"new_state": "failed"})

    def settle(self) -> None:
        """Wait until every pod's end is known, acknowledged and cleaned up."""
        self.rig.until("all pods ended", lambda: all(launch.t_finished for launch in self.launches()), 60)
        self.rig.until("all pods cleaned up", lambda: not self.living_pods(), 60)

    def living_pods(self) -> list[str]:
        """Pods of this run that are neither gone nor labelled as done."""
        mine = {launch.pod for launch in self.launches()}
        return [
            pod["metadata"]["name"]
            for pod in self.rig.pods()
            if pod["metadata"]["name"] in mine and identifiers.LABEL_DONE not in pod["metadata"].get("labels", {})
        ]

    def pods_made(self) -> Counter[tuple[str, int]]:
        """How many pods the cluster made for each task and try, by its own record of requests."""
        made = Counter(
            entry["labels"][identifiers.LABEL_LAUNCH_ID]
            for entry in self.rig.cluster.audit()
            if entry["verb"] == "create" and entry["resource"] == "pods" and entry["status"] == 201
        )
        per_try: Counter[tuple[str, int]] = Counter()
        for launch in self.launches():
            per_try[launch.label, launch.try_number] += made[launch.launch_id]
        return per_try


def _attached(stack: Stack) -> LocalCluster:
    """The test helper of the local cluster, on the one that the stack has started."""
    cluster = LocalCluster(stack.home / "attached")
    cluster.kubeconfig = stack.kubeconfig
    cluster.connect()
    return cluster
