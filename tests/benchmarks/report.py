"""Benchmark results as Markdown tables and as the plots that README and docs/performance.md show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.benchmarks.against import at, comparison, number
from tests.benchmarks.targets import Row

Json = dict[str, Any]

LIFE = (
    ("pods_per_s", "pods/s"),
    ("heartbeat_sum_s", "in heartbeat(), s"),
    ("heartbeat_p99_ms", "heartbeat p99, ms"),
    ("heartbeat_max_ms", "longest, ms"),
    ("to_post.p50_ms", "to POST p50, ms"),
    ("to_post.p99_ms", "p99"),
    ("to_event.p50_ms", "end to event p50, ms"),
    ("to_event.p99_ms", "p99"),
    ("launcher_cpu_ms_per_pod", "launcher, ms CPU/pod"),
)
CREATION = (("pods_per_s", "pods/s"), ("cpu_ms_per_pod", "ms CPU/pod"))
# Part, title, columns.
TABLES = (
    (
        "memory",
        "Memory of a process, idle, and after the tasks of whole lives",
        (("idle_mb", "idle, MB"), ("after_mb", "after, MB")),
    ),
    ("start", "Start of a launcher's process to its first claim", (("wall_s", "s"), ("cpu_s", "CPU, s"))),
    ("heartbeats", "A heartbeat that finds nothing to do", (("idle_wall_us", "us"), ("idle_cpu_us", "CPU, us"))),
    (
        "bursts",
        "All pods end at once, 50 ms",
        (
            ("tasks", "pods"),
            ("last_end_seen_s", "last end, s"),
            ("half_of_events_s", "half of the events, s"),
            ("last_event_s", "last event, s"),
            ("heartbeat_sum_s", "in heartbeat(), s"),
            ("heartbeat_max_ms", "longest, ms"),
        ),
    ),
    (
        "schedulers",
        "Several schedulers, each with its own tasks, 50 ms",
        (
            ("tasks", "tasks each"),
            ("heartbeats", "heartbeats each"),
            ("scheduler_cpu_ms_per_result", "scheduler, ms CPU/result"),
            ("heartbeat_cpu_ms_per_result", "of it in heartbeat()"),
            ("heartbeat_max_ms", "longest heartbeat, ms"),
        ),
    ),
    (
        "watcher",
        "Watch events over TLS",
        (("events", "events"), ("events_per_cpu_s", "events/s and core"), ("us_per_event", "us CPU/event")),
    ),
)


def markdown(report: Json, rows: list[Row]) -> str:
    """All of a report, for people."""
    machine = report["machine"]
    lines = [
        "# Results of the last benchmark",
        "",
        f"{machine['cores']} cores ({machine['machine']}), Python {machine['python']}, {report['api']}, {report['when']}"
        + "".join(f"; {name}: {day}" for name, day in report.get("later", {}).items())
        + ".",
        "",
        "| measure | target | measured | |",
        "|---|---|---|---|",
        *(f"| {row.measure} | {row.target} | {_measured(row)} | {_mark(row.ok)} |" for row in rows),
    ]
    if compared := comparison(report):
        lines += ["", f"## This build and {report['other']}", "", *compared]
    for part in report.get("life", []):
        title = f"Whole lives, {1000 * part['latency_s']:.0f} ms API latency, {part['rounds']} round(s), medians"
        lines += ["", f"## {title}", "", *table(part["rows"], (("tasks", "tasks"), *LIFE))]
        lines += ["", *costs(part["rows"])]
    for name, title in (
        ("creation", "Launchers alone, 50 ms"),
        ("scaling", "Launchers alone, 200 ms, 16 in flight each"),
    ):
        if name in report:
            lines += ["", f"## {title}", "", *table(report[name]["rows"], CREATION)]
    for name, title, columns in TABLES:
        if name in report:
            lines += ["", f"## {title}", "", *table(report[name]["rows"], columns)]
            if any("cost" in row for row in report[name]["rows"]):
                lines += ["", *costs(report[name]["rows"])]
    for seats, found in report.get("seats", {}).items():
        title = f"{found['tasks']} pods created and deleted, {seats} at once, {1000 * found['latency_s']:.0f} ms each"
        lines += ["", f"## {title}", "", *table(found["rows"], (("seconds", "s"), ("refused", "refused (429)")))]
    if "capacity" in report:
        found = report["capacity"]
        lines += ["", f"The API server alone, no latency, 64 in flight: {number(found['pods_per_s'])} pods/s."]
    if "growth" in report:
        lines += ["", "## Growth", "", *table(report["growth"]["queued"], (("queued", "queued"), ("pods_per_s", "pods/s"),
                  ("memory_mb.launcher 1", "launcher, MB"), ("memory_mb.redis", "Redis, MB")), first="")]  # fmt: skip
        beats = (("running", "running"), ("heartbeat_p50_ms", "heartbeat p50, ms"), ("heartbeat_p99_ms", "p99"),
                 ("heartbeat_max_ms", "longest"))  # fmt: skip
        lines += ["", *table(report["growth"]["running"], beats, first="")]
    if "warm" in report:
        lines += ["", *_warm(report["warm"])]
    return "\n".join(lines) + "\n"


def _warm(part: Json) -> list[str]:
    columns = (("delay_s", "start delay, s"), ("tasks", "tasks"), ("warm", "of them warm"), ("p50_ms", "p50, ms"),
               ("p99_ms", "p99"), ("max_ms", "longest"))  # fmt: skip
    steady = part["steady"]
    requests = ", ".join(f"{count} {what}" for what, count in sorted(steady["requests"].items()))
    own_code, assignment = steady["to_own_code"], steady["assignment"]
    return [
        f"## Queued to own code, whole Airflow on {part['database']}",
        "",
        f"Single tasks are queued {part['every_s']:g} s apart.",
        "",
        *table(part["rows"], columns),
        "",
        f"One task a second, pods start 2 s late, API at 50 ms: {steady['warm']} of {steady['tasks']} tasks got a warm pod; "
        f"queued to own code p50 {number(own_code['p50_ms'])} ms, p99 {number(own_code['p99_ms'])} ms; assignment p50 "
        f"{number(assignment['p50_ms'])} ms, p99 {number(assignment['p99_ms'])} ms; requests to Kubernetes: {requests}; the "
        f"pool has grown by {steady['grown']}.",
    ]


def table(rows: list[Json], columns: tuple[tuple[str, str], ...], first: str = "name") -> list[str]:
    names = [""] * bool(first) + [title for _, title in columns]
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    for row in rows:
        cells = ([str(row[first])] if first else []) + [number(at(row, path)) for path, _ in columns]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def costs(rows: list[Json]) -> list[str]:
    """CPU and memory of each process, as `s / MB`."""
    names = sorted({name for row in rows for name in row["cost"]})
    lines = ["| CPU s / MB | " + " | ".join(names) + " |", "|" + "---|" * (len(names) + 1)]
    for row in rows:
        cells = [
            f"{row['cost'][name]['cpu_s']:.1f} / {row['cost'][name]['memory_mb']:.0f}" if name in row["cost"] else ""
            for name in names
        ]
        lines.append(f"| {row['name']} | " + " | ".join(cells) + " |")
    return lines


def _measured(row: Row) -> str:
    return f"{number(row.value)} {row.unit}".strip() if row.value is not None else ""


def _mark(ok: bool | None) -> str:
    return {True: "yes", False: "**missed**", None: "not run"}[ok]


def plot(report: Json, folder: Path) -> None:
    """How long the scheduler stood still, how fast pods were made, and what growth does. Needs matplotlib."""
    try:
        import matplotlib

        matplotlib.use("Agg")
    except ImportError:
        print("matplotlib is not installed: no plots (pip install matplotlib)")
        return
    machine = report["machine"]
    below = (
        f"{machine['cores']} cores, {machine['machine']}, Python {machine['python']}, {report['api']}, {report['when']}"
    )
    if report.get("life"):
        _bars(
            report["life"],
            "heartbeat_sum_s",
            "Scheduler blocked for a thousand tasks (s)",
            folder / "blocked.png",
            below,
        )
        _bars(report["life"], "pods_per_s", "Pods created a second, all parts at work", folder / "created.png", below)
    if "creation" in report and "scaling" in report:
        parts = [report["creation"], report["scaling"]]
        _bars(parts, "pods_per_s", "Pods created a second, launchers alone", folder / "launchers.png", below)


def _bars(parts: list[Json], field: str, title: str, path: Path, below: str) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(parts), figsize=(4.6 * len(parts), 3.2), squeeze=False)
    for axis, part in zip(axes[0], parts, strict=True):
        rows = part["rows"][::-1]
        values = [row[field] * (1000 / row["tasks"] if field == "heartbeat_sum_s" else 1) for row in rows]
        ours = ["launcher" in row["name"] for row in rows]
        axis.barh([row["name"] for row in rows], values, color=["tab:green" if mine else "tab:grey" for mine in ours])
        axis.set_title(f"{part['latency_s'] * 1000:.0f} ms API latency", fontsize=9)
        axis.tick_params(labelsize=7)
        axis.margins(x=0.18)
        if field == "heartbeat_sum_s":
            axis.set_xscale("log")
        for place, value in enumerate(values):
            axis.text(value, place, f" {number(value)}", va="center", fontsize=7)
    figure.suptitle(title, fontsize=10)
    figure.supxlabel(below, fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
