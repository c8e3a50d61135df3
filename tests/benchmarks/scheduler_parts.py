"""What a scheduler pays for heartbeats without work, for many ends at once, and for the results of other schedulers."""

from __future__ import annotations

import time
from typing import Any

from tests.benchmarks import cues
from tests.benchmarks.builds import EXECUTOR, Build
from tests.benchmarks.drive import OWNER
from tests.benchmarks.figures import medians
from tests.benchmarks.parts import Bench, beats, cpu_s_of
from tests.benchmarks.rig import costs, spent

Json = dict[str, Any]

_EACH_MOST = 400
_EVERY_S = 0.025


def heartbeats(bench: Bench, count: int = 5000) -> Json:
    """What a heartbeat costs that finds nothing to do, with nothing else on Redis."""
    found: dict[str, list[Json]] = {}
    for turn in range(bench.rounds):
        for build in bench.builds(turn):
            with bench.rig(observe=False, build=build) as rig:
                measured = rig.drive(EXECUTOR, 1, "--idle-beats", str(count))
            figures = {name: measured[name] for name in ("idle_wall_us", "idle_cpu_us")}
            found.setdefault(f"{build.label}, idle heartbeat", []).append(figures)
    return {"rounds": bench.rounds, "rows": [{"name": name, **medians(runs)} for name, runs in found.items()]}


def bursts(bench: Bench, latency_s: float = 0.05) -> Json:
    """All running pods end at once: until their events are in the scheduler's event buffer, with a heartbeat each 0.1 s. The
    rows of the tasks are done by then, as their processes leave them.
    """
    found: dict[str, list[Json]] = {}
    for turn in range(bench.rounds):
        for build in bench.builds(turn):
            found.setdefault(f"{build.label}, burst", []).append(_burst(bench, build, latency_s))
    rows = [{"name": name, **medians(runs)} for name, runs in found.items()]
    return {"latency_s": latency_s, "tasks": bench.tasks, "rounds": bench.rounds, "rows": rows}


def _burst(bench: Bench, build: Build, latency_s: float) -> Json:
    with (
        bench.rig(latency_s, duration_s=3600, build=build) as rig,
        rig.workers(1) as pids,
        rig.driver(EXECUTOR, bench.tasks, "--end-on-cue") as driver,
    ):
        driver.go()
        rig.await_observed("running", "", bench.tasks)
        driver.cues.give(cues.LET_END)
        driver.await_cue(cues.MARKED)
        time.sleep(1.0)  # the launchers' and the watcher's reports of the starts
        before = costs({**pids, **rig.servers()})
        asked_s = time.time()
        rig.end_pods()
        measured = driver.result()
        rig.await_observed("deleted", "", bench.tasks)
        cost = spent(before, costs({**pids, **rig.servers()}))
        over_s = sorted(measured["over_s"].values())
        last_end_s = max(rig.observed("ended").values())
    if len(over_s) < bench.tasks:
        raise RuntimeError(f"{len(over_s)} of {bench.tasks} events")
    return {
        "last_event_s": over_s[-1] - asked_s,
        "half_of_events_s": over_s[len(over_s) // 2] - asked_s,
        "last_end_seen_s": last_end_s - asked_s,
        **beats(measured),
        "scheduler_cpu_ms_per_task": 1000 * measured["cost"]["cpu_s"] / bench.tasks,
        "watcher_cpu_ms_per_pod": 1000 * cpu_s_of(cost, "watcher") / bench.tasks,
        "cost": {"scheduler": measured["cost"], **cost},
    }


def schedulers(bench: Bench, counts: tuple[int, ...] = (1, 8), latency_s: float = 0.05) -> Json:
    """Several schedulers, each with as many tasks at the same rate: what each of them pays for a result of its own."""
    found: dict[str, list[Json]] = {}
    for turn in range(bench.rounds):
        for count in counts:
            for build in bench.builds(turn):
                name = f"{build.label}, {count} scheduler{'s' * (count > 1)}"
                found.setdefault(name, []).append(_schedulers(bench, build, count, latency_s))
    rows = [{"name": name, **medians(runs)} for name, runs in found.items()]
    return {"latency_s": latency_s, "rounds": bench.rounds, "every_s": _EVERY_S, "rows": rows}


def _schedulers(bench: Bench, build: Build, count: int, latency_s: float) -> Json:
    tasks = min(bench.tasks, _EACH_MOST)
    each = [["--owner", str(OWNER + number), "--one-by-one-s", str(_EVERY_S)] for number in range(count)]
    with (
        bench.rig(latency_s, build=build) as rig,
        rig.workers(1),
        rig.drivers(EXECUTOR, tasks, each) as drivers,
    ):
        for driver in drivers:
            driver.go()
        measured = [driver.result() for driver in drivers]
    if any(run["over"] < tasks for run in measured):
        raise RuntimeError(f"{[run['over'] for run in measured]} of {tasks} results each")
    results = count * tasks
    return {
        "tasks": tasks,
        "wall_s": max(run["wall_s"] for run in measured),
        "scheduler_cpu_ms_per_result": 1000 * sum(run["cost"]["cpu_s"] for run in measured) / results,
        "heartbeat_cpu_ms_per_result": 1000 * sum(run["beats_cpu_s"] for run in measured) / results,
        "heartbeats": sum(len(run["beats_s"]) for run in measured) / count,
        "heartbeat_max_ms": 1000 * max(max(run["beats_s"]) for run in measured),
    }
