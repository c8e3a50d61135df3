"""Random values in Redis while launchers, watchers and an executor work: all live on, and honest work is done afterwards."""

from __future__ import annotations

import contextlib
import logging
import os
import time
import traceback
from collections.abc import Container, Iterator
from pathlib import Path

import redis
from hypothesis import strategies as st

from podrelay.protocol import identifiers, redis_keys
from podrelay.protocol.redis_keys import RedisKeys
from podrelay.store.overview import read_overview
from podrelay_workers.watcher.overview_metrics import figures_of
from tests.chaos.driver import Stalls
from tests.fuzz.part import Report, complaints, feed
from tests.fuzz.redis_writes import Write, targets, writes
from tests.harness.local_cluster import LocalCluster
from tests.harness.parity_rig import TEMPLATE, PodrelayRig, Task, Workers
from tests.harness.redis_server import RedisServer
from tests.harness.task_instances import update
from tests.harness.warm_node import WarmNode

RECOVER_S = 60.0
HEARTBEAT_S = 0.6
_OUTSTANDING = 40
_LEASE_S = 2.0


class _Errors(logging.Handler):
    """Keeps the last line of each logged traceback, and where it came from."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.seen: dict[str, None] = {}

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            place = traceback.extract_tb(error.__traceback__)[-1]
            self.seen[f"{type(error).__name__}: {str(error)[:200]} at {place.filename[-50:]}:{place.lineno}"] = None


class Deployment:
    """Two launchers, two watchers, an executor in this process, and tasks that run in simulated pods."""

    def __init__(self, url: str, cluster: LocalCluster, node: WarmNode, report: Report) -> None:
        self._node = node
        self.redis = redis.Redis.from_url(url)
        self.cluster = cluster
        self.report = report
        self.rig = PodrelayRig(cluster)
        self.tasks: dict[str, Task] = {}
        self._ended: set[str] = set()
        self._stalls = Stalls()
        self._beats = 0

    def beat(self) -> None:
        """One heartbeat, timed without the time that the machine took away; now and then new work."""
        began_s, cpu_s = time.monotonic(), time.thread_time()
        self.rig.executor.heartbeat()
        ended_s, cpu_s = time.monotonic(), time.thread_time() - cpu_s
        took_s = ended_s - began_s - self._stalls.during(began_s, ended_s)
        self.report.heartbeat_s = max(self.report.heartbeat_s, took_s)
        if took_s > HEARTBEAT_S / 2:
            self.report.notes.append(f"a heartbeat of {took_s:.2f} s used {cpu_s:.2f} s of a processor")
        self._beats += 1
        if self._beats % 5 == 0:
            self._run_pods()

    def add_work(self, count: int = 4) -> None:
        if len(self.waiting()) < _OUTSTANDING:
            for ti_id in self.rig.make(count):
                task = self.rig.queue(ti_id)
                self.tasks[task.launch_id] = task

    def waiting(self) -> list[Task]:
        """Tasks that are not over: still in Airflow's queue, or in a slot."""
        executor = self.rig.executor
        queued = getattr(executor, "queued_tasks", {})
        return [task for task in self.tasks.values() if task.key in executor.running or task.key in queued]

    def _run_pods(self) -> None:
        """What the tasks do: each runs as soon as its pod does, succeeds, and so does its pod."""
        given = self._node.given()
        for pod in self.cluster.pods():
            metadata, phase = pod["metadata"], pod["status"].get("phase")
            labels = metadata["labels"]
            task = self.tasks.get(labels.get(identifiers.LABEL_LAUNCH_ID, ""))
            if phase != "Running" or metadata["uid"] in self._ended or not _has_workload(labels, given):
                continue
            if task is not None:
                update(task.ti_id, state="running", hostname=metadata["name"])
                update(task.ti_id, state="success")
            with contextlib.suppress(OSError):  # the next look tries again
                self.cluster.end_pod("default", metadata["name"], exit_code=0)
                self._ended.add(metadata["uid"])


def _has_workload(labels: dict[str, str], given: Container[tuple[str, int] | None]) -> bool:
    """A warm pod is labelled before it has its workload."""
    if identifiers.LABEL_WARM not in labels:
        return True
    return (labels.get(identifiers.LABEL_LAUNCH_ID, ""), int(labels.get(identifiers.LABEL_ATTEMPT, -1))) in given


def run(folder: Path, count: int, seed: int, pairs: int = 2) -> Report:
    """Write `count` random values. :param pairs: how many launchers, each with a watcher."""
    report, errors = Report("redis", seed), _Errors()
    (folder / "redis").mkdir(parents=True)
    logging.getLogger("podrelay").addHandler(errors)
    with contextlib.ExitStack() as stack:
        stack.callback(logging.getLogger("podrelay").removeHandler, errors)
        server = stack.enter_context(RedisServer(folder / "redis"))
        cluster = stack.enter_context(LocalCluster(folder / "cluster", runner="simulate"))
        stack.enter_context(_environment(folder, server, cluster))
        both = [Workers(folder / str(number), {}) for number in range(pairs)]
        for workers in both:
            workers.folder.mkdir()
            stack.callback(workers.stop)
            workers.start()
        for workers in both:
            workers.await_ready(redis.Redis.from_url(server.url))
        node = stack.enter_context(WarmNode(folder, cluster, dict(os.environ)))
        deployment = Deployment(server.url, cluster, node, report)
        stack.callback(deployment.rig.close)
        deployment.add_work(8)
        _write_values(deployment, both, report, count)
        _recover(deployment, both, report)
        _judge_processes(both, report)
    report.wrong += [f"in the executor: {text}" for text in errors.seen]
    if report.heartbeat_s > HEARTBEAT_S:
        report.fault(f"a heartbeat took {report.heartbeat_s:.2f} s")
    return report


