"""The simulation against measured lives of the benchmark."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.benchmarks.simulation.deployment import Outcome, simulate
from tests.benchmarks.simulation.plan import bed
from tests.benchmarks.simulation.unit_costs import UnitCosts

TOLERANCE = 0.2


@dataclass(frozen=True)
class Row:
    """One measure of one life."""

    life: str
    measure: str
    measured: float
    simulated: float

    @property
    def deviation(self) -> float:
        return self.simulated / self.measured - 1

    @property
    def ok(self) -> bool:
        return abs(self.deviation) <= TOLERANCE


def compare(lives: Sequence[Mapping[str, Any]], costs: UnitCosts) -> list[Row]:
    """:param lives: as `tests.benchmarks.costs.measure` returns them, each with its latency_s, launchers and tasks."""
    return [row for life in lives for row in _compare(life, costs)]


def _compare(life: Mapping[str, Any], costs: UnitCosts) -> Iterator[Row]:
    tasks, launchers, latency_s = life["tasks"], life["launchers"], life["latency_s"]
    name = f"{tasks} tasks, {launchers} launcher{'s' * (launchers > 1)}, {1000 * latency_s:.0f} ms"
    found = simulate(bed(tasks, launchers, latency_s), costs)
    for measure, simulated in measures(found).items():
        part, _, process = measure.partition(" of ")
        yield Row(name, measure, life["cpu_s"][process] if process else life[part], simulated)


def measures(found: Outcome) -> dict[str, float]:
    """What is compared, by name: one of `costs.measure`, or processor seconds of a process."""
    cpu_s = dict(found.cpu_s)
    cpu_s["launchers"] = sum(seconds for name, seconds in cpu_s.items() if name.startswith("launcher"))
    names = ("last_created_s", "last_event_s", "last_deleted_s", "pods_per_s")
    times = {name: float(getattr(found, name)) for name in names}
    return times | {f"cpu_s of {name}": cpu_s[name] for name in ("scheduler", "launchers", "watcher", "redis")}


def markdown(rows: Sequence[Row]) -> str:
    lines = ["| life | measure | measured | simulated | deviation | |", "|---|---|---|---|---|---|"]
    for row in rows:
        verdict = "" if row.ok else "**off**"
        numbers = f"{row.measured:.3g} | {row.simulated:.3g} | {100 * row.deviation:+.0f} %"
        lines.append(f"| {row.life} | {row.measure} | {numbers} | {verdict} |")
    return "\n".join(lines)
