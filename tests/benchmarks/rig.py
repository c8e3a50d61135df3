"""The processes of one measurement: Redis, an API server, an observer, launchers, a watcher; and what each of them cost.

A rig is made anew for each measurement, so that no contestant finds what another one left.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from tests.benchmarks import backlog, cues
from tests.benchmarks.builds import ROOT, THIS, Build
from tests.benchmarks.cues import Cues
from tests.benchmarks.processes import cost_of
from tests.benchmarks.slow_api import slow_api
from tests.benchmarks.slow_link import SlowLink
from tests.harness.local_cluster import LocalCluster
from tests.harness.redis_server import RedisServer

TEMPLATE = """
apiVersion: v1
kind: Pod
metadata:
  name: worker
  annotations:
    local-cluster/duration-s: "{duration_s}"
spec:
  restartPolicy: Never
  containers:
  - name: base
    image: {image}
    resources:
      requests: {{cpu: 10m, memory: 16Mi}}
"""
FERNET_KEY = "bm90LWEtc2VjcmV0LWtleS1mb3ItdGVzdHMtb25seSE="
# Airflow takes seconds to import, and longer on a machine that has other work.
READY_MOST_S = 180.0
DRIVER_MOST_S = 1200.0
VERBS = ["create", "get", "list", "patch", "delete", "deletecollection"]


def airflow_home(home: Path) -> dict[str, str]:
    # A process that may not keep what it compiles starts slower each time.
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {
        **inherited,
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    }


@cache
def prepared_database(build: Build) -> Path:
    """Airflow's tables, made once for each build and copied for each process."""
    home = Path(tempfile.mkdtemp(prefix="podrelay-bench-db-"))
    atexit.register(shutil.rmtree, home, True)
    make = "from airflow.utils.db import initdb; initdb()"
    subprocess.run([build.python, "-c", make], env=airflow_home(home), check=True, capture_output=True)
    return home / "airflow.db"


