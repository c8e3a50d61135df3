"""One executor's life, measured: run in a separate process by `rig.py`.

Drives the executor as the scheduler's loop does (queue workloads, heartbeat, take events) until every task is over, and
writes what it measured as JSON. The same code drives the stock executor and any build of podrelay: it uses Airflow's
interface only, and runs in the build's Python. The garbage collector is on, as in a scheduler; what the imports and the
preparation left is collected once before the first heartbeat, as it has been in a scheduler that has run for a while.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import multiprocessing
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from tests.benchmarks import cues
from tests.benchmarks.cues import Cues
from tests.benchmarks.processes import cost_of

OWNER = 4242


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--executor", required=True, help="import path of the executor's class")
    parser.add_argument("--tasks", type=int, required=True)
    parser.add_argument("--every-s", type=float, default=0.1, help="pause between heartbeats")
    parser.add_argument("--one-by-one-s", type=float, default=0.0, help="hand one task over each so many seconds")
    parser.add_argument("--beats-after", type=int, default=-1, help="end so many heartbeats after the hand-over")
    parser.add_argument("--as-running", action="store_true", help="say in the ledger that all pods run, then beat on")
    parser.add_argument("--idle-beats", type=int, default=0, help="hand nothing over: only so many heartbeats, at once")
    parser.add_argument("--most-s", type=float, default=900.0)
    parser.add_argument("--owner", type=int, default=OWNER, help="job id of the scheduler")
    parser.add_argument(
        "--end-on-cue", action="store_true", help="count heartbeats from the cue that pods are about to end"
    )
    parser.add_argument("--cues", type=Path, required=True, help="folder of the cues between the rig and this process")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    signals = Cues(options.cues)
    executor, workloads = prepare(options)
    executor.start()
    # The first heartbeat of a process reads the names of all of Airflow's metrics, whatever the executor.
    executor.heartbeat()
    gc.collect()
    signals.give(cues.PREPARED)
    if not signals.wait_for(cues.GO, options.most_s):
        raise SystemExit("no cue to begin")
    driver = Driver(executor, workloads, options, signals)
    measured = driver.measure_idle() if options.idle_beats else driver.measure()
    podrelay = sys.modules.get("podrelay")
    measured["code"] = podrelay.__file__ if podrelay else None
    options.out.write_text(json.dumps(measured))
    # The stock executor's watcher processes and its manager would be waited for without end.
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(0)


class Driver:
    """The scheduler's loop, reduced to what an executor sees of it."""

    def __init__(self, executor: Any, workloads: list[Any], options: argparse.Namespace, signals: Cues) -> None:
        self.executor = executor
        self.options = options
        self.cues = signals
        self.waiting = list(workloads)
        self.count = len(workloads)
        self.beats: list[float] = []
        self.handed: dict[str, float] = {}
        self.over: dict[str, float] = {}
        self.open: dict[str, Any] = {}
        self.next_s = 0.0
        self.beats_cpu_s = 0.0
        self.hand_over_s = 0.0
        self.hand_overs = 0
        self.collections_s: list[float] = []
        gc.callbacks.append(self._collection)

    def measure(self) -> dict[str, Any]:
        begun, before = time.time(), cost_of(os.getpid())
        while time.time() - begun < self.options.most_s and len(self.over) < self.count:
            self._queue()
            self._beat()
            self._look()
            if self.options.end_on_cue and self.cues.given(cues.LET_END):
                self.options.end_on_cue = False
                self._mark_done()
                begun, before = time.time(), cost_of(os.getpid())
            if not self.waiting and not self.executor.queued_tasks:
                if self.options.as_running:
                    self._let_them_run()
                    self.beats, self.beats_cpu_s, self.options.as_running = [], 0.0, False
                if self.options.beats_after == 0:
                    break
                self.options.beats_after -= 1
            time.sleep(self.options.every_s)
        after = cost_of(os.getpid())
        return {
            "tasks": self.count,
            "over": len(self.over),
            "wall_s": time.time() - begun,
            "beats_s": self.beats,
            "beats_cpu_s": self.beats_cpu_s,
            "full_collections_s": self.collections_s,
            "hand_over_cpu_ms_per_task": 1000 * self.hand_over_s / self.count,
            "hand_overs": self.hand_overs,
            "cost": {"cpu_s": after["cpu_s"] - before["cpu_s"], "memory_mb": after["memory_mb"]},
            "handed_s": self.handed,
            "over_s": self.over,
        }

    def measure_idle(self) -> dict[str, Any]:
        """What a heartbeat costs that finds nothing to do: medians. The first ones find what is done every few seconds."""
        cpu_s = []
        for _ in range(self.options.idle_beats):
            before_s = self.beats_cpu_s
            self._beat()
            cpu_s.append(self.beats_cpu_s - before_s)
        return {
            "idle_wall_us": 1e6 * statistics.median(self.beats),
            "idle_cpu_us": 1e6 * statistics.median(cpu_s),
        }

    def _queue(self) -> None:
        now, step_s = time.time(), self.options.one_by_one_s
        if not self.waiting or now < self.next_s:
            return
        due = len(self.waiting)
        if step_s:
            due = 1 + int((now - self.next_s) / step_s) if self.next_s else 1
            self.next_s = (self.next_s or now) + due * step_s
        taken, self.waiting = self.waiting[:due], self.waiting[due:]
        for workload in taken:
            self.handed[name_of(workload)] = now
            self.open[name_of(workload)] = workload.key
            self.executor.queue_workload(workload, None)

    def _beat(self) -> None:
        queued = bool(self.executor.queued_tasks)
        before, cpu = time.perf_counter(), time.thread_time()
        self.executor.heartbeat()
        self.beats.append(time.perf_counter() - before)
        cpu_s = time.thread_time() - cpu
        self.beats_cpu_s += cpu_s
        if queued:
            self.hand_over_s += cpu_s
            self.hand_overs += 1

    def _look(self) -> None:
        now, executor = time.time(), self.executor
        executor.get_event_buffer()
        executor._task_event_logs.clear()
        ended = [
            name for name, key in self.open.items() if key not in executor.running and key not in executor.queued_tasks
        ]
        for name in ended:
            self.over[name] = now
            del self.open[name]

    def _collection(self, phase: str, info: dict[str, int]) -> None:
        if info["generation"] == 2:
            self.collections_s.append(
                time.perf_counter() if phase == "start" else time.perf_counter() - self.collections_s.pop()
            )

    def _mark_done(self) -> None:
        """The rows as the processes of the tasks leave them: done, while their pods have still to end."""
        from airflow.models.taskinstance import TaskInstance
        from airflow.utils.session import create_session
        from sqlalchemy import update

        with create_session() as session:
            session.execute(update(TaskInstance).values(state="success", start_date=TaskInstance.queued_dttm))
        self.beats, self.beats_cpu_s = [], 0.0
        self.cues.give(cues.MARKED)

    def _let_them_run(self) -> None:
        """Write what a launcher and the watcher would have written for pods that run."""
        import redis

        from podrelay.protocol.redis_keys import RedisKeys, rq_queue

        executor = self.executor
        keys = RedisKeys(executor.settings.deployment)
        client = redis.Redis.from_url(executor.settings.redis_url, decode_responses=True)
        pipeline = client.pipeline(transaction=False)
        for launch in executor.launches:
            pod = {"state": "started", "started": "1", "pod": launch.launch_id, "namespace": "default", "uid": "u"}
            pipeline.hset(keys.launch(launch.launch_id), mapping=pod)
        pipeline.delete(*(rq_queue(queue) for queue in keys.launch_queues("default")))
        pipeline.execute()


def name_of(workload: Any) -> str:
    return f"{workload.ti.dag_id}.{workload.ti.task_id}"


def prepare(options: argparse.Namespace) -> tuple[Any, list[Any]]:
    """An executor, and workloads whose rows are in the database as a scheduler leaves them."""
    from tests.harness.task_instances import make_task_instances, workloads_of

    ids = make_task_instances(options.tasks, priority_weight=1, queued_by_job_id=options.owner)
    module, _, name = options.executor.rpartition(".")
    executor = getattr(importlib.import_module(module), name)()
    executor.job_id = options.owner
    executor.parallelism = 1_000_000
    return executor, workloads_of(ids, executor.jwt_generator)


if __name__ == "__main__":
    main()
