"""Pure: unit costs from what runs of different batches have cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.benchmarks.simulation.unit_costs import ITEMS, UnitCosts

REPORTS = 2
REQUESTS = 2


@dataclass(frozen=True)
class Regime:
    """One run: its tasks, and what each process used."""

    tasks: float
    seconds: float
    cpu_s: Mapping[str, float]
    wakes: Mapping[str, float]
    # In each second without work: processor seconds, and wakes.
    idle: Mapping[str, float]
    idle_wakes: Mapping[str, float]
    mb: Mapping[str, float]
    # Calls of each script, and Redis' seconds in them.
    calls: Mapping[str, float]
    script_s: Mapping[str, float]
    # Writes of the API server, deletions included.
    writes: float
    in_bytes: float
    out_bytes: float
    heartbeats: float = 0.0
    # Heartbeats that handed over; each may send several offers.
    hand_overs: float = 0.0
    entry_bytes: float = 0.0
    entries: float = 0.0

    def busy_s(self, process: str) -> float:
        """Without what the process uses while idle."""
        return max(0.0, self.cpu_s[process] - self.idle.get(process, 0.0) * self.seconds)

    def woken(self, process: str) -> float:
        """How often, without what an idle one wakes for."""
        return max(0.0, self.wakes[process] - self.idle_wakes.get(process, 0.0) * self.seconds)

    def totals(self, process: str, items: float) -> tuple[float, float, float]:
        """Items, wakes and seconds."""
        return items, self.woken(process), self.busy_s(process)


@dataclass(frozen=True)
class HandOver:
    """So many tasks, handed over in so many heartbeats: processor seconds of one task, and of the time slice."""

    tasks: float
    count: float
    cpu_s: float
    slice_s: float

    def totals(self) -> tuple[float, float, float]:
        """Tasks, how often one was queued in a heartbeat, seconds."""
        return self.tasks, self.tasks * times_queued(self.count), self.tasks * self.cpu_s


def times_queued(hand_overs: float) -> float:
    """In how many heartbeats a task is in the queue, on average, if each of them hands over as many."""
    return (hand_overs + 1) / 2


def per_item_and_call(first: tuple[float, float, float], second: tuple[float, float, float]) -> tuple[float, float]:
    """Two runs, each (items, calls, seconds): the seconds of an item and of a call (or a wake), neither below 0.

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
    clean_ups: Regime,
    foreign: Regime,
    hand_overs: Sequence[HandOver],
    memory_bytes: Mapping[str, float],
) -> UnitCosts:
    """:param burst, trickle: whole lives, all at once and one after the other.
    :param clean_ups: the deletions of pods alone.
    :param hand_overs: two of different sizes, with nothing else.
    :param foreign: few own tasks, and `entries` of the results stream that are mostly another scheduler's.
    """
    launcher = "launcher 1"
    life_s, launcher_wake_s = per_item_and_call(
        burst.totals(launcher, burst.tasks), trickle.totals(launcher, trickle.tasks)
    )
    clean_up_s = (clean_ups.busy_s(launcher) - launcher_wake_s * clean_ups.woken(launcher)) / clean_ups.tasks
    clean_up_s = min(life_s, max(0.0, clean_up_s))
    event_s, watcher_wake_s = per_item_and_call(
        burst.totals("watcher", burst.writes), trickle.totals("watcher", trickle.writes)
    )
    deletion_changes = round(clean_ups.writes / clean_ups.tasks)
    status_changes = round(burst.writes / burst.tasks) - 1 - deletion_changes
    redis_wake_s, redis_call_s, redis_task_s = fit_redis(burst, trickle)
    task_s, heartbeat_s = per_item_and_call(
        (burst.tasks, burst.heartbeats, burst.cpu_s["scheduler"]),
        (trickle.tasks, trickle.heartbeats, trickle.cpu_s["scheduler"]),
    )
    few, many = sorted(hand_overs, key=lambda one: one.tasks)
    hand_over_s, queued_s = per_item_and_call(few.totals(), many.totals())
    # What the burst paid for its queue is no cost of its tasks.
    task_s = max(hand_over_s, task_s - queued_s * times_queued(burst.hand_overs))
    foreign_s = foreign.cpu_s["scheduler"] - foreign.tasks * task_s - foreign.heartbeats * heartbeat_s
    foreign_s = max(0.0, foreign_s / max(1.0, foreign.entries - REPORTS * foreign.tasks))
    # A creation is parsed, completed and answered in full: about as much as two other changes.
    change_s, api_wake_s = per_item_and_call(
        *(run.totals("local cluster", run.writes + run.tasks) for run in (burst, trickle))
    )
    observed_s, observer_wake_s = per_item_and_call(*(run.totals("observer", run.writes) for run in (burst, trickle)))
    return UnitCosts(
        heartbeat_s=heartbeat_s,
        queued_s=queued_s,
        hand_over_s=hand_over_s,
        built_s=min(hand_over_s, few.slice_s),
        results_s=max(0.0, task_s - hand_over_s - REPORTS * foreign_s),
        foreign_entry_s=foreign_s,
        create_s=life_s - clean_up_s,
        clean_up_s=clean_up_s,
        launcher_wake_s=launcher_wake_s,
        launcher_idle=trickle.idle[launcher],
        watch_event_s=event_s,
        watcher_wake_s=watcher_wake_s,
        watcher_idle=trickle.idle["watcher"],
        redis_wake_s=redis_wake_s,
        redis_call_s=redis_call_s,
        redis_task_s=redis_task_s,
        api_create_s=2 * change_s,
        api_change_s=change_s,
        api_wake_s=api_wake_s,
        link_s=burst.cpu_s["slow link"] / (REQUESTS * burst.tasks + burst.writes),
        observer_event_s=observed_s,
        observer_wake_s=observer_wake_s,
        status_changes=status_changes,
        deletion_changes=deletion_changes,
        reports=REPORTS,
        wakes={"singly": single_wakes(trickle), "together": wakes_of_a_task(burst)},
        calls={"singly": dict(ITEMS), "together": {name: burst.calls[name] / burst.tasks for name in ITEMS}},
        redis_in_bytes=burst.in_bytes / burst.tasks,
        redis_out_bytes=burst.out_bytes / burst.tasks,
        redis_out_bytes_foreign=REPORTS * burst.entry_bytes,
        memory_bytes=dict(memory_bytes),
        process_mb={name.split()[0]: value for name, value in burst.mb.items() if name != "local cluster"},
    )


