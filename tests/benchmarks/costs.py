"""What one task costs each process: `python -m tests.benchmarks.costs` writes results/costs.json.

Real lives of tasks on the local cluster, all at once and one after the other: they wake processes more or less often, so
that what a task costs and what a wake costs can be separated. Redis itself counts what its scripts take, by its slow log.
Beside them, in the same rounds, whole lives of other sizes, which the simulation is compared with. It says where two rounds
differ by more than 10 %. Takes about four minutes; the memory of a launch in Redis, `--memory`, one more.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks import redis_memory
from tests.benchmarks.builds import EXECUTOR
from tests.benchmarks.cost_fit import Regime, fit_units
from tests.benchmarks.cost_runs import WARM_UP, Bed, bed, clean_up, counted, ended_pods, hand_over_of
from tests.benchmarks.figures import medians
from tests.benchmarks.rig import Rig, costs, spent
from tests.benchmarks.simulation.check import compare, markdown
from tests.benchmarks.simulation.unit_costs import MADE_BY, RECORDED, recorded

Json = dict[str, Any]
# Answers are late as from a server that is not on this machine: a process then sees them one by one, which costs it more.
LATENCY_S = 0.05
SPREAD = 0.1
# A difference of less processor time than this says nothing.
LEAST_S = 0.02
MEMORY_STATES = ("queued", "runs", "ended", "acknowledged", "without_jobs", "without_ledger")


@dataclass(frozen=True)
class Life:
    """A whole life of so many tasks at once, which the simulation is compared with."""

    latency_s: float
    launchers: int
    tasks: int

    @property
    def label(self) -> str:
        return f"{self.tasks} tasks, {self.launchers} launchers, {1000 * self.latency_s:.0f} ms"


LIVES = (Life(LATENCY_S, 1, 250), Life(LATENCY_S, 2, 1000), Life(0.0, 1, 4000))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=2000, help="at once; one after the other: a twentieth")
    parser.add_argument("--rounds", type=int, default=2, help="of each measurement; medians count")
    parser.add_argument("--memory", type=int, nargs="?", const=2000, metavar="LAUNCHES", help="measure only that")
    parser.add_argument("--out", type=Path, default=RECORDED)
    parser.add_argument("--kubeconfig", type=Path, help="a real API server without nodes: measure only what it costs")
    parser.add_argument("--api-server-pid", type=int, help="with --kubeconfig: its process on this machine")
    parser.add_argument("--etcd-pid", type=int, help="with --kubeconfig: the process of its etcd")
    options = parser.parse_args()
    if options.kubeconfig:
        if not (options.api_server_pid and options.etcd_pid):
            parser.error("--kubeconfig needs --api-server-pid and --etcd-pid: their processor time is what is measured")
        pids = {"api_server_s": options.api_server_pid, "etcd_s": options.etcd_pid}
        measured = control_plane(options.kubeconfig, pids, options.tasks)
        write({**recorded(options.out), "control_plane": measured}, options.out)
    elif options.memory:
        document = recorded(options.out)
        document["units"]["memory_bytes"] = memory_of_a_launch(options.memory)
        write(document, options.out)
    else:
        measure(options)


def measure(options: argparse.Namespace) -> None:
    """Costs and lives, written with what is kept of the last time: memory, and a real API server.

    :raises SystemExit: the simulation is off.
    """
    kept = recorded(options.out if options.out.exists() else RECORDED)
    runs = rounds(options.tasks, options.rounds)
    if options.rounds > 1:
        print("\n".join(differing(runs)) or f"the rounds agree within {100 * SPREAD:.0f} %", flush=True)
    found = {name: medians(of_one) for name, of_one in runs.items()}
    units = fit_units(
        burst=regime(found["together"]),
        trickle=regime(found["singly"]),
        clean_ups=regime(found["clean-ups"]),
        foreign=regime(found["beside another scheduler"]),
        hand_overs=[hand_over_of(options.tasks // 2), hand_over_of(2 * options.tasks)],
        memory_bytes=kept["units"]["memory_bytes"],
    )
    document: Json = {
        "when": time.strftime("%Y-%m-%d", time.gmtime()),
        "made_by": MADE_BY,
        "units": asdict(units),
        "control_plane": kept.get("control_plane"),
        "lives": [{**asdict(life), **life_of(found[life.label])} for life in LIVES],
    }
    write(document, options.out)
    rows = compare(document["lives"], units)
    print(markdown(rows))
    if not all(row.ok for row in rows):
        raise SystemExit("the simulation is more than 20 % off: measure again on a quiet machine, or mend it")


def write(document: Json, path: Path) -> None:
    path.write_text(json.dumps(document, indent=2) + "\n")


def rounds(tasks: int, count: int) -> dict[str, list[Json]]:
    """Every measurement of each round, by its name. All beds stay meanwhile, so that a machine that becomes slower is slower
    for all.
    """
    say("measuring; nothing else should run")
    found: dict[str, list[Json]] = {}
    with ExitStack() as stack:
        beds = {life: stack.enter_context(bed(life.latency_s, life.launchers)) for life in LIVES}
        first, last = beds[LIVES[0]], beds[LIVES[-1]]
        for number in range(count):
            say(f"round {number + 1} of {count}")
            measured = {life.label: one.live(life.tasks) for life, one in beds.items()}
            measured |= of_costs(first, tasks)
            for name, run in measured.items():
                found.setdefault(name, []).append(run)
        found["beside another scheduler"] = [last.beside_another(20)]
    return found


def of_costs(quiet: Bed, tasks: int) -> dict[str, Json]:
    return {
        "together": quiet.live(tasks),
        "singly": quiet.trickle(max(50, tasks // 20)),
        "clean-ups": quiet.warm_up(),
    }


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def regime(run: Json) -> Regime:
    return Regime(**{name: run[name] for name in Regime.__dataclass_fields__ if name in run})


def life_of(run: Json) -> Json:
    """What the simulation is compared with."""
    times = {name: run[name] for name in ("last_created_s", "last_event_s", "last_deleted_s", "pods_per_s")}
    return times | {name: by_role(run[name]) for name in ("cpu_s", "wakes")} | {"calls": run["calls"]}


def by_role(processes: Json) -> Json:
    """With all launchers as one."""
    launchers = sum(value for name, value in processes.items() if name.startswith("launcher"))
    return {name: value for name, value in processes.items() if not name.startswith("launcher")} | {
        "launchers": launchers
    }


def differing(runs: dict[str, list[Json]]) -> Iterator[str]:
    """A line for each process whose processor time is not the same in all rounds."""
    for name, of_one in runs.items():
        for process in of_one[0]["cpu_s"]:
            seconds = [run["cpu_s"][process] for run in of_one]
            if max(seconds) > (1 + SPREAD) * min(seconds) and max(seconds) - min(seconds) > LEAST_S:
                figures = ", ".join(f"{one:.2f}" for one in seconds)
                yield f"rounds differ by more than {100 * SPREAD:.0f} %: {name}: {process} {figures} s"


def memory_of_a_launch(launches: int) -> dict[str, float]:
    with Rig(duration_s=redis_memory.DURATION_S, observe=False) as rig:
        sizes = [size for _, size in redis_memory.measure(rig, launches)]
    return dict(zip(MEMORY_STATES, sizes, strict=True))


def control_plane(kubeconfig: Path, pids: dict[str, int], tasks: int) -> Json:
    """Processor seconds of a real API server and of etcd for one task: every write to its pod, those of the simulated kubelet
    too, and the watches of watcher, kubelet and observer.
    """
    with (
        Rig(kubeconfig=kubeconfig, kubelet="simulated") as rig, rig.workers(1), rig.driver(EXECUTOR, tasks) as driver,
        counted(rig) as client,
    ):  # fmt: skip
        clean_up(rig, "warm_up", ended_pods(rig, client, "warm_up", WARM_UP))
        before = costs(pids)
        driven = driver.run()
        rig.await_observed("deleted", next(iter(driven["handed_s"])).partition(".")[0], tasks)
        cost = spent(before, costs(pids))
    server = version_at(kubeconfig)
    return {"version": server, **{name: item["cpu_s"] / tasks for name, item in cost.items()}}


def version_at(kubeconfig: Path) -> str:
    from kubernetes import client, config

    return str(client.VersionApi(config.new_client_from_config(str(kubeconfig))).get_code().git_version)


if __name__ == "__main__":
    main()
