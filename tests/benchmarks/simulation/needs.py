"""Pure: what a load needs, and how far each part goes, from unit costs alone.

What a task costs depends on whether processes are woken for it alone or for many together: both were measured, and in between
lies the truth. For that, products are enough. The simulation says how long it takes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from tests.benchmarks.simulation.unit_costs import ITEMS, UnitCosts

DAY_S, HOUR_S = 86_400.0, 3_600.0
# How tasks come: one after the other has ended, or many at once.
Pace = Literal["singly", "together"]
# A launch and a clean-up that come singly wake every launcher, by the message and by the answer to its claim, and Redis by
# that claim. Where many come together, launchers share claims and wakes.
_NOTICES = 2
# Requests of launchers for a task: create and delete; the writes of everybody to its pod are those and the status changes.
REQUESTS = 2
# Results that Redis keeps, and the memory of one: [podrelay] results_max_length.
RESULTS_MAX = 100_000
# A process needs head room: what one core does in tests is not what it should be planned for.
PLANNED_SHARE = 0.5
MB = 1e6


@dataclass(frozen=True)
class Demand:
    """A day. `peak` is the rate of the busiest hour against the mean; `burst` tasks become due at once in that hour."""

    tasks_a_day: float = 1_000_000
    peak: float = 3.0
    burst: int = 20_000
    schedulers: int = 10
    running: int = 50_000

    @property
    def mean_per_s(self) -> float:
        return self.tasks_a_day / DAY_S

    @property
    def peak_per_s(self) -> float:
        return self.mean_per_s * self.peak


class Use(NamedTuple):
    """What one task a second uses, in cores, requests and bytes a second."""

    launchers: float
    watcher: float
    redis: float
    scheduler: float
    foreign: float
    api_requests: float
    pod_writes: float
    redis_in: float
    redis_out: float


class Limit(NamedTuple):
    """The rate of tasks at which one part has no core left."""

    part: str
    tasks_per_s: float


def use_of_a_task(costs: UnitCosts, schedulers: int, pace: Pace, launchers: int = 2) -> Use:
    calls, wakes = costs.calls[pace], costs.wakes[pace]
    in_vain = _NOTICES * (launchers - 1) if pace == "singly" else 0
    redis_s = sum(
        items * costs.redis_task_s[name] + calls[name] * costs.redis_call_s[name] for name, items in ITEMS.items()
    )
    redis_s += wakes["redis"] * costs.redis_wake_s
    redis_s += in_vain * (costs.redis_call_s["claim"] + costs.redis_wake_s)
    reads_s = costs.reports * costs.redis_task_s["read_stream"]
    changes = 1 + costs.status_changes + costs.deletion_changes
    return Use(
        launchers=costs.create_s + costs.clean_up_s + (wakes["launcher"] + 2 * in_vain) * costs.launcher_wake_s,
        watcher=changes * costs.watch_event_s + wakes["watcher"] * costs.watcher_wake_s,
        redis=redis_s + (schedulers - 1) * reads_s,
        scheduler=costs.hand_over_s + costs.results_s + costs.reports * costs.foreign_entry_s,
        foreign=costs.reports * costs.foreign_entry_s,
        api_requests=REQUESTS,
        pod_writes=changes,
        redis_in=costs.redis_in_bytes,
        redis_out=costs.redis_out_bytes + (schedulers - 1) * costs.redis_out_bytes_foreign,
    )


def scheduler_cores(use: Use, tasks_per_s: float, schedulers: int) -> float:
    """Of one scheduler: its own tasks, and the reports of all others."""
    own = tasks_per_s / schedulers
    return own * use.scheduler + (tasks_per_s - own) * use.foreign


def limits(costs: UnitCosts, schedulers: int) -> list[Limit]:
    """What breaks first, at which rate: one core each, with tasks that come together, as they do under load."""
    use = use_of_a_task(costs, schedulers, "together")
    found = [
        Limit("Redis, one core", 1 / use.redis),
        Limit("leading watcher, one core", 1 / use.watcher),
        Limit("one launcher, one core", 1 / use.launchers),
        Limit(f"each of {schedulers} schedulers, a whole core", 1 / scheduler_cores(use, 1.0, schedulers)),
    ]
    return sorted(found, key=lambda limit: limit.tasks_per_s)


def redis_memory_mb(costs: UnitCosts, demand: Demand) -> dict[str, float]:
    """By what it is for: the busiest hour, with its burst still queued."""
    size = costs.memory_bytes
    hour = demand.peak_per_s * HOUR_S + demand.burst
    entry = size["without_ledger"] / costs.reports
    return {
        "queued": demand.burst * size["queued"] / MB,
        "running": demand.running * size["runs"] / MB,
        "finished jobs, ten minutes": min(10_000.0, hour / 6) * (size["acknowledged"] - size["without_jobs"]) / MB,
        "ledger, one hour": hour * (size["without_jobs"] - size["without_ledger"]) / MB,
        "reports": min(RESULTS_MAX, demand.tasks_a_day * costs.reports) * entry / MB,
        "Redis itself": 15.0,
    }


def launchers_needed(use: Use, tasks_per_s: float, latency_s: float, concurrency: int = 64) -> int:
    """By processor and by requests in flight, and one more: it may restart."""
    cores = tasks_per_s * use.launchers / PLANNED_SHARE
    in_flight = tasks_per_s * use.api_requests * latency_s / concurrency
    return max(1, _ceil(cores), _ceil(in_flight)) + 1


def _ceil(value: float) -> int:
    return int(-(-value // 1))
