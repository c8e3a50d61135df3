"""Pure: unit costs from what runs of different batches have cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.benchmarks.simulation.unit_costs import ITEMS, UnitCosts

LAUNCHER_SCRIPTS = ("claim", "finish")
REPORTS = 2


@dataclass(frozen=True)
class Regime:
    """One run: its tasks, and what each process used."""

    tasks: float
    seconds: float
    cpu_s: Mapping[str, float]
    idle: Mapping[str, float]
    mb: Mapping[str, float]
    # Calls of each script, and Redis' seconds in them.
    calls: Mapping[str, float]
    script_s: Mapping[str, float]
    # Writes of the API server, deletions included.
    writes: float
    in_bytes: float
    out_bytes: float
    heartbeats: float = 0.0
    hand_over_s: float = 0.0
    entry_bytes: float = 0.0
    entries: float = 0.0

    def busy_s(self, process: str) -> float:
        """Without what the process uses while idle."""
        return max(0.0, self.cpu_s[process] - self.idle.get(process, 0.0) * self.seconds)

    def redis_s(self, name: str) -> float:
        """What Redis used for this script: its share of the processor time. The seconds themselves count interruptions, and
        leave out what reads requests and writes answers.
        """
        return self.busy_s("redis") * self.script_s[name] / sum(self.script_s.values())

    def launcher_calls(self) -> float:
        return sum(self.calls[name] for name in LAUNCHER_SCRIPTS)


@dataclass(frozen=True)
class HandOver:
    """So many tasks, handed over in so many heartbeats: processor seconds of one task, and of the time slice."""

    tasks: float
    offers: float
    cpu_s: float
    slice_s: float

    def totals(self) -> tuple[float, float, float]:
        """Tasks, how often one was queued in a heartbeat, seconds."""
        return self.tasks, self.tasks * (self.offers + 1) / 2, self.tasks * self.cpu_s


def per_item_and_call(first: tuple[float, float, float], second: tuple[float, float, float]) -> tuple[float, float]:
    """Two runs, each (items, calls, seconds): the seconds of an item and of a call, neither below 0.

    Where both runs have the same batches, they cannot be separated: then all belongs to the items.
    """
    (items, calls, seconds), (other_items, other_calls, other_seconds) = first, second
    batches, other_batches = calls / items, other_calls / other_items
    if abs(other_batches - batches) > 0.1 * max(batches, other_batches):
        call_s = (other_seconds / other_items - seconds / items) / (other_batches - batches)
        call_s = min(max(0.0, call_s), other_seconds / other_calls if other_calls else 0.0)
    else:
        call_s = 0.0
    return max(0.0, seconds / items - call_s * batches), call_s


def fit_units(
    burst: Regime,
    trickle: Regime,
    creation: Regime,
    foreign: Regime,
    hand_overs: Sequence[HandOver],
    memory_bytes: Mapping[str, float],
) -> UnitCosts:
    """:param burst, trickle: whole lives, all at once and one after the other.
    :param creation: launches whose pods run on.
    :param hand_overs: two of different sizes, with nothing else.
    :param foreign: few own tasks, and `entries` of the results stream that are mostly another scheduler's.
    """
    launcher = "launcher 1"
    life_s, launcher_call_s = per_item_and_call(
        (burst.tasks, burst.launcher_calls(), burst.busy_s(launcher)),
        (trickle.tasks, trickle.launcher_calls(), trickle.busy_s(launcher)),
    )
    create_s = creation.busy_s(launcher) / creation.tasks
    create_s = min(life_s, create_s - launcher_call_s * creation.launcher_calls() / creation.tasks)
    changes = round(burst.writes / burst.tasks) - 1  # of a pod, its deletion included
    event_s, watcher_call_s = per_item_and_call(
        (burst.writes, burst.calls["publish"], burst.busy_s("watcher")),
        (trickle.writes, trickle.calls["publish"], trickle.busy_s("watcher")),
    )
    task_s, heartbeat_s = per_item_and_call(
        (burst.tasks, burst.heartbeats, burst.cpu_s["scheduler"]),
        (trickle.tasks, trickle.heartbeats, trickle.cpu_s["scheduler"]),
    )
    few, many = sorted(hand_overs, key=lambda one: one.tasks)
    hand_over_s, queued_s = per_item_and_call(few.totals(), many.totals())
    # What the burst paid for its queue is no cost of its tasks.
    task_s = max(hand_over_s, task_s - queued_s * burst.tasks * burst.calls["offer"] / 2 / burst.tasks)
    foreign_s = foreign.cpu_s["scheduler"] - foreign.tasks * task_s - foreign.heartbeats * heartbeat_s
    foreign_s = max(0.0, foreign_s / max(1.0, foreign.entries - REPORTS * foreign.tasks))
    redis_task_s, redis_call_s = {}, {}
    for name, items in ITEMS.items():
        redis_task_s[name], redis_call_s[name] = per_item_and_call(
            (items * burst.tasks, burst.calls[name], burst.redis_s(name)),
            (items * trickle.tasks, trickle.calls[name], trickle.redis_s(name)),
        )
    # A creation is parsed, completed and answered in full: about as much as two other changes.
    change_s = burst.cpu_s["local cluster"] / (burst.writes + burst.tasks)
    return UnitCosts(
        heartbeat_s=heartbeat_s,
        queued_s=queued_s,
        hand_over_s=hand_over_s,
        built_s=min(hand_over_s, few.slice_s),
        results_s=max(0.0, task_s - hand_over_s - REPORTS * foreign_s),
        foreign_entry_s=foreign_s,
        create_s=max(0.0, create_s),
        clean_up_s=max(0.0, life_s - create_s),
        launcher_call_s=launcher_call_s,
        launcher_idle=trickle.idle[launcher],
        watch_event_s=event_s,
        watcher_call_s=watcher_call_s,
        watcher_single_s=trickle.busy_s("watcher") / trickle.tasks,
        watcher_idle=trickle.idle["watcher"],
        redis_call_s=redis_call_s,
        redis_task_s=redis_task_s,
        api_create_s=2 * change_s,
        api_change_s=change_s,
        link_s=creation.cpu_s["slow link"] / (creation.tasks + creation.writes),
        observer_event_s=burst.cpu_s["observer"] / burst.writes,
        status_changes=changes - 1,
        reports=REPORTS,
        redis_in_bytes=burst.in_bytes / burst.tasks,
        redis_out_bytes=burst.out_bytes / burst.tasks,
        redis_out_bytes_foreign=REPORTS * burst.entry_bytes,
        memory_bytes=dict(memory_bytes),
        process_mb={name.split()[0]: value for name, value in burst.mb.items() if name != "local cluster"},
    )