def _write_values(deployment: Deployment, both: list[Workers], report: Report, count: int) -> None:
    keys, client = RedisKeys("default"), deployment.redis

    def take(batch: list[Write]) -> int:
        names = [name.decode("utf-8", "replace").removeprefix(redis_keys.RQ_WORKER_PREFIX) for name in _workers(client)]
        target_of = targets(keys, [task.launch_id for task in deployment.waiting()], names, *_of_pool(client, keys))
        pipeline = client.pipeline(transaction=False)
        for write in batch:
            write.apply(pipeline, keys, target_of(write.pick))
        pipeline.execute(raise_on_error=False)
        _read_figures(client, keys, report)
        deployment.beat()
        client.delete(redis_keys.RQ_SUSPENDED)  # an operator's own switch: `rq resume`
        deployment.add_work()
        for name in _ended(both):
            raise AssertionError(f"the {name} ended")
        return len(batch)

    try:
        feed(st.lists(writes(), min_size=10, max_size=30), take, report, count)
    except AssertionError as error:
        report.fault(str(error))


def _read_figures(client: redis.Redis, keys: RedisKeys, report: Report) -> None:
    """What the leading watcher reads for its metrics every few seconds."""
    try:
        figures_of(read_overview(client, keys, "default", time.time()))
    except Exception as error:  # noqa: BLE001 - every error is a finding
        report.fault(f"figures: {traceback.format_exc(limit=-2)} {error}")


def _workers(client: redis.Redis) -> list[bytes]:
    try:
        return sorted(client.smembers(redis_keys.RQ_WORKERS))  # type: ignore[arg-type]
    except redis.ResponseError:
        return []


def _of_pool(client: redis.Redis, keys: RedisKeys) -> tuple[list[str], list[str]]:
    """The shapes of the pool, and the mailboxes of pods that are alive."""
    try:
        shapes = [shape.decode() for shape in client.hkeys(keys.warm_shapes("default")) if len(shape) == 16]  # type: ignore[union-attr]
        alive: list[bytes] = client.keys(keys.mailbox_alive("*"))  # type: ignore[assignment]
        return shapes, [key.decode().split(":")[-2] for key in alive]
    except (redis.ResponseError, UnicodeError):
        return [], []


def _recover(deployment: Deployment, both: list[Workers], report: Report) -> None:
    """Honest work, old and new, is done within `RECOVER_S`."""
    began_s = time.monotonic()
    deployment.add_work(_OUTSTANDING)
    while waiting := deployment.waiting():
        deployment.beat()
        time.sleep(0.05)
        if time.monotonic() - began_s > RECOVER_S:
            report.fault(f"{len(waiting)} tasks are not over after {RECOVER_S:g} s")
            report.notes += [f"{task.launch_id}: {_entry(deployment, task)}" for task in waiting[:5]]
            break
    report.recovered_s = time.monotonic() - began_s


def _entry(deployment: Deployment, task: Task) -> str:
    keys = RedisKeys("default")
    try:
        entry = {name: value[:60] for name, value in deployment.redis.hgetall(keys.launch(task.launch_id)).items()}  # type: ignore[union-attr]
        job = deployment.redis.hgetall(
            f"{redis_keys.RQ_JOB_PREFIX}{task.launch_id}_{entry.get(b'attempt', b'0').decode()}"
        )
        return f"{entry} job {job.get(b'status')!r}"  # type: ignore[union-attr]
    except (redis.RedisError, UnicodeError) as error:
        return str(error)


def _ended(both: list[Workers]) -> list[str]:
    return [name for workers in both for name, process in workers.processes.items() if process.poll() is not None]


def _judge_processes(both: list[Workers], report: Report) -> None:
    for workers in both:
        for name, process in workers.processes.items():
            log = (workers.folder / f"{name}.log").read_text("utf-8", "replace")
            if process.poll() is not None:
                report.fault(f"the {name} ended with {process.returncode}: {log[-800:]}")
            for text in complaints(log):
                report.fault(f"{name}: {text}")


@contextlib.contextmanager
def _environment(folder: Path, server: RedisServer, cluster: LocalCluster) -> Iterator[None]:
    template = folder / "template.yaml"
    template.write_text(TEMPLATE)
    variables = {
        "AIRFLOW__KUBERNETES_EXECUTOR__CONFIG_FILE": str(cluster.kubeconfig),
        "AIRFLOW__KUBERNETES_EXECUTOR__POD_TEMPLATE_FILE": str(template),
        "AIRFLOW__PODRELAY__REDIS_URL": server.url,
        "AIRFLOW__PODRELAY__RECONCILE_INTERVAL_S": "1",
        "AIRFLOW__PODRELAY__LAUNCH_LEASE_S": str(_LEASE_S),
        "AIRFLOW__PODRELAY__WATCH_LEASE_S": "3",
        "AIRFLOW__PODRELAY__WARM_PODS_MAX": "4",
        "AIRFLOW__PODRELAY__WARM_POD_IDLE_S": "10",
    }
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
