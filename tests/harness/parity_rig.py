"""Two executors driven and judged in the same way: podrelay with its real processes, and the stock one as the control.

Both run against one local cluster. A test sees only what is outside of an executor: pods in the API, `running`, the event
buffer, the rows of the database and Redis; so it could judge any other implementation as well.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import time
import urllib.error
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import redis
from airflow.executors.base_executor import BaseExecutor
from airflow.utils.session import create_session

from tests.harness.local_cluster import ROOT, LocalCluster
from tests.harness.task_instances import load, make_task_instances, update, workload_of

Json = dict[str, Any]

NAMESPACES = ("default", "other")
# A pod lasts until the test ends it, or deletes it.
TEMPLATE = """
apiVersion: v1
kind: Pod
metadata: {name: template, annotations: {local-cluster/duration-s: "3600"}}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  containers: [{name: base, image: "apache/airflow:3.3.2"}]
"""
LONG_S = 45.0
# So long a rig is watched where something must not happen.
QUIET_S = 1.0

_job_ids = itertools.count(50_000)


@dataclass(frozen=True)
class Task:
    """A task instance that was handed over once, by what names it."""

    ti_id: str
    key: Any
    launch_id: str
    dag_id: str
    task_id: str

    @property
    def prefix(self) -> str:
        """What the names of its pods begin with, whichever executor makes them."""
        return self.dag_id.replace("_", "-") if self.dag_id.isascii() and self.dag_id.strip("_") else "pod"


class Rig:
    """One executor in its own scheduler. Subclasses define which."""

    name: ClassVar[str]
    # Of podrelay, unless a test starts workers of its own; and the fixture with its workers.
    deployment: ClassVar[str] = "default"
    workers: ClassVar[str] = ""

    def __init__(self, cluster: LocalCluster) -> None:
        self.cluster = cluster
        self.job_id = next(_job_ids)
        self.executor: BaseExecutor = self.start(self.job_id)

    # --- what differs -------------------------------------------------------------------------------------------------
    def start(self, job_id: int) -> BaseExecutor:
        raise NotImplementedError

    def abandon(self) -> None:
        """The scheduler dies: nothing of its executor runs on, and nothing was tidied."""
        raise NotImplementedError

    # --- driving ------------------------------------------------------------------------------------------------------
    def make(self, count: int = 1, **values: Any) -> list[str]:
        return make_task_instances(count, **{"queued_by_job_id": self.job_id, **values})

    def queue(self, ti_id: str) -> Task:
        """What the scheduler does with a task instance in QUEUED."""
        workload = workload_of(ti_id, self.executor.jwt_generator)
        with create_session() as session:
            self.executor.queue_workload(workload, session)
        return self.task_of(workload)

    def task_of(self, workload: Any) -> Task:
        ti = workload.ti
        return Task(str(ti.id), self.key_of(ti), str(ti.external_executor_id), ti.dag_id, ti.task_id)

    def key_of(self, ti: Any) -> Any:
        """Airflow's name for a task instance."""
        return ti.key

    def submit(self, **values: Any) -> Task:
        """One queued task instance, handed over by one heartbeat."""
        task = self.queue(self.make(**values)[0])
        self.executor.heartbeat()
        return task

    def run(self, **values: Any) -> tuple[Task, Json]:
        """One task whose pod runs and whose row says so; the pod."""
        task = self.submit(**values)
        pod = self.pod(task, phase="Running")
        update(task.ti_id, state="running")
        return task, pod

    def until(self, condition: Callable[[], Any], what: str = "", most_s: float = LONG_S) -> Any:
        """Heartbeats until it holds; its value."""
        end = time.monotonic() + most_s
        while True:
            self.executor.heartbeat()
            value = condition()
            if value:
                return value
            if time.monotonic() > end:
                raise AssertionError(f"{self.name}: it did not come to hold within {most_s:g} s: {what}")
            time.sleep(0.03)

    def wait(self, condition: Callable[[], Any], most_s: float = LONG_S) -> None:
        """Until it holds, while the scheduler does nothing."""
        end = time.monotonic() + most_s
        while not condition():
            assert time.monotonic() < end, f"it did not come to hold within {most_s:g} s"
            time.sleep(0.03)

    def quiet(self, condition: Callable[[], Any], most_s: float = QUIET_S) -> None:
        """Heartbeats for a while, during which it holds throughout."""
        end = time.monotonic() + most_s
        while time.monotonic() < end:
            self.executor.heartbeat()
            assert condition()
            time.sleep(0.05)

    def event(self, task: Task, most_s: float = LONG_S) -> tuple[Any, Any]:
        """The event of this task, once it is there; its key has then left `running`."""
        found = self.until(lambda: self.ended(task), f"an event of {task.key}", most_s)
        assert task.key not in self.executor.running
        return found

    def ended(self, task: Task) -> Any:
        """An event that says more than that the task is queued."""
        event = self.executor.event_buffer.get(task.key)
        return event if event and str(event[0]) != "queued" else None

    def event_log(self, task: Task) -> str:
        """What the executor wrote for the event log of this task."""
        return "\n".join(
            f"{entry.event}: {entry.extra}"
            for entry in self.executor._task_event_logs
            if entry.dag_id == task.dag_id and entry.task_id == task.task_id
        )

    # --- the cluster --------------------------------------------------------------------------------------------------
    def pods(self, task: Task) -> list[Json]:
        """The pods of this task, the oldest first."""
        found = [
            pod
            for namespace in NAMESPACES
            for pod in self.cluster.pods(namespace)
            if (pod["metadata"].get("annotations") or {}).get("dag_id") == task.dag_id
            and pod["metadata"]["annotations"]["task_id"] == task.task_id
        ]
        order = [entry["uid"] for entry in self.cluster.audit() if entry["verb"] == "create"]
        return sorted(found, key=lambda pod: order.index(pod["metadata"]["uid"]))

    def pod(self, task: Task, number: int = 0, phase: str = "") -> Json:
        """A pod of this task (0: the first that was made), once it is there and in this phase."""

        def found() -> Json | None:
            pods = self.pods(task)
            fits = len(pods) > number and phase in ("", pods[number]["status"].get("phase"))
            return pods[number] if fits else None

        return self.until(found, f"pod {number} of {task.key} in phase {phase or 'any'}")

    def end_pod(self, pod: Json, **ending: Any) -> None:
        self.cluster.end_pod(pod["metadata"]["namespace"], pod["metadata"]["name"], **ending)

    def delete_pod(self, pod: Json) -> None:
        """As `kubectl delete` does."""
        self.cluster.call("DELETE", _path(pod))

    def patch(self, pod: Json, patch: Json, sub: str = "") -> None:
        self.cluster.call("PATCH", _path(pod) + sub, patch, "application/merge-patch+json")

    def look(self, pod: Json) -> Json | None:
        """The pod as it is now, None where it is gone."""
        try:
            return self.cluster.call("GET", _path(pod))
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise

    def labels(self, pod: Json) -> dict[str, str]:
        now = self.look(pod)
        return {} if now is None else now["metadata"]["labels"]

    def host(self, task: Task, pod: Json) -> str:
        """What the row of a task names as its host while it runs in this pod."""
        return str(pod["metadata"]["name"])

    def requests(self, verb: str, pod: Json) -> list[Json]:
        """The requests of this verb about this pod so far."""
        name = pod["metadata"]["name"]
        return [entry for entry in self.cluster.audit() if entry["verb"] == verb and entry["name"] == name]

    def creates(self, task: Task) -> list[Json]:
        """The requests to create a pod for this task so far."""
        return [
            entry
            for entry in self.cluster.audit()
            if entry["verb"] == "create" and entry["resource"] == "pods" and entry["name"].startswith(task.prefix)
        ]

    # --- schedulers ---------------------------------------------------------------------------------------------------
    def successor(self) -> None:
        """The scheduler dies and another one takes its place."""
        self.abandon()
        self.job_id = next(_job_ids)
        self.executor = self.start(self.job_id)

    def adopt(self, *tasks: Task) -> list[str]:
        """What a scheduler does with tasks whose scheduler is dead; ids of those it must reset."""
        tis = [load(task.ti_id) for task in tasks]
        refused = {ti.id for ti in self.executor.try_adopt_task_instances(tis)}
        for ti in tis:
            if ti.id not in refused:
                update(str(ti.id), queued_by_job_id=self.job_id)
        return [str(ti_id) for ti_id in refused]

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self.executor.end()


