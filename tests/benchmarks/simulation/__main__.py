"""The simulation of a deployment, from recorded unit costs: `python -m tests.benchmarks.simulation COMMAND`.

check   compare it with the measured lives that are recorded with the costs; fails if one measure is more than 20 % off
needs   what a day needs, what is used up first, and how its burst passes through
page    write the measured parts of docs/sizing.md again
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tests.benchmarks.simulation.check import compare, markdown
from tests.benchmarks.simulation.needs import Demand
from tests.benchmarks.simulation.page import PAGE, replaced, sections
from tests.benchmarks.simulation.unit_costs import RECORDED, UnitCosts, recorded


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["check", "needs", "page"])
    parser.add_argument("--costs", type=Path, default=RECORDED)
    day = Demand()
    parser.add_argument("--tasks-a-day", type=float, default=day.tasks_a_day)
    parser.add_argument("--peak", type=float, default=day.peak, help="rate of the busiest hour against the mean")
    parser.add_argument("--burst", type=int, default=day.burst, help="tasks that are due at once in that hour")
    parser.add_argument("--schedulers", type=int, default=day.schedulers)
    parser.add_argument("--running", type=int, default=day.running, help="pods at once")
    options = parser.parse_args()
    document = recorded(options.costs)
    if options.command == "check":
        check(document)
        return
    demand = Demand(options.tasks_a_day, options.peak, options.burst, options.schedulers, options.running)
    parts = sections(document, demand)
    if options.command == "page":
        text = PAGE.read_text()
        for name, lines in parts.items():
            text = replaced(text, name, lines())
        PAGE.write_text(text)
        return
    for name in ("needs", "memory", "limits", "burst"):
        print("\n".join(parts[name]()), end="\n\n", flush=True)


def check(document: dict[str, object]) -> None:
    """:raises SystemExit: a measure is off."""
    lives, units = document["lives"], document["units"]
    assert isinstance(lives, list)
    assert isinstance(units, dict)
    rows = compare(lives, UnitCosts.from_json(units))
    print(markdown(rows))
    if off := [row for row in rows if not row.ok]:
        raise SystemExit(f"{len(off)} of {len(rows)} measures are more than 20 % off")


if __name__ == "__main__":
    main()