class Rig:
    """One API server and one Redis. A slow link in front of the API server, whichever it is, delays each answer by
    `latency_s`; the observer is not delayed. With `seats` the local cluster serves so many requests at once, each
    `latency_s` long, and refuses others with 429, as priority and fairness with the limit response Reject does.
    Launchers, watcher and driver are those of `build`.
    """

    def __init__(
        self,
        latency_s: float = 0.0,
        *,
        duration_s: float = 1.0,
        redis_delay_s: float = 0.0,
        observe: bool = True,
        seats: int | None = None,
        kubeconfig: Path | None = None,
        namespace: str = "default",
        image: str = "airflow:bench",
        kubelet: str = "",
        build: Build = THIS,
    ) -> None:
        """:param kubelet: `simulated` where the API server of `kubeconfig` has no nodes (`simulated_kubelet`)."""
        self.build = build
        self.folder = Path(tempfile.mkdtemp(prefix="podrelay-bench-"))
        self.latency_s = latency_s
        self.namespace = namespace
        self.cluster = None if kubeconfig else LocalCluster(self.folder, runner="simulate")
        self._kubeconfig = kubeconfig
        self._kubelet = kubelet
        self.redis = RedisServer(self.folder)
        self._redis_delay_s = redis_delay_s
        self._seats = seats
        self._observing = observe
        self._stack = ExitStack()
        self._slow_link: int | None = None
        self._template = self.folder / "template.yaml"
        self._template.write_text(TEMPLATE.format(duration_s=duration_s, image=image))
        self._observed = self.folder / "observed.tsv"

    def __enter__(self) -> Rig:
        with ExitStack() as stack:
            stack.callback(shutil.rmtree, self.folder, True)
            stack.enter_context(self.redis)
            self.redis_url = self.redis.url
            if self._redis_delay_s:
                link = stack.enter_context(SlowLink(self.redis.port, self._redis_delay_s))
                self.redis_url = f"redis://127.0.0.1:{link.port}/0"
            if self.cluster is not None:
                stack.enter_context(self.cluster)
                self._kubeconfig = self.cluster.kubeconfig
            else:
                stack.callback(self._delete_pods)
            self._config_file = self._delayed(stack)
            if self._kubelet:
                self._simulate_kubelet(stack)
            if self._observing:
                self._observe(stack)
            if self.cluster is not None and self._seats:
                # A watch holds a seat of a real server only until it has begun.
                self.cluster.faults({"verbs": VERBS, "latency_s": self.latency_s, "seats": self._seats})
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def _delayed(self, stack: ExitStack) -> Path:
        """The kubeconfig of the measured processes."""
        assert self._kubeconfig is not None
        if not self.latency_s or (self._seats and self.cluster is not None):
            return self._kubeconfig
        delayed = stack.enter_context(slow_api(self._kubeconfig, self.folder, self.latency_s))
        self._slow_link = delayed.pid
        return delayed.kubeconfig

    def environment(self, **more: str) -> dict[str, str]:
        """Airflow's options for a process of this rig's build, in its own Airflow home."""
        return self._environment(self.build, **more)

    def _environment(self, build: Build, /, **more: str) -> dict[str, str]:
        home = Path(tempfile.mkdtemp(dir=self.folder))
        shutil.copy(prepared_database(build), home)
        return {
            **airflow_home(home),
            "AIRFLOW__CORE__FERNET_KEY": FERNET_KEY,
            "AIRFLOW__API_AUTH__JWT_SECRET": "benchmarks-need-a-secret-of-some-length-and-this-one-is-long-enough-0123",
            "AIRFLOW__CORE__PARALLELISM": "1000000",
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR",
            "AIRFLOW__PODRELAY__REDIS_URL": self.redis_url,
            "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT": "36000",
            "AIRFLOW__KUBERNETES_EXECUTOR__IN_CLUSTER": "False",
            "AIRFLOW__KUBERNETES_EXECUTOR__CONFIG_FILE": str(self._config_file),
            "AIRFLOW__KUBERNETES_EXECUTOR__NAMESPACE": self.namespace,
            "AIRFLOW__KUBERNETES_EXECUTOR__POD_TEMPLATE_FILE": str(self._template),
            **more,
        }

    # --- what the observer saw ----------------------------------------------------------------------------------------
    def observed(self, what: str, dag_id: str = "") -> dict[str, float]:
        """When the pods of each task were `created`, were `running`, had `ended` or were `deleted` (seconds since the
        epoch), by `dag.task`.
        """
        found = {}
        for line in self._observed.read_text().splitlines():
            kind, _, rest = line.partition("\t")
            task, _, at_s = rest.partition("\t")
            if kind == what and at_s and task.startswith(dag_id):
                found[task] = float(at_s)
        return found

    def await_created(self, dag_id: str, count: int, most_s: float = 300.0) -> list[float]:
        """When the pods of this DAG were seen to appear, in order; returns when there are so many."""
        return self.await_observed("created", dag_id, count, most_s)

    def await_observed(self, what: str, dag_id: str, count: int, most_s: float = 300.0) -> list[float]:
        end = time.monotonic() + most_s
        while len(found := self.observed(what, dag_id)) < count:
            if time.monotonic() > end:
                message = f"{len(found)} of {count} pods {what} after {most_s} s; see {self.folder}/workers.log"
                raise TimeoutError(message)
            time.sleep(0.2)
        return sorted(found.values())

    # --- processes ----------------------------------------------------------------------------------------------------
    @contextmanager
    def workers(self, launchers: int, concurrency: int = 64, watcher: bool = True) -> Iterator[dict[str, int]]:
        """Launchers and a watcher, ready: their process ids, and those of the servers."""
        environment = self.environment(AIRFLOW__PODRELAY__LAUNCHER_CONCURRENCY=str(concurrency))
        names = [f"launcher {number + 1}" for number in range(launchers)] + ["watcher"] * watcher
        with (self.folder / "workers.log").open("ab") as log:
            started = {
                name: subprocess.Popen(
                    self.build.worker(name.split()[0]), cwd=self.build.root, env=environment, stdout=log, stderr=log
                )
                for name in names
            }  # fmt: skip
        try:
            self._wait_for_workers(launchers, watcher)
            yield {name: process.pid for name, process in started.items()}
        finally:
            for process in started.values():
                process.send_signal(signal.SIGTERM)
            for process in started.values():
                process.wait(30)

    def servers(self) -> dict[str, int]:
        assert self.redis.process is not None
        found = {"redis": self.redis.process.pid}
        if self.cluster is not None and self.cluster.process is not None:
            found["local cluster"] = self.cluster.process.pid
        if self._slow_link is not None:
            found["slow link"] = self._slow_link
        return found

    def drive(self, executor: str, tasks: int, *options: str, **more: str) -> dict[str, Any]:
        """Run `drive.py` in a separate process, of this rig's build."""
        with self.driver(executor, tasks, *options, **more) as driver:
            return driver.run()

    @contextmanager
    def driver(self, executor: str, tasks: int, *options: str, **more: str) -> Iterator[Driver]:
        """The same in steps: a driver that is prepared, and begins when it is let go."""
        with self.drivers(executor, tasks, [options], **more) as (driver,):
            yield driver

    @contextmanager
    def drivers(self, executor: str, tasks: int, each: Sequence[Sequence[str]], **more: str) -> Iterator[list[Driver]]:
        """Several of them.

        :param each: the options of each.
        """
        with ExitStack() as stack:
            drivers = [self._start_driver(stack, executor, tasks, options, more) for options in each]
            for driver in drivers:
                driver.await_cue(cues.PREPARED)
            yield drivers

    def _start_driver(
        self, stack: ExitStack, executor: str, tasks: int, options: Sequence[str], more: Mapping[str, str]
    ) -> Driver:
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        given = [
            "--executor",
            executor,
            "--tasks",
            str(tasks),
            "--cues",
            str(folder),
            "--out",
            str(folder / "measured.json"),
        ]
        with (folder / "log").open("ab") as log:
            process = subprocess.Popen(
                [self.build.python, "-m", "tests.benchmarks.drive", *given, *options],
                cwd=ROOT,
                env=self.environment(**more),
                stdout=log,
                stderr=log,
            )
        stack.callback(process.wait)
        stack.callback(process.kill)
        return Driver(process, folder, self.build)

    def end_pods(self) -> None:
        """All running pods end at once."""
        if self.cluster is not None:
            self.cluster.end_pods(namespace=self.namespace)
        elif self._kubelet:
            self.kubelet.send_signal(signal.SIGUSR1)
        else:
            raise RuntimeError("pods that end at once need the local cluster or --kubelet simulated")

    def post_bare(self, tasks: int, concurrency: int) -> dict[str, Any]:
        """The bare client: pods a second as the observer saw them."""
        out, dag_id = self.folder / "bare.json", f"bare_{uuid.uuid4().hex[:8]}"
        self._run(
            "tests.benchmarks.bare", "--dag-id", dag_id, "--namespace", self.namespace, "--tasks", str(tasks),
            "--concurrency", str(concurrency), "--out", str(out),
        )  # fmt: skip
        return {**json.loads(out.read_text()), "pods_per_s": rate(self.await_created(dag_id, tasks))}

    def make_and_delete_bare(self, tasks: int, concurrency: int) -> dict[str, Any]:
        """The bare client creates pods and deletes them again: seconds, and how many requests were refused."""
        out, dag_id = self.folder / "bare.json", f"bare_{uuid.uuid4().hex[:8]}"
        self._run(
            "tests.benchmarks.bare", "--dag-id", dag_id, "--namespace", self.namespace, "--tasks", str(tasks),
            "--concurrency", str(concurrency), "--delete", "--out", str(out),
        )  # fmt: skip
        measured: dict[str, Any] = json.loads(out.read_text())
        return measured

    def make_and_delete(self, tasks: int) -> float:
        """Let launchers create pods, and delete them when all are there; the seconds of both."""
        dag_id = f"offered_{uuid.uuid4().hex[:8]}"
        launches = list(backlog.requests(dag_id, tasks, self.namespace))
        offered_s = time.time()
        backlog.offer(self.redis.url, FERNET_KEY, iter(launches))
        created_s = self.await_created(dag_id, tasks)[-1]
        ordered_s = time.time()
        backlog.clean_up(self.redis.url, FERNET_KEY, launches)
        deleted_s = self.await_observed("deleted", dag_id, tasks)[-1]
        return created_s - offered_s + deleted_s - ordered_s

    def offer(self, count: int, priority: int = 1, owner: str = "4242") -> str:
        """Put launches of one scheduler into Redis; the DAG they are named by."""
        dag_id = f"offered_{uuid.uuid4().hex[:8]}"
        backlog.offer(self.redis.url, FERNET_KEY, backlog.requests(dag_id, count, self.namespace, priority, owner))
        return dag_id

    def _run(self, module: str, *options: str, **more: str) -> None:
        log_path = self.folder / "runs.log"
        with log_path.open("ab") as log:
            done = subprocess.run(
                [sys.executable, "-m", module, *options],
                env=self._environment(THIS, **more),
                stdout=log,
                stderr=log,
                check=False,
            )
        if done.returncode:
            raise RuntimeError(f"{module} failed:\n{log_path.read_text()[-4000:]}")

    def _observe(self, stack: ExitStack) -> None:
        given = ["--namespace", self.namespace, "--out", str(self._observed)]
        self.observer = self._start(
            stack, "observer", given, lambda: self._observed.exists() and "ready" in self._observed.read_text()
        )

    def _simulate_kubelet(self, stack: ExitStack) -> None:
        ready = self.folder / "kubelet.ready"
        given = ["--namespace", self.namespace, "--ready", str(ready)]
        self.kubelet = self._start(stack, "simulated_kubelet", given, ready.exists)

    def _start(
        self, stack: ExitStack, module: str, given: list[str], is_ready: Callable[[], bool]
    ) -> subprocess.Popen[bytes]:
        """Start a module of this package that reaches the API server without delay, until the end of the rig."""
        log_path = self.folder / f"{module}.log"
        environment = self._environment(THIS, AIRFLOW__KUBERNETES_EXECUTOR__CONFIG_FILE=str(self._kubeconfig))
        with log_path.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", f"tests.benchmarks.{module}", *given], env=environment, stdout=log, stderr=log
            )
        stack.callback(process.wait)
        stack.callback(process.kill)
        end = time.monotonic() + READY_MOST_S
        while not is_ready():
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"no {module}:\n{log_path.read_text()[-4000:]}")
            time.sleep(0.05)
        return process

    def _wait_for_workers(self, launchers: int, watcher: bool) -> None:
        import redis

        client = redis.Redis.from_url(self.redis.url, decode_responses=True)
        end = time.monotonic() + READY_MOST_S
        while time.monotonic() < end:
            listed = not watcher or client.hget("podrelay:default:watch:default", "t_listed")
            if client.scard("rq:workers") >= launchers and listed:
                return
            time.sleep(0.1)
        raise TimeoutError(f"launchers and watcher did not become ready; see {self.folder}/workers.log")

    def _delete_pods(self) -> None:
        """A real cluster is left as it was found."""
        from kubernetes import client, config

        api = client.CoreV1Api(config.new_client_from_config(str(self._kubeconfig)))
        api.delete_collection_namespaced_pod(
            self.namespace, label_selector="kubernetes_executor=True", grace_period_seconds=0
        )