def fit_redis(burst: Regime, trickle: Regime) -> tuple[float, dict[str, float], dict[str, float]]:
    """Seconds of a wake; by script, of a call and of a task in it. Redis' clock for scripts counts interruptions, too: the
    share of it that is processor time is fitted with the wakes.
    """
    share, wake_s = per_item_and_call(
        *(run.totals("redis", sum(run.script_s[name] for name in ITEMS)) for run in (burst, trickle))
    )
    call_s, task_s = {}, {}
    for name, items in ITEMS.items():
        one, call = per_item_and_call(
            *((items * run.tasks, run.calls[name], run.script_s[name]) for run in (burst, trickle))
        )
        task_s[name], call_s[name] = share * one, share * call
    return wake_s, call_s, task_s


def wakes_of_a_task(run: Regime) -> dict[str, float]:
    processes = {"launcher": "launcher 1", "watcher": "watcher", "redis": "redis"}
    return {name: run.woken(process) / run.tasks for name, process in processes.items()}


def single_wakes(trickle: Regime) -> dict[str, float]:
    """Without those of Redis for heartbeats that found nothing: there are many between two tasks."""
    idle_reads = max(0.0, trickle.calls["read_stream"] / trickle.tasks - ITEMS["read_stream"])
    wakes = wakes_of_a_task(trickle)
    return wakes | {"redis": max(0.0, wakes["redis"] - idle_reads)}
