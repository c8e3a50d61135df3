"""Writes `docs/metrics.md` from `podrelay.metrics_table`: `make metrics`."""

from __future__ import annotations

from pathlib import Path

from podrelay.metrics_table import OTHER, TABLE, Label, Metric, Process

PAGE = Path(__file__).with_name("metrics.md")

_INTRODUCTION = """\
# Metrics

Each launcher and watcher serves its metrics at `/metrics`, in Prometheus' text format and in OpenMetrics, at the address of
`[podrelay] monitoring_bind`. All of them carry the labels `deployment` and `cluster` (`default`, or the team). The usual ones
of a process stand beside them: `process_cpu_seconds_total`, `process_resident_memory_bytes`, `process_open_fds` and so on.

The same go to Airflow's stats (`[metrics]` in `airflow.cfg`: StatsD or OpenTelemetry), under the stock executor's names where
it has them. There, histograms are timers in milliseconds. Gauges are sent every 10 s and hold the values of their labels in
their name; those of a single process are in Prometheus only, because StatsD would mix the values of several. With teams each
metric carries the tag `team_name`. Schedulers serve no port: their metrics are in Airflow's stats only.

Label values are those listed, or `{other}`. No metric holds the name of a task, a pod or a launch.

[alerts.md](alerts.md) says which of them to watch; [operations.md](operations.md#metrics) how to connect Prometheus and
Grafana.

This page is generated from `executor/podrelay/metrics_table.py` by `make metrics`.
"""
_SECTIONS: dict[Process, str] = {
    "launcher": "Launchers",
    "leader": "The leading watcher",
    "watcher": "Watchers",
    "worker": "Launchers and watchers",
    "scheduler": "Schedulers",
}
_LEADER = """\
True of the whole cluster, so only one process exports them: the watcher that leads. While none leads, or Redis does not
answer, they are missing.

"""
_HEAD = "| Prometheus | Airflow's stats | type | labels | meaning |\n|---|---|---|---|---|\n"
_SCHEDULER_HEAD = "| Airflow's stats | type | meaning |\n|---|---|---|\n"
# Beyond this number, the values of a label stand below the table.
_INLINE_MAX = 8


def render() -> str:
    """The whole page."""
    return _INTRODUCTION.format(other=OTHER) + "".join(map(_section, _SECTIONS)) + _values()


def _section(process: Process) -> str:
    metrics = [metric for metric in TABLE if metric.process == process]
    text = f"\n## {_SECTIONS[process]}\n\n" + (_LEADER if process == "leader" else "")
    if process == "scheduler":
        return text + _SCHEDULER_HEAD + "".join(_row(f"`{each.stats}`", _type(each), each.meaning) for each in metrics)
    return text + _HEAD + "".join(map(_metric_row, metrics))


def _metric_row(metric: Metric) -> str:
    stats = f"`{metric.stats}`".replace("{", "<").replace("}", ">") if metric.stats else ""
    return _row(
        f"`{metric.prometheus_name}`", stats, _type(metric), "; ".join(map(_label, metric.labels)), metric.meaning
    )


def _type(metric: Metric) -> str:
    return "timer" if metric.process == "scheduler" and metric.type == "histogram" else metric.type


def _label(label: Label) -> str:
    if label.shown:
        return f"`{label.name}`: {label.shown}"
    if len(label.values) > _INLINE_MAX:
        return f"`{label.name}`: [below](#label-values)"
    return f"`{label.name}`: {', '.join(sorted(label.values))}"


def _values() -> str:
    long = {
        (label.name, label.values): metric.prometheus_name
        for metric in reversed(TABLE)
        for label in metric.labels
        if len(label.values) > _INLINE_MAX and not label.shown
    }
    lines = (
        f"* `{name}` of `{metric}` and others: {', '.join(f'`{value}`' for value in sorted(values))}.\n"
        for (name, values), metric in reversed(long.items())
    )
    return "\n## Label values\n\n" + "".join(lines)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |\n"


if __name__ == "__main__":
    PAGE.write_text(render(), "utf-8")
