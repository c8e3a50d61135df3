"""podrelay against the stock executor in one run, in turn, on the same API server: `make bench`.

The stock executor runs as it is configured by default (serial) and at its best (concurrent creation, large batches).
Every figure that counts is a ratio within one run, or a median of several rounds. Takes about 40 minutes on two quiet cores;
--parts chooses. With --kubeconfig it runs on a real cluster: its pods are created in --namespace and deleted at the end. What
needs pods that end (life) then needs a real node and an --image that it can pull, or --kubelet simulated. The whole
Airflow of `warm` has a local cluster of its own in any case.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from demo.airflow_api import ApiError
from demo.processes import StackError
from tests.benchmarks import process_parts, rendering, scheduler_parts, warm, watch_events
from tests.benchmarks.against import COMPARED
from tests.benchmarks.builds import other_build
from tests.benchmarks.parts import Bench, where
from tests.benchmarks.report import markdown, plot
from tests.benchmarks.targets import judge

JUDGED_MS = 50
RESULTS = Path(__file__).parent / "results"


def parts(bench: Bench, options: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    """The parts by name, in the order in which they run."""
    tasks, rounds = options.tasks, options.rounds
    return {
        "rendering": rendering.times_faster,
        "capacity": bench.capacity,
        "scheduler": bench.scheduler,
        "idle": bench.idle,
        "creation": bench.creation,
        "memory": lambda: process_parts.memory(bench),
        "start": lambda: process_parts.start(bench),
        "heartbeats": lambda: scheduler_parts.heartbeats(bench),
        "bursts": lambda: scheduler_parts.bursts(bench),
        "schedulers": lambda: scheduler_parts.schedulers(bench),
        "watcher": lambda: watch_events.measure(2 * tasks, rounds, bench.builds),
        "scaling": bench.scaling,
        "seats": bench.seats,
        "priority": bench.priority,
        "fairness": bench.fairness,
        "growth": bench.growth,
        # The stock executor needs two to three minutes for a thousand tasks: fewer rounds, and fewer tasks at 200 ms.
        "life": lambda: [
            bench.life(
                0.001 * ms, rounds if ms == JUDGED_MS else 1, tasks if ms < 200 else max(20, tasks // 5), options.stock
            )
            for ms in options.latencies_ms
        ],
        "warm": lambda: warm.measure(warm.QUICK if options.quick else warm.Sizes()),
    }


def machine() -> dict[str, Any]:
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    return {"cores": os.cpu_count(), "machine": model, "python": platform.python_version(), "system": platform.system()}


def today() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%d")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="warm: a few tasks, to see that it runs")
    parser.add_argument("--parts", nargs="*", default=None, help="default: all")
    parser.add_argument("--latencies-ms", type=int, nargs="*", default=[0, JUDGED_MS, 200], help="of life")
    parser.add_argument("--no-stock", dest="stock", action="store_false", help="life: without the stock executor")
    parser.add_argument("--kubeconfig", type=Path, default=None, help="another cluster than the local one")
    parser.add_argument(
        "--namespace", default="default", help="where pods are made, and pods of Airflow deleted at the end"
    )
    parser.add_argument("--image", default="airflow:bench")
    parser.add_argument(
        "--kubelet", choices=["real", "simulated"], default="real",
        help="simulated: the API server of --kubeconfig has no nodes; a process writes the statuses of all pods",
    )  # fmt: skip
    parser.add_argument(
        "--against",
        type=Path,
        default=None,
        help=f"another checkout with a .venv: both builds in turn, in the parts {', '.join(COMPARED)}",
    )
    parser.add_argument("--out", type=Path, default=RESULTS / "latest.json", help="table and plots go beside it")
    parser.add_argument("--keep", action="store_true", help="of --out: what other parts have measured there before")
    options = parser.parse_args()
    if options.kubelet == "simulated" and options.kubeconfig is None:
        parser.error("--kubelet simulated needs --kubeconfig: the local cluster simulates its pods itself")
    kubelet = "simulated" if options.kubelet == "simulated" else ""
    place = where(options.kubeconfig, options.namespace, options.image, kubelet)
    try:
        other = other_build(options.against.resolve()) if options.against else None
    except ValueError as error:
        parser.error(str(error))
    bench = Bench(options.tasks, options.rounds, place, other)
    known = parts(bench, options)
    if unknown := set(options.parts or ()) - set(known):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    if other is not None:
        known = {name: part for name, part in known.items() if name in COMPARED}
        if alone := set(options.parts or ()) - set(known):
            parser.error(f"--against: not compared: {', '.join(sorted(alone))}; only {', '.join(known)}")
    report: dict[str, Any] = {
        "machine": machine(),
        "api": "real API server" if options.kubeconfig else "local cluster over TLS",
        "when": today(),
        "took_s": {},
        "later": {},
        "other": other.label if other else None,
    }
    if options.keep:
        report |= json.loads(options.out.read_text())
    failed = [name for name in options.parts or known if not run(name, known[name], report, options.out)]
    print(markdown(report, judge(report)))
    if failed:
        raise SystemExit(f"not measured: {', '.join(failed)}")


def run(name: str, part: Callable[[], Any], report: dict[str, Any], out: Path) -> bool:
    """Measure one part, and write down all that is known by then: a part that fails costs only itself."""
    began_s = time.monotonic()
    try:
        report[name] = part()
    except (RuntimeError, TimeoutError, ValueError, KeyError, StackError, ApiError) as error:
        print(f"{name} failed: {error}", flush=True)
        return False
    report.setdefault("later", {}).pop(name, None)
    if report["when"] != today():
        report["later"][name] = today()
    report["took_s"][name] = round(time.monotonic() - began_s, 1)
    print(f"{name}: {report['took_s'][name]:.0f} s", flush=True)
    rows = judge(report)
    report["targets"] = [asdict(row) for row in rows]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=2))
    out.with_suffix(".md").write_text(markdown(report, rows))
    plot(report, out.parent)
    return True


if __name__ == "__main__":
    main()
