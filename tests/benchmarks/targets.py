"""What was promised and what was measured: report -> rows of the acceptance table. Pure; judged here and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """One measure. `value` is None where its part was not run; then `ok` is None too."""

    measure: str
    target: str
    value: float | None
    unit: str
    ok: bool | None


def judge(report: Json) -> list[Row]:
    """:param report: what `__main__` writes; parts may be missing."""
    return [
        *_scheduler(report),
        *_creation(report),
        *_order(report),
        *_watcher(report),
        *_builds(report),
        *_warm(report),
    ]


def _scheduler(report: Json) -> Iterator[Row]:
    life = _life_at(report, 0.05)
    stock_s = _best(life, "stock", _seconds_a_thousand, min)
    ours_s = _best(life, "podrelay", _seconds_a_thousand, min)
    yield _row("time in heartbeat(), podrelay / best stock", "at most 1/200", _ratio(ours_s, stock_s), "", most=0.005)
    yield _row("time in heartbeat() for 1,000 tasks", "at most 0.5 s", ours_s, "s", most=0.5)
    longest = [
        row["heartbeat_max_ms"] for part in report.get("life", []) for row in part["rows"] if "podrelay" in row["name"]
    ]
    yield _row("longest heartbeat, API at 0 to 200 ms", "at most 50 ms", max(longest, default=None), "ms", most=50)
    hand_over = report.get("scheduler", {})
    for name, measured in hand_over.items():
        yield _row(
            f"longest heartbeat, hand-over of 1,000, {name}",
            "at most 50 ms",
            measured["heartbeat_max_ms"],
            "ms",
            most=50,
        )
    running = [row["heartbeat_max_ms"] for row in report.get("growth", {}).get("running", [])]
    yield _row("longest heartbeat, 10,000 running", "at most 50 ms", running[-1] if running else None, "ms", most=50)
    burst = _figure(report.get("bursts"), "podrelay, burst", "heartbeat_max_ms")
    yield _row("longest heartbeat, 1,000 pods end at once", "at most 50 ms", burst, "ms", most=50)
    one, eight = (
        _figure(report.get("schedulers"), f"podrelay, {count}", "scheduler_cpu_ms_per_result")
        for count in ("1 scheduler", "8 schedulers")
    )
    yield _row("scheduler's CPU a result, 8 schedulers / 1", "at most 1.3", _ratio(eight, one), "", most=1.3)
    cost = hand_over.get("redis", {}).get("hand_over_cpu_ms_per_task")
    yield _row("scheduler's CPU to hand over, a task", "at most 0.25 ms", cost, "ms", most=0.25)


def _creation(report: Json) -> Iterator[Row]:
    rates = _rates(report.get("creation"))
    for name in ("1 launcher", "2 launchers"):
        least, ratio = 0.95, _ratio(rates.get(f"podrelay, {name}"), rates.get("bare client"))
        yield _row(f"creation rate, {name} / bare client", f"at least {least}", ratio, "", least=least)
    life = _life_at(report, 0.05)
    ratio = _ratio(_best(life, "podrelay", _pods_per_s, max), _best(life, "stock", _pods_per_s, max))
    yield _row("creation rate, podrelay / best stock", "at least 2.5", ratio, "", least=2.5)
    cpu = _best(life, "podrelay, 1 launcher", lambda row: row["launcher_cpu_ms_per_pod"], max)
    yield _row("launcher's CPU, a pod", "at most 3 ms", cpu, "ms", most=3)
    yield _row(
        "rendering, against construct_pod", "at least 20 times faster", report.get("rendering"), "times", least=20
    )
    rates = _rates(report.get("scaling"))
    for name, least in (("2 launchers", 1.9), ("4 launchers", 3.6)):
        ratio = _ratio(rates.get(f"podrelay, {name}"), rates.get("podrelay, 1 launcher"))
        yield _row(
            f"200 ms, 16 in flight each: {name} against 1", f"at least {least} times", ratio, "times", least=least
        )
    for seats, most in (("5", 2.0), ("1", 3.0)):
        rows = report.get("seats", {}).get(seats, {}).get("rows", [])
        bare_s = _best(rows, "bare client", _seconds, min)
        for name in ("1 launcher", "2 launchers"):
            ratio = _ratio(_best(rows, f"podrelay, {name}", _seconds, min), bare_s)
            measure = (
                f"pods made and deleted, API server with {seats} seat{'s' * (seats != '1')}: {name} / best bare client"
            )
            yield _row(measure, f"at most {most:g} times its time", ratio, "times", most=most)
    grown = {row["queued"]: row["pods_per_s"] for row in report.get("growth", {}).get("queued", [])}
    ratio = _ratio(grown[max(grown)], grown[min(grown)]) if grown else None
    yield _row("launch rate, 50,000 queued / 1,000 queued", "flat: at least 0.9", ratio, "", least=0.9)


def _order(report: Json) -> Iterator[Row]:
    idle = report.get("idle", {})
    yield _row("hand-over to POST, idle, p50", "at most 50 ms", idle.get("p50_ms"), "ms", most=50)
    yield _row("hand-over to POST, idle, p99", "at most 200 ms", idle.get("p99_ms"), "ms", most=200)
    created = report.get("priority", {}).get("backlog_created")
    yield _row("backlog created before 100 urgent ones", "fewer than 300", created, "launches", most=299)
    created = report.get("fairness", {}).get("backlog_created")
    yield _row("backlog created before 100 of another scheduler", "fewer than 300", created, "launches", most=299)


def _watcher(report: Json) -> Iterator[Row]:
    ours, stock = (
        _figure(report.get("watcher"), name, "events_per_cpu_s")
        for name in ("podrelay, watcher", "stock KubernetesJobWatcher")
    )
    yield _row("watch events a second and core, podrelay / stock", "at least 15", _ratio(ours, stock), "", least=15)


# Measure -> part, row, figure and the most that this build may have of the other's.
_AGAINST: dict[str, tuple[str, str, str, float]] = {
    "launcher's CPU a pod, whole life": ("life", "1 launcher", "launcher_cpu_ms_per_pod", 0.6),
    "launcher's CPU a pod, launching alone": ("creation", "1 launcher", "cpu_ms_per_pod", 0.6),
    "time in heartbeat() for 1,000 tasks": ("life", "1 launcher", "heartbeat_sum_s", 0.5),
    "idle memory of a launcher": ("memory", "launcher", "idle_mb", 0.65),
    "idle memory of a watcher": ("memory", "watcher", "idle_mb", 0.65),
    "launcher's start to first claim": ("start", "launcher", "wall_s", 0.6),
    "launcher's CPU to first claim": ("start", "launcher", "cpu_s", 0.6),
    "1,000 pods end at once: last event": ("bursts", "burst", "last_event_s", 0.5),
}


def _builds(report: Json) -> Iterator[Row]:
    """Only where another build was measured in the same run."""
    other = report.get("other")
    for measure, (name, row, figure, most) in _AGAINST.items() if other else ():
        part = {"rows": _life_at(report, 0.05)} if name == "life" else report.get(name)
        this, theirs = (_figure(part, f"{label}, {row}", figure) for label in ("podrelay", other))
        yield _row(f"{measure}, this build / {other}", f"at most {most:g}", _ratio(this, theirs), "", most=most)


# Start delay in seconds -> warm / cold at most one in so many.
_WARM_AGAINST_COLD = {0.0: 3, 2.0: 8, 10.0: 25}
_KINDS = ("single", "burst of 8")


def _warm(report: Json) -> Iterator[Row]:
    part = report.get("warm", {})
    found = {(row["contestant"], row["delay_s"], row["kind"]): row for row in part.get("rows", [])}

    def against(other: str, delay_s: float, kind: str, figure: str) -> float | None:
        warm, theirs = (found.get((name, delay_s, kind), {}).get(figure) for name in ("podrelay warm", other))
        return _ratio(warm, theirs)

    for delay_s, share in _WARM_AGAINST_COLD.items():
        for kind in _KINDS:
            measure = f"queued to own code, {kind}, warm / cold, start delay {delay_s:g} s, p50"
            ratio = against("podrelay cold", delay_s, kind, "p50_ms")
            yield _row(measure, f"at most 1/{share}", ratio, "", most=1 / share)
    for figure, share in (("p50_ms", 8), ("p99_ms", 4)):
        for kind in _KINDS:
            measure = f"queued to own code, {kind}, warm / stock, start delay 2 s, {figure[:3]}"
            yield _row(measure, f"at most 1/{share}", against("stock", 2.0, kind, figure), "", most=1 / share)
    steady = part.get("steady", {})
    p99_ms = steady.get("assignment", {}).get("p99_ms")
    yield _row("assignment of a warm pod, API at 50 ms, p99", "at most 250 ms", p99_ms, "ms", most=250)
    requests = steady.get("requests_per_task")
    yield _row("requests to Kubernetes per warm task, refill included", "at most 3", requests, "", most=3)
    yield _row("tasks that got a warm pod, one a second", "at least 0.95", steady.get("hit_rate"), "", least=0.95)


def _row(
    measure: str, target: str, value: float | None, unit: str, *, most: float | None = None, least: float | None = None
) -> Row:
    if value is None:
        return Row(measure, target, None, unit, None)
    return Row(measure, target, value, unit, value <= most if most is not None else value >= (least or 0.0))


def _life_at(report: Json, latency_s: float) -> list[Json]:
    rows: list[Json] = next((part["rows"] for part in report.get("life", []) if part["latency_s"] == latency_s), [])
    return rows


def _best(
    rows: list[Json], name: str, figure: Callable[[Json], float], choose: Callable[[list[float]], float]
) -> float | None:
    found = [figure(row) for row in rows if row["name"].startswith(name)]
    return choose(found) if found else None


def _figure(part: Json | None, name: str, figure: str) -> float | None:
    """Of the row with this name, if there is one."""
    rows: list[Json] = part["rows"] if part else []
    return next((row[figure] for row in rows if row["name"] == name), None)


def _seconds_a_thousand(row: Json) -> float:
    return float(row["heartbeat_sum_s"]) * 1000 / float(row["tasks"])


def _seconds(row: Json) -> float:
    return float(row["seconds"])


def _pods_per_s(row: Json) -> float:
    return float(row["pods_per_s"])


def _rates(part: Json | None) -> dict[str, float]:
    return {row["name"]: row["pods_per_s"] for row in part["rows"]} if part else {}


def _ratio(value: float | None, against: float | None) -> float | None:
    return value / against if value is not None and against else None
