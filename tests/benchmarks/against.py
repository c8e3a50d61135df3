"""Two builds side by side: a report in which both have rows -> the ratio of each of their figures. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

Json = dict[str, Any]

# Part -> the figures of its rows that are compared, as `name` or `group.name`, each with its unit.
COMPARED: dict[str, dict[str, str]] = {
    "creation": {"pods_per_s": "pods/s", "cpu_ms_per_pod": "ms CPU/pod"},
    "memory": {"idle_mb": "MB idle", "after_mb": "MB after the work"},
    "start": {"wall_s": "s to the first claim", "cpu_s": "s CPU to the first claim"},
    "heartbeats": {"idle_wall_us": "us", "idle_cpu_us": "us CPU"},
    "bursts": {
        "last_event_s": "s to the last event",
        "half_of_events_s": "s to half of the events",
        "heartbeat_max_ms": "ms, longest heartbeat",
        "heartbeat_sum_s": "s in heartbeat()",
        "heartbeat_cpu_s": "s CPU in heartbeat()",
        "watcher_cpu_ms_per_pod": "ms watcher CPU/pod",
    },
    "schedulers": {
        "scheduler_cpu_ms_per_result": "ms scheduler CPU/result",
        "heartbeat_cpu_ms_per_result": "ms CPU in heartbeat()/result",
    },
    "watcher": {"events_per_cpu_s": "events/s and core"},
    "life": {
        "heartbeat_sum_s": "s in heartbeat()",
        "heartbeat_cpu_s": "s CPU in heartbeat()",
        "heartbeat_max_ms": "ms, longest heartbeat",
        "scheduler_cpu_ms_per_task": "ms scheduler CPU/task",
        "launcher_cpu_ms_per_pod": "ms launcher CPU/pod",
        "watcher_cpu_ms_per_pod": "ms watcher CPU/pod",
        "pods_per_s": "pods/s",
        "to_post.p50_ms": "ms to POST, p50",
        "to_event.p50_ms": "ms end to event, p50",
        "to_event.p99_ms": "ms end to event, p99",
    },
}


class Pair(NamedTuple):
    """One figure of both builds."""

    part: str
    row: str
    unit: str
    this: float
    other: float

    @property
    def ratio(self) -> float | None:
        return self.this / self.other if self.other else None


def pairs(report: Json) -> Iterator[Pair]:
    """Every compared figure that both builds have."""
    if not report.get("other"):
        return
    for part, figures in COMPARED.items():
        if part not in report:
            continue
        for measured in report[part] if isinstance(report[part], list) else [report[part]]:
            latency_s = measured.get("latency_s")
            where = part if latency_s is None else f"{part}, {1000 * latency_s:.0f} ms"
            rows = {row["name"]: row for row in measured["rows"]}
            for name, this in rows.items():
                what = name.removeprefix("podrelay, ")
                other = rows.get(f"{report['other']}, {what}")
                if what == name or other is None:
                    continue
                for path, unit in figures.items():
                    ours, theirs = at(this, path), at(other, path)
                    if ours is not None and theirs is not None:
                        yield Pair(where, what, unit, ours, theirs)


def comparison(report: Json) -> list[str]:
    """The same as a Markdown table; empty where there is nothing to compare."""
    found = list(pairs(report))
    if not found:
        return []
    lines = [f"| | this build | {report['other']} | this / other |", "|---|---|---|---|"]
    for pair in found:
        ratio = "" if pair.ratio is None else f"{pair.ratio:.2f}"
        lines.append(f"| {pair.part}: {pair.row}, {pair.unit} | {number(pair.this)} | {number(pair.other)} | {ratio} |")
    return lines


def at(row: Json, path: str) -> Any:
    """The figure `group.name` of a row, or None."""
    value: Any = row
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def number(value: float | None) -> str:
    if value is None:
        return ""
    if isinstance(value, int) or value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.3g}"
