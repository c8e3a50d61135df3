"""The acceptance table: what a report of the benchmark comes to."""

from __future__ import annotations

from typing import Any

import pytest

from tests.benchmarks.report import markdown
from tests.benchmarks.targets import Row, judge


def report(**changes: Any) -> dict[str, Any]:
    """A run in which everything is reached, by a little."""
    ours = {
        "tasks": 1000,
        "heartbeat_sum_s": 0.4,
        "heartbeat_max_ms": 49.0,
        "pods_per_s": 250.0,
        "launcher_cpu_ms_per_pod": 2.9,
    }
    stock = {"tasks": 200, "heartbeat_sum_s": 18.0, "heartbeat_max_ms": 9000.0, "pods_per_s": 99.0}
    life = [
        {"name": "stock concurrent, batch 64", **stock, "cost": {}},
        {"name": "podrelay, 1 launcher", **ours, "cost": {"launcher 1": {"cpu_s": 2.9, "memory_mb": 200.0}}},
    ]
    creation = {"bare client": 300.0, "podrelay, 1 launcher": 286.0, "podrelay, 2 launchers": 286.0}
    scaling = {"podrelay, 1 launcher": 75.0, "podrelay, 2 launchers": 143.0, "podrelay, 4 launchers": 271.0}
    whole = {
        "machine": {"cores": 2, "machine": "m", "python": "3.11"}, "api": "local cluster", "when": "2026-11-24",
        "rendering": 200.0,
        "scheduler": {"redis": {"heartbeat_max_ms": 40.0, "hand_over_cpu_ms_per_task": 0.1}},
        "idle": {"p50_ms": 8.0, "p99_ms": 60.0},
        "creation": rates(creation),
        "scaling": rates(scaling),
        "seats": {"5": seats(9.9), "1": seats(14.9)},
        "priority": {"backlog_created": 120},
        "fairness": {"backlog_created": 299},
        "growth": {
            "queued": [{"queued": count, "pods_per_s": 250.0, "memory_mb": {}} for count in (1000, 50_000)],
            "running": [{"running": 10_000, "heartbeat_p50_ms": 1.0, "heartbeat_p99_ms": 20.0, "heartbeat_max_ms": 44.0}],
        },
        "life": [{"latency_s": 0.05, "rounds": 2, "rows": life}],
        "warm": warm(),
        "bursts": {"rows": [{"name": "podrelay, burst", "heartbeat_max_ms": 49.0, "last_event_s": 1.0, "cost": {}}]},
        "schedulers": schedulers(1.0, 1.29),
        "watcher": watcher(2000.0, 31_000.0),
    }  # fmt: skip
    return {**whole, **changes}


def warm(warm_ms: tuple[float, float] = (390.0, 900.0), **changes: Any) -> dict[str, Any]:
    """:param warm_ms: p50 and p99 of warm pods."""
    rows = [
        {"name": f"{contestant}, {kind}", "contestant": contestant, "delay_s": delay_s, "kind": kind, "tasks": 8, "warm": 0,
         "p50_ms": p50_ms, "p99_ms": p99_ms, "max_ms": p99_ms}
        for delay_s in (0.0, 2.0, 10.0)
        for kind in ("single", "burst of 8")
        for contestant, p50_ms, p99_ms in (
            ("stock", 1250.0 + 1000 * delay_s, 2500.0 + 1000 * delay_s),
            ("podrelay cold", 1250.0 + 1000 * delay_s, 2500.0 + 1000 * delay_s),
            ("podrelay warm", *warm_ms),
        )
    ]  # fmt: skip
    figures = {"p50_ms": 80.0, "p99_ms": 249.0, "max_ms": 250.0}
    steady = {"tasks": 60, "warm": 58, "hit_rate": 58 / 60, "assignment": figures, "to_own_code": figures,
              "requests": {"create pods": 60, "patch pods": 60, "delete pods": 60}, "grown": 0,
              "requests_per_task": 3.0}  # fmt: skip
    return {"database": "PostgreSQL", "every_s": 3.0, "burst": 8, "rows": rows, "steady": {**steady, **changes}}


