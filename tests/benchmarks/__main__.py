"""podrelay against the stock executor in one run, in turn, on the same API server: `make bench`.

The stock executor runs as it is configured by default (serial) and at its best (concurrent creation, large batches).
Every figure is a ratio within one run or stands beside its rival's: the machines are shared and noisy.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from tests.benchmarks.report import plot, table
from tests.benchmarks.rig import Rig, cost_of

STOCK = "airflow.providers.cncf.kubernetes.executors.kubernetes_executor.KubernetesExecutor"
OURS = "podrelay.executor.RedisKubernetesExecutor"
RESULTS = Path(__file__).parent / "results"

# The stock executor's settings that are tried; its best one counts.
STOCK_SETTINGS: dict[str, dict[str, str]] = {
    "stock serial": {"BATCH_SIZE": "16"},
    "stock concurrent 64": {"BATCH_SIZE": "64", "MAX": "64"},
    "stock concurrent 1000": {"BATCH_SIZE": "1000", "MAX": "64"},
}


def stock_environment(setting: dict[str, str]) -> dict[str, str]:
    section = "AIRFLOW__KUBERNETES_EXECUTOR__"
    made = {section + "WORKER_PODS_CREATION_BATCH_SIZE": setting["BATCH_SIZE"]}
    if "MAX" in setting:
        made[section + "ASYNC_POD_CREATION"] = "True"
        made[section + "POD_CREATION_MAX_CONCURRENCY"] = setting["MAX"]
    return made


def summary(name: str, measured: dict[str, Any], created: list[float], clock: float) -> dict[str, Any]:
    """The figures of one run."""
    beats = sorted(measured["beats_s"])
    cuts = quantiles(beats, n=100, method="inclusive") if len(beats) > 1 else beats * 99
    span_s = created[-1] - created[0] if len(created) > 1 else float("nan")
    first_s = min(measured["handed_s"].values(), default=clock)
    return {
        "name": name,
        "tasks": measured["tasks"],
        "over": measured["over"],
        "created": len(created),
        "heartbeat_sum_s": sum(beats),
        "heartbeat_p50_ms": 1000 * median(beats),
        "heartbeat_p99_ms": 1000 * cuts[98],
        "heartbeat_max_ms": 1000 * beats[-1],
        "pods_per_s": (len(created) - 1) / span_s if span_s else float("nan"),
        "handed_to_last_created_s": (created[-1] - first_s) if created else float("nan"),
        "wall_s": measured["wall_s"],
        "scheduler_cpu_s": measured["cpu_s"],
        "scheduler_memory_mb": measured["memory_mb"],
    }


def run_stock(rig: Rig, name: str, tasks: int) -> dict[str, Any]:
    begun = time.time()
    measured = rig.drive(STOCK, tasks, **stock_environment(STOCK_SETTINGS[name]))
    return summary(name, measured, rig.creations(begun), begun)


def run_ours(rig: Rig, launchers: int, tasks: int, concurrency: int) -> dict[str, Any]:
    limit = {"AIRFLOW__PODRELAY__LAUNCHER_CONCURRENCY": str(concurrency)}
    with rig.workers(launchers, **limit) as processes:
        before = {name: cost_of(process) for name, process in processes.items()}
        begun = time.time()
        measured = rig.drive(OURS, tasks)
        found = summary(f"podrelay, {launchers} launcher{'s' * (launchers > 1)}", measured, rig.creations(begun), begun)
        after = {name: cost_of(process) for name, process in processes.items()}
    cpu = {name: after[name]["cpu_s"] - before[name]["cpu_s"] for name in after}
    launcher_cpu_s = sum(value for name, value in cpu.items() if name.startswith("launcher"))
    return {
        **found,
        "launchers": launchers,
        "concurrency": concurrency,
        "launcher_cpu_ms_per_pod": 1000 * launcher_cpu_s / tasks,
        "watcher_cpu_ms_per_pod": 1000 * cpu["watcher"] / tasks,
        "memory_mb": {name: value["memory_mb"] for name, value in after.items()},
    }


def run_bare(rig: Rig, tasks: int, concurrency: int) -> dict[str, Any]:
    out = rig.folder / "bare.json"
    subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.bare", "--kubeconfig", str(rig.kubeconfig), "--template", str(rig.template),
         "--tasks", str(tasks), "--concurrency", str(concurrency), "--out", str(out)],
        env=rig.environment(), check=True, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    return {"name": f"bare client, {concurrency} in flight", **json.loads(out.read_text())}


def run_latency(rig: Rig, tasks: int = 60) -> dict[str, Any]:
    """Hand-over to POST on an idle system, one task at a time."""
    with rig.workers(1):
        begun = time.time()
        measured = rig.drive(OURS, tasks, "--one-by-one-s", "0.25", "--every-s", "0.01")
        created = rig.creations(begun)
    waits = sorted(
        1000 * (made - handed) for made, handed in zip(created, sorted(measured["handed_s"].values()), strict=True)
    )
    return {
        "name": "idle hand-over to POST",
        "p50_ms": median(waits),
        "p99_ms": quantiles(waits, n=100, method="inclusive")[98],
        "max_ms": waits[-1],
    }


def machine() -> dict[str, Any]:
    return {
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "system": platform.system(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--latency-s", type=float, nargs="*", default=[0.0, 0.05, 0.2])
    parser.add_argument("--launchers", type=int, nargs="*", default=[1, 2, 4])
    parser.add_argument("--stock", nargs="*", default=list(STOCK_SETTINGS), choices=list(STOCK_SETTINGS))
    parser.add_argument(
        "--serial-tasks", type=int, default=100, help="tasks of the serial stock executor, which is slow"
    )
    parser.add_argument("--kubeconfig", type=Path, default=None, help="another cluster than the local one")
    parser.add_argument("--out", type=Path, default=RESULTS / "latest.json")
    options = parser.parse_args()
    report: dict[str, Any] = {"machine": machine(), "tasks": options.tasks, "runs": []}
    for latency_s in options.latency_s:
        rows = []
        # In flight at 200 ms: few enough that the launchers, and not this machine's two cores, are the limit.
        concurrency = 16 if latency_s >= 0.2 else 64
        with Rig(latency_s, kubeconfig=options.kubeconfig) as rig:
            rows.append(run_bare(rig, options.tasks, concurrency))
            for name in options.stock:
                rows.append(run_stock(rig, name, options.serial_tasks if "serial" in name else options.tasks))
                print(table([rows[-1]]), flush=True)
            for launchers in options.launchers:
                rows.append(run_ours(rig, launchers, options.tasks, concurrency))
                print(table([rows[-1]]), flush=True)
            rows.append(run_bare(rig, options.tasks, concurrency))
            rows.append(run_latency(rig))
        report["runs"].append({"latency_s": latency_s, "rows": rows})
        print(f"\nlatency {latency_s * 1000:.0f} ms\n{table(rows)}\n", flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=2))
    plot(report, options.out.parent)


if __name__ == "__main__":
    main()