class PodrelayRig(Rig):
    """Ours. The launcher and the watcher run beside it, as processes, for all tests of a session."""

    name = "podrelay"
    workers = "shared_workers"

    def start(self, job_id: int) -> BaseExecutor:
        from podrelay.executor import RedisKubernetesExecutor

        executor = RedisKubernetesExecutor()
        executor.job_id = job_id
        executor.start()
        return executor

    def abandon(self) -> None:
        self.executor._breaker.close()  # type: ignore[attr-defined]


class StockRig(Rig):
    """The stock executor in this process; its watchers are processes of their own."""

    name = "stock"

    def start(self, job_id: int) -> BaseExecutor:
        from airflow.providers.cncf.kubernetes.executors.kubernetes_executor import KubernetesExecutor

        executor = KubernetesExecutor()
        executor.job_id = job_id
        executor.start()
        return executor

    def abandon(self) -> None:
        scheduler = self.executor.kube_scheduler  # type: ignore[attr-defined]
        for watcher in scheduler.kube_watchers.values():
            watcher.kill()
            watcher.join()
        self.executor._manager.shutdown()  # type: ignore[attr-defined]


class Workers:
    """The launcher and the watcher of one deployment, as processes with their logs in a folder."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self.environment = environment
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, *modules: str, team: str = "") -> None:
        for module in modules or ("launcher", "watcher"):
            command = [sys.executable, "-m", "podrelay_workers", module, *(["--team", team] if team else [])]
            with (self.folder / f"{module}.log").open("ab") as log:
                self.processes[module] = subprocess.Popen(
                    command,
                    env=os.environ | self.environment | {"PYTHONPATH": f"{ROOT}/executor:{ROOT}/workers:{self.folder}"},
                    stdout=log,
                    stderr=log,
                )

    def await_ready(self, client: redis.Redis, deployment: str = "default", cluster: str = "default") -> None:
        """Return when the launcher takes launches and the watcher has listed its pods."""
        end = time.monotonic() + 60
        launchers = f"rq:workers:podrelay.{deployment}.{cluster}.launch"
        while not (
            ("launcher" not in self.processes or client.scard(launchers))
            and (
                "watcher" not in self.processes or client.hexists(f"podrelay:{deployment}:watch:{cluster}", "t_listed")
            )
        ):
            for module, process in self.processes.items():
                if process.poll() is not None:
                    raise RuntimeError(f"the {module} ended:\n{(self.folder / f'{module}.log').read_text()}")
            if time.monotonic() > end:
                raise RuntimeError("the workers are not ready after a minute")
            time.sleep(0.05)

    def kill(self, module: str) -> None:
        self.processes[module].kill()
        self.processes.pop(module).wait()

    def stop(self) -> None:
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.processes.clear()


@contextlib.contextmanager
def workers(
    folder: Path,
    client: redis.Redis,
    deployment: str = "default",
    modules: tuple[str, ...] = ("launcher", "watcher"),
    team: str = "",
    environment: dict[str, str] | None = None,
) -> Iterator[Workers]:
    """A launcher and a watcher of a deployment. Python modules in the folder are found by them."""
    folder.mkdir(exist_ok=True, parents=True)
    made = Workers(folder, {**(environment or {}), "AIRFLOW__PODRELAY__DEPLOYMENT": deployment})
    try:
        made.start(*modules, team=team)
        made.await_ready(client, deployment, team or "default")
        yield made
    finally:
        made.stop()


def _path(pod: Json) -> str:
    return f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"