def rates(found: dict[str, float]) -> dict[str, Any]:
    return {"rows": [{"name": name, "pods_per_s": value, "cpu_ms_per_pod": 1.0} for name, value in found.items()]}


def schedulers(one_ms: float, eight_ms: float) -> dict[str, Any]:
    found = {"podrelay, 1 scheduler": one_ms, "podrelay, 8 schedulers": eight_ms}
    return {"rows": [{"name": name, "scheduler_cpu_ms_per_result": cpu_ms} for name, cpu_ms in found.items()]}


def watcher(stock: float, ours: float) -> dict[str, Any]:
    found = {"stock KubernetesJobWatcher": stock, "podrelay, watcher": ours}
    return {"rows": [{"name": name, "events_per_cpu_s": rate} for name, rate in found.items()]}


def beside_another(share: float) -> dict[str, Any]:
    """The same run beside another build, of which this one needs so much of everything."""
    found = report(other="2efa43c")
    for part, row, figure in (
        ("creation", "1 launcher", "cpu_ms_per_pod"),
        ("memory", "launcher", "idle_mb"),
        ("memory", "watcher", "idle_mb"),
        ("start", "launcher", "wall_s"),
        ("start", "launcher", "cpu_s"),
        ("bursts", "burst", "last_event_s"),
    ):
        beside(found.setdefault(part, {"rows": []})["rows"], row, {figure: share}, {figure: 1.0})
    (life,) = found["life"]
    beside(life["rows"], "1 launcher", {}, {"launcher_cpu_ms_per_pod": 2.9 / share, "heartbeat_sum_s": 0.4 / share})
    return found


def beside(rows: list[dict[str, Any]], name: str, ours: dict[str, float], theirs: dict[str, float]) -> None:
    this = next((row for row in rows if row["name"] == f"podrelay, {name}"), None)
    if this is None:
        rows.append(this := {"name": f"podrelay, {name}"})
    this |= ours
    other = next((row for row in rows if row["name"] == f"2efa43c, {name}"), None)
    if other is None:
        rows.append(other := {**this, "name": f"2efa43c, {name}"})
    other |= theirs


def seats(ours_s: float) -> dict[str, Any]:
    names = {
        "bare client, 1 in flight": 7.0,
        "bare client, 4 in flight": 5.0,
        "podrelay, 1 launcher": ours_s,
        "podrelay, 2 launchers": ours_s,
    }
    rows = [{"name": name, "seconds": seconds, "refused": 0} for name, seconds in names.items()]
    return {"tasks": 1000, "latency_s": 0.004, "rows": rows}


def row(rows: list[Row], beginning: str) -> Row:
    (found,) = [row for row in rows if row.measure.startswith(beginning)]
    return found


def test_everything_reached() -> None:
    rows = judge(report())
    assert [row.measure for row in rows if row.ok is not True] == []
    assert row(rows, "time in heartbeat(), podrelay / best stock").value == pytest.approx(0.4 / 90.0), (
        "a thousand tasks each"
    )
    assert row(rows, "creation rate, 1 launcher").value == pytest.approx(286 / 300)


