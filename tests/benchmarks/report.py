"""Benchmark results as a table for the terminal and as plots for the README."""

from __future__ import annotations

from pathlib import Path
from typing import Any

COLUMNS = (
    ("name", "", 24),
    ("pods_per_s", "pods/s", 8),
    ("heartbeat_sum_s", "beats, s", 9),
    ("heartbeat_p99_ms", "p99, ms", 9),
    ("heartbeat_max_ms", "max, ms", 9),
    ("scheduler_cpu_s", "sched CPU, s", 13),
    ("launcher_cpu_ms_per_pod", "launcher ms/pod", 16),
    ("watcher_cpu_ms_per_pod", "watcher ms/pod", 15),
    ("p50_ms", "p50, ms", 8),
)


def table(rows: list[dict[str, Any]]) -> str:
    """Rows under the columns they have in common."""
    lines = ["".join(f"{title:>{width}}" if title else f"{'':{width}}" for _, title, width in COLUMNS)]
    for row in rows:
        lines.append("".join(_cell(row.get(name), width) for name, _, width in COLUMNS))
    return "\n".join(lines)


def _cell(value: Any, width: int) -> str:
    if value is None:
        return " " * width
    return (
        f"{value:<{width}}"
        if isinstance(value, str)
        else f"{value:>{width}.3g}"
        if value < 1
        else f"{value:>{width}.1f}"
    )


def plot(report: dict[str, Any], folder: Path) -> None:
    """Two pictures: how long the scheduler stood still, and how fast the pods were made. Needs matplotlib."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError:
        print("matplotlib is not installed: no plots (pip install matplotlib)")
        return
    machine = report["machine"]
    where = f"{machine['cores']} cores, {machine['machine']}, Python {machine['python']}, local cluster"
    for field, title, name, log_scale in (
        ("heartbeat_sum_s", "Scheduler blocked for a thousand tasks (s)", "blocked.png", True),
        ("pods_per_s", "Pods created a second", "created.png", False),
    ):
        figure, axes = plt.subplots(1, len(report["runs"]), figsize=(4.2 * len(report["runs"]), 3.6), squeeze=False)
        for axis, run in zip(axes[0], report["runs"], strict=True):
            rows = [row for row in run["rows"] if field in row and row["name"] != "idle hand-over to POST"]
            per_task = [
                row[field] * report["tasks"] / row.get("tasks", report["tasks"])
                if field == "heartbeat_sum_s"
                else row[field]
                for row in rows
            ]
            colours = ["tab:green" if "podrelay" in row["name"] else "tab:grey" for row in rows]
            axis.barh([row["name"] for row in rows], per_task, color=colours)
            axis.set_title(f"{run['latency_s'] * 1000:.0f} ms API latency", fontsize=9)
            axis.tick_params(labelsize=7)
            if log_scale:
                axis.set_xscale("log")
            for place, value in enumerate(per_task):
                axis.text(value, place, f" {value:.3g}", va="center", fontsize=7)
        figure.suptitle(f"{title}\n{where}", fontsize=9)
        figure.tight_layout()
        figure.savefig(folder / name, dpi=110)
        plt.close(figure)
