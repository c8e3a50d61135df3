"""One executor's life, measured: run in a process of its own by `run.py`.

Drives the executor as the scheduler's loop does (queue workloads, heartbeat, take events) until every task is over, and
writes what it measured as JSON. The same code drives the stock executor and podrelay's.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import os
import resource
import time
from pathlib import Path
from typing import Any

OWNER = 4242


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--executor", required=True, help="import path of the executor's class")
    parser.add_argument("--tasks", type=int, required=True)
    parser.add_argument("--every-s", type=float, default=0.1, help="pause between heartbeats")
    parser.add_argument("--one-by-one-s", type=float, default=0.0, help="hand one task over at a time, this far apart")
    parser.add_argument("--first-priority", type=int, default=0, help="so many tasks get priority 10 and come last")
    parser.add_argument("--most-s", type=float, default=600.0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.write_text(json.dumps(measure(options)))
    # The stock executor's watcher processes and its manager would be waited for without end.
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(0)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    executor, workloads = prepare(options)
    executor.start()
    # As in a scheduler that has run for a while: what the imports left is no work for the garbage collector.
    import gc

    gc.collect()
    gc.freeze()
    beats: list[float] = []
    over: dict[str, float] = {}
    handed: dict[str, float] = {}
    waiting = list(workloads)
    begun, cpu = time.time(), time.process_time()
    next_s = 0.0
    while time.time() - begun < options.most_s:
        if waiting and time.time() >= next_s:
            taken, waiting = (waiting[:1], waiting[1:]) if options.one_by_one_s else (waiting, [])
            next_s = time.time() + options.one_by_one_s
            for workload in taken:
                handed[str(workload.ti.id)] = time.time()
                executor.queue_workload(workload, None)
        before = time.perf_counter()
        executor.heartbeat()
        beats.append(time.perf_counter() - before)
        now = time.time()
        executor.get_event_buffer()
        executor._task_event_logs.clear()
        for workload in workloads:
            ti_id = str(workload.ti.id)
            held = workload.key in executor.running or workload.key in executor.queued_tasks
            if ti_id in handed and ti_id not in over and not held:
                over[ti_id] = now
        if len(over) == len(workloads):
            break
        time.sleep(options.every_s)
    wall_s = time.time() - begun
    return {
        "tasks": len(workloads),
        "over": len(over),
        "wall_s": wall_s,
        "beats_s": beats,
        "cpu_s": time.process_time() - cpu,
        "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "handed_s": handed,
        "over_s": over,
    }


def prepare(options: argparse.Namespace) -> tuple[Any, list[Any]]:
    """An executor, and workloads whose rows are in the database as a scheduler leaves them."""
    from airflow.utils.db import initdb

    initdb()
    from tests.support.task_instances import make_task_instances, workload_of

    low = options.tasks - options.first_priority
    ids = make_task_instances(low, priority_weight=1) if low else []
    if options.first_priority:
        ids += make_task_instances(options.first_priority, priority_weight=10)
    module, _, name = options.executor.rpartition(".")
    executor = getattr(importlib.import_module(module), name)()
    executor.job_id = OWNER
    executor.parallelism = 1_000_000
    return executor, [workload_of(ti_id, executor.jwt_generator) for ti_id in ids]


if __name__ == "__main__":
    main()