@pytest.mark.parametrize(
    ("changes", "measure"),
    [
        ({"idle": {"p50_ms": 51.0, "p99_ms": 60.0}}, "hand-over to POST, idle, p50"),
        ({"priority": {"backlog_created": 300}}, "backlog created before 100 urgent"),
        ({"fairness": {"backlog_created": 300}}, "backlog created before 100 of another"),
        ({"rendering": 19.9}, "rendering"),
        (
            {"scheduler": {"redis": {"heartbeat_max_ms": 60.0, "hand_over_cpu_ms_per_task": 0.1}}},
            "longest heartbeat, hand-over",
        ),
        ({"scheduler": {"redis": {"heartbeat_max_ms": 6.0, "hand_over_cpu_ms_per_task": 0.26}}}, "scheduler's CPU"),
        ({"schedulers": schedulers(1.0, 1.31)}, "scheduler's CPU a result, 8 schedulers / 1"),
        (
            {"bursts": {"rows": [{"name": "podrelay, burst", "heartbeat_max_ms": 51.0}]}},
            "longest heartbeat, 1,000 pods end",
        ),
        ({"watcher": watcher(2100.0, 31_000.0)}, "watch events a second and core"),
        ({"warm": warm(requests_per_task=3.1)}, "requests to Kubernetes per warm task"),
        ({"warm": warm(hit_rate=0.94)}, "tasks that got a warm pod"),
        ({"warm": warm(assignment={"p50_ms": 80.0, "p99_ms": 251.0, "max_ms": 251.0})}, "assignment of a warm pod"),
    ],
)
def test_what_was_missed_is_said(changes: dict[str, Any], measure: str) -> None:
    missed = [row for row in judge(report(**changes)) if row.ok is False]
    assert [row.measure.startswith(measure) for row in missed] == [True]


@pytest.mark.parametrize("kind", ["single", "burst of 8"])
@pytest.mark.parametrize(
    ("warm_ms", "missed"),
    [
        ((407.0, 900.0), ["warm / cold, start delay 2 s, p50", "warm / stock, start delay 2 s, p50"]),
        ((390.0, 1126.0), ["warm / stock, start delay 2 s, p99"]),
        ((406.0, 900.0), []),
        ((250.0, 900.0), []),
    ],
)
def test_warm_pods_are_judged_by_ratios_within_the_run(
    warm_ms: tuple[float, float], missed: list[str], kind: str
) -> None:
    rows = judge(report(warm=warm(warm_ms)))
    assert [row.measure for row in rows if row.ok is False and kind in row.measure] == [
        f"queued to own code, {kind}, {what}" for what in missed
    ]


def test_another_build_is_judged_only_where_it_was_measured() -> None:
    rows = [row for row in judge(beside_another(0.49)) if row.measure.endswith("this build / 2efa43c")]
    assert [row.value for row in rows] == pytest.approx([0.49] * 8)
    assert all(row.ok for row in rows)
    assert not [row for row in judge(report()) if "this build" in row.measure]


def test_what_costs_too_much_beside_another_build_is_said() -> None:
    def missed(share: float) -> list[str]:
        return [
            row.measure.removesuffix(", this build / 2efa43c") for row in judge(beside_another(share)) if not row.ok
        ]

    assert missed(0.51) == ["time in heartbeat() for 1,000 tasks", "1,000 pods end at once: last event"]
    assert len(missed(0.61)) == 6
    assert len(missed(0.66)) == 8, "memory too"


def test_a_part_that_was_not_run_is_neither_reached_nor_missed() -> None:
    whole = report()
    for part in ("life", "scaling", "growth"):
        del whole[part]
    rows = judge(whole)
    assert row(rows, "creation rate, podrelay / best stock").ok is None
    assert len(rows) == len(judge(report()))
    assert not [row for row in rows if row.ok is False]


def test_the_table_names_the_machine_and_marks_what_was_missed() -> None:
    measured = report(rendering=10.0, later={"warm": "2026-11-28"})
    for contestant in measured["life"][0]["rows"]:
        contestant |= {"heartbeat_p99_ms": 1.0}
    rendered = markdown(measured, judge(measured))
    assert "\n\n2 cores (m), Python 3.11, local cluster, 2026-11-24; warm: 2026-11-28.\n" in rendered
    assert "| rendering, against construct_pod | at least 20 times faster | 10.0 times | **missed** |" in rendered
    assert "missed" not in "\n".join(line for line in rendered.splitlines() if "rendering" not in line)
