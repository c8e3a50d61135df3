"""From the end of a pod to the executor's event buffer: `python -m tests.benchmarks.end_latency --rate 100 --seconds 20`.

A real executor with a heartbeat every 0.1 s, a launcher and a watcher as processes, Redis, and a local cluster whose pods
end on request. What is measured begins when the cluster is asked to end the pod, and ends when the scheduler has
the event.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.benchmarks.rig import Rig

HEARTBEAT_S = 0.1
LATE_S = 30.0
THREADS = 4


class Ender(threading.Thread):
    """Ends pods at a steady rate, and notes when each was asked for."""

    def __init__(self, rig: Rig, pods: dict[str, str], rate: float) -> None:
        super().__init__(daemon=True)
        self._rig, self._pods, self._rate = rig, pods, rate
        self.asked_s: dict[str, float] = {}

    def run(self) -> None:
        with ThreadPoolExecutor(THREADS) as pool:
            began = time.monotonic()
            for number, launch_id in enumerate(self._pods):
                time.sleep(max(0.0, began + number / self._rate - time.monotonic()))
                pool.submit(self._end, launch_id)

    def _end(self, launch_id: str) -> None:
        assert self._rig.cluster is not None
        self.asked_s[launch_id] = time.monotonic()
        self._rig.cluster.end_pod("default", self._pods[launch_id], exit_code=0)


def heartbeats(executor: Any, until: Any, most_s: float) -> None:
    end = time.monotonic() + most_s
    while not until():
        if time.monotonic() > end:
            raise TimeoutError("it did not come to hold")
        due = time.monotonic() + HEARTBEAT_S
        executor.heartbeat()
        time.sleep(max(0.0, due - time.monotonic()))


def measure(rig: Rig, count: int, rate: float) -> dict[str, Any]:
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.db import initdb
    from airflow.utils.session import create_session
    from sqlalchemy import update

    from podrelay.executor import RedisKubernetesExecutor
    from tests.harness.task_instances import OWNER, make_task_instances, workload_of

    assert rig.cluster is not None
    cluster = rig.cluster
    initdb()
    executor = RedisKubernetesExecutor()
    executor.job_id = OWNER
    executor.start()
    launches = {}
    for ti_id in make_task_instances(count):
        workload = workload_of(ti_id, executor.jwt_generator)
        with create_session() as session:
            executor.queue_workload(workload, session)
        launches[workload.key] = str(workload.ti.external_executor_id)

    def running() -> dict[str, str]:
        return {pod["metadata"]["labels"]["podrelay/launch-id"]: pod["metadata"]["name"]
                for pod in cluster.pods() if pod["status"].get("phase") == "Running"}  # fmt: skip

    heartbeats(executor, lambda: len(running()) == count, 120.0)
    executor.get_event_buffer()
    # As their processes leave the rows: done, the pods about to end.
    with create_session() as session:
        session.execute(update(TaskInstance).values(state="success", start_date=TaskInstance.queued_dttm))
    ender = Ender(rig, running(), rate)
    reported_s: dict[str, float] = {}

    def all_reported() -> bool:
        now = time.monotonic()
        reported_s.update((launches[key], now) for key in executor.get_event_buffer() if key in launches)
        return len(reported_s) == count

    ender.start()
    with contextlib.suppress(TimeoutError):
        heartbeats(executor, all_reported, count / rate + LATE_S)
    executor.end()
    lags = sorted(reported_s[launch_id] - ender.asked_s[launch_id] for launch_id in reported_s)
    return {
        "ends": count,
        "per_s": rate,
        "heartbeat_s": HEARTBEAT_S,
        "reported": len(lags),
        "p50_s": round(lags[len(lags) // 2], 3),
        "p99_s": round(lags[int(len(lags) * 0.99)], 3),
        "max_s": round(lags[-1], 3),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=100.0, help="pods that end, a second")
    parser.add_argument("--seconds", type=float, default=20.0)
    options = parser.parse_args()
    count = max(1, int(options.rate * options.seconds))
    with Rig(latency_s=0.0, duration_s=36_000.0) as rig, rig.workers(1):
        os.environ.update(rig.environment())
        found = measure(rig, count, options.rate)
    print(json.dumps(found))
    return 0 if found["reported"] == count else 1


if __name__ == "__main__":
    sys.exit(main())
