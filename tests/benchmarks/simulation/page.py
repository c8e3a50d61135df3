"""The measured parts of docs/sizing.md, from the recorded costs: each between two comments that name it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any

from tests.benchmarks.simulation.burst import burst_plan
from tests.benchmarks.simulation.check import compare
from tests.benchmarks.simulation.deployment import simulate
from tests.benchmarks.simulation.needs import (
    Demand,
    Use,
    launchers_needed,
    limits,
    redis_memory_mb,
    scheduler_cores,
    use_of_a_task,
)
from tests.benchmarks.simulation.unit_costs import UnitCosts

PAGE = Path(__file__).resolve().parents[3] / "docs" / "sizing.md"
LATENCY_S = 0.02
LAUNCHERS = (1, 2, 4)
_WIDTH = 126
_NAMES = {
    "last_created_s": "last pod created, s",
    "last_event_s": "last event, s",
    "last_deleted_s": "last pod deleted, s",
    "pods_per_s": "pods a second",
    "cpu_s": "CPU, s, of",
}


def sections(document: Mapping[str, Any], demand: Demand) -> dict[str, Callable[[], list[str]]]:
    """The lines of each part, by its name on the page."""
    costs = UnitCosts.from_json(document["units"])
    return {
        "costs": lambda: costs_table(costs, document.get("control_plane")),
        "needs": lambda: needs_table(costs, demand),
        "memory": lambda: memory_table(costs, demand),
        "limits": lambda: limits_table(costs, document.get("control_plane"), demand),
        "check": lambda: check_table(document["lives"], costs),
        "burst": lambda: list(burst_table(costs, demand)),
    }


def replaced(text: str, name: str, lines: Sequence[str]) -> str:
    """:raises ValueError: the page has no such part."""
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->)", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"{PAGE.name} has no part between <!-- {name} --> and <!-- end of {name} -->")
    return pattern.sub(lambda found: "\n".join([found[1], *lines, "", found[2]]), text)


def costs_table(costs: UnitCosts, control_plane: Mapping[str, Any] | None) -> list[str]:
    """Milliseconds of one task."""
    single_wakes = costs.wakes["singly"]["launcher"]
    single, many = (use_of_a_task(costs, 1, pace) for pace in ("singly", "together"))
    rows = [
        ("launchers", 1000 * single.launchers, 1000 * many.launchers),
        ("leading watcher", 1000 * single.watcher, 1000 * many.watcher),
        ("Redis", 1000 * single.redis, 1000 * many.redis),
        ("its scheduler", 1000 * single.scheduler, 1000 * many.scheduler),
        ("each other scheduler", 1000 * single.foreign, 1000 * many.foreign),
    ]
    lines = [
        "| processor time of one task, ms | tasks come singly | many at once |", "|---|---|---|",
        *(f"| {name} | {one:.2g} | {other:.2g} |" for name, one, other in rows),
    ]  # fmt: skip
    if control_plane:
        both = [1000 * control_plane[name] for name in ("api_server_s", "etcd_s")]
        lines.append(f"| API server, and its etcd | | {both[0]:.1f}, and {both[1]:.1f} |")
    return [
        *lines, "",
        *wrap(
            f"Besides, each heartbeat of a scheduler with launches takes {1000 * costs.heartbeat_s:.1f} ms. A task brings "
            f"{costs.redis_in_bytes / 1000:.1f} KB into Redis and {costs.redis_out_bytes / 1000:.1f} KB out of it, and "
            f"{costs.redis_out_bytes_foreign / 1000:.1f} KB more to each further scheduler. To be woken costs a launcher "
            f"{1000 * costs.launcher_wake_s:.2f} ms, the watcher {1000 * costs.watcher_wake_s:.2f} and Redis "
            f"{1000 * costs.redis_wake_s:.2f}. A task that comes singly wakes its launcher {single_wakes:.0f} times, "
            f"one of many {costs.wakes['together']['launcher']:.1f} times.",
            _WIDTH,
        ),
    ]  # fmt: skip


def needs_table(costs: UnitCosts, demand: Demand) -> list[str]:
    use = use_of_a_task(costs, demand.schedulers, "singly")
    rates = (demand.mean_per_s, demand.peak_per_s)
    cells: list[tuple[str, Callable[[float], str]]] = [
        ("tasks a second", lambda rate: f"{rate:.1f}"),
        ("launchers together, cores", lambda rate: f"{rate * use.launchers:.2f}"),
        ("leading watcher, cores", lambda rate: f"{rate * use.watcher:.2f}"),
        ("Redis, cores", lambda rate: f"{rate * use.redis:.2f}"),
        ("Redis, MB a second in and out", lambda rate: _network(use, rate)),
        ("each scheduler, for podrelay, cores", lambda rate: f"{scheduler_cores(use, rate, demand.schedulers):.3f}"),
        ("requests of launchers to the API server, a second", lambda rate: f"{rate * use.api_requests:.0f}"),
        ("writes of all to pods, a second", lambda rate: f"{rate * use.pod_writes:.0f}"),
        ("launchers, one of them to spare", lambda rate: f"{launchers_needed(use, rate, LATENCY_S)}"),
    ]
    return [
        "| | mean of the day | busiest hour |", "|---|---|---|",
        *(f"| {name} | {cell(rates[0])} | {cell(rates[1])} |" for name, cell in cells),
    ]  # fmt: skip


def _network(use: Use, rate: float) -> str:
    return f"{rate * use.redis_in / 1e6:.1f}, {rate * use.redis_out / 1e6:.1f}"


def memory_table(costs: UnitCosts, demand: Demand) -> list[str]:
    memory = redis_memory_mb(costs, demand)
    return [
        "| Redis memory | MB |", "|---|---|", *(f"| {name} | {value:.0f} |" for name, value in memory.items()),
        f"| together | {sum(memory.values()):.0f} |",
    ]  # fmt: skip


def limits_table(costs: UnitCosts, control_plane: Mapping[str, Any] | None, demand: Demand) -> list[str]:
    found = [(limit.tasks_per_s, limit.part) for limit in limits(costs, demand.schedulers)]
    if control_plane:
        found.append((1 / (control_plane["api_server_s"] + control_plane["etcd_s"]), "API server and etcd, one core"))
    return [
        "| what is used up | at tasks a second |", "|---|---|",
        *(f"| {part} | {rate:,.0f} |" for rate, part in sorted(found)),
    ]  # fmt: skip


def check_table(lives: Sequence[Mapping[str, Any]], costs: UnitCosts) -> list[str]:
    lines = ["| life | measure | measured | simulated | |", "|---|---|---|---|---|"]
    rows = compare(lives, costs)
    for row in rows:
        measure, _, process = row.measure.partition(" of ")
        name = f"{_NAMES[measure]} {process}".strip().replace("redis", "Redis")
        lines.append(
            f"| {row.life} | {name} | {row.measured:.3g} | {row.simulated:.3g} | {100 * row.deviation:+.0f} % |"
        )
    if not all(row.ok for row in rows):
        lines += [
            "",
            "Where more than 20 % lie between them, the code is newer than the measurement.",
        ]
    return lines


def burst_table(costs: UnitCosts, demand: Demand) -> Iterator[str]:
    """The burst on top of the busiest hour's rate, each process with cores of its own."""
    yield "| launchers | burst created in, s | pods a second | end to event, p99, s | longest heartbeat, ms |"
    yield "|---|---|---|---|---|"
    for launchers in LAUNCHERS:
        plan, before_s = burst_plan(demand, LATENCY_S, launchers)
        found = simulate(plan, costs)
        took_s = found.created_after_s(before_s)
        figures = f"{found.end_to_event_p99_s:.1f} | {1000 * found.longest_heartbeat_s:.0f}"
        yield f"| {launchers} | {took_s:.0f} | {demand.burst / took_s:,.0f} | {figures} |"