class Driver:
    """A process of `drive.py` that is prepared."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path, build: Build) -> None:
        self._process = process
        self._folder = folder
        self._build = build
        self.cues = Cues(folder)

    def await_cue(self, name: str) -> None:
        """:raises RuntimeError: the process has ended, or gave no such cue in time; with the end of its output."""
        if not self.cues.wait_for(name, DRIVER_MOST_S, lambda: self._process.poll() is None):
            raise self._failed(f"did not say {name!r}")

    def go(self) -> None:
        self.cues.give(cues.GO)

    def result(self) -> dict[str, Any]:
        """What it measured, when it has ended.

        :raises RuntimeError: it failed, or ran the code of another build.
        """
        if self._process.wait(DRIVER_MOST_S):
            raise self._failed("failed")
        measured: dict[str, Any] = json.loads((self._folder / "measured.json").read_text())
        if measured["code"] and not Path(measured["code"]).is_relative_to(self._build.root.resolve()):
            raise self._failed(f"ran {measured['code']}")
        return measured

    def run(self) -> dict[str, Any]:
        self.go()
        return self.result()

    def _failed(self, how: str) -> RuntimeError:
        return RuntimeError(f"driver of {self._build.label} {how}:\n{(self._folder / 'log').read_text()[-4000:]}")


@contextmanager
def stopped(pids: dict[str, int]) -> Iterator[None]:
    """The processes stand still meanwhile."""
    for pid in pids.values():
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids.values():
            os.kill(pid, signal.SIGCONT)


def costs(pids: dict[str, int]) -> dict[str, dict[str, float]]:
    return {name: cost_of(pid) for name, pid in pids.items()}


def spent(before: dict[str, dict[str, float]], after: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """CPU seconds and wakes between two looks, and the memory at the second."""
    return {
        name: {
            "cpu_s": now["cpu_s"] - before[name]["cpu_s"],
            "wakes": now["wakes"] - before[name]["wakes"],
            "memory_mb": now["memory_mb"],
        }
        for name, now in after.items()
    }


def rate(times_s: list[float]) -> float:
    """Pods a second between the first and the last."""
    return (len(times_s) - 1) / (times_s[-1] - times_s[0])
