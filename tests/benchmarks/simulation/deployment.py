"""One run of the simulation: the parts together, and what comes out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import quantiles

import simpy

from tests.benchmarks.simulation.machine import Machine, Process
from tests.benchmarks.simulation.plan import Plan
from tests.benchmarks.simulation.schedulers import Scheduler
from tests.benchmarks.simulation.services import ApiServer, Observer, Redis, Task
from tests.benchmarks.simulation.unit_costs import ITEMS, UnitCosts
from tests.benchmarks.simulation.workers import Launcher, Watcher, idle_cost_s

LONGEST_S = 7200.0


@dataclass
class Outcome:
    """Seconds from the first hand-over, pods a second, processor seconds by process, and what the servers were asked."""

    lives: list[Task]
    last_created_s: float
    last_event_s: float
    last_deleted_s: float
    pods_per_s: float
    end_to_event_p50_s: float
    end_to_event_p99_s: float
    queued_to_created_p99_s: float
    longest_heartbeat_s: float
    cpu_s: dict[str, float] = field(default_factory=dict)
    wakes: dict[str, int] = field(default_factory=dict)
    redis_calls: dict[str, int] = field(default_factory=dict)
    api_requests: int = 0

    @property
    def tasks(self) -> int:
        return len(self.lives)

    def created_after_s(self, handed_s: float) -> float:
        """Seconds from this time until all pods of the tasks that came then existed."""
        return max(task.created_s for task in self.lives if task.handed_s == handed_s) - handed_s


def simulate(plan: Plan, costs: UnitCosts) -> Outcome:
    """Run until every task is over, its pod is deleted, and launchers have written that.

    :raises RuntimeError: some are not, after two simulated hours.
    """
    env = simpy.Environment()
    machine = Machine(env, plan.cores or 1_000_000)
    redis = Redis(machine, costs, plan.redis_trip_s)
    link = Process(machine, "slow link") if plan.linked else None
    api = ApiServer(machine, costs, plan.latency_s, plan.api_threads, link)
    watcher = Watcher(machine, costs, redis, api)
    launchers = [Launcher(machine, costs, redis, api, number + 1, plan) for number in range(plan.launchers)]
    several = len(plan.loads) > 1
    schedulers = [
        Scheduler(machine, costs, redis, number + several, load, plan.heartbeat_every_s)
        for number, load in enumerate(plan.loads)
    ]
    processes = [api.process, redis.process, watcher.process, *(launcher.process for launcher in launchers)]
    processes += [scheduler.process for scheduler in schedulers]
    if link is not None:
        processes.append(link)
    if plan.observed:
        processes.append(Observer(machine, costs, api).process)
    while not (all(scheduler.done for scheduler in schedulers) and redis.tasks["finish"] == ITEMS["finish"] * api.pods):
        if env.now > LONGEST_S:
            over, all_of = sum(s.over for s in schedulers), sum(len(s.tasks) for s in schedulers)
            raise RuntimeError(f"{over} of {all_of} tasks over after {LONGEST_S:g} s: this deployment cannot keep up")
        env.run(until=env.now + 0.02)
    cpu_s = {process.name: process.cpu_s + idle_cost_s(costs, process.name, env.now) for process in processes}
    wakes = {process.name: process.wakes for process in processes}
    return _outcome(schedulers, cpu_s, wakes, redis, api)


def _outcome(
    schedulers: Sequence[Scheduler], cpu_s: dict[str, float], wakes: dict[str, int], redis: Redis, api: ApiServer
) -> Outcome:
    tasks = [task for scheduler in schedulers for task in scheduler.tasks]
    first_s = min(task.handed_s for task in tasks)
    created_s = max(task.created_s for task in tasks) - first_s
    to_event = percentiles([task.over_s - task.ended_s for task in tasks])
    return Outcome(
        lives=tasks,
        last_created_s=created_s,
        last_event_s=max(task.over_s for task in tasks) - first_s,
        last_deleted_s=max(task.deleted_s for task in tasks) - first_s,
        pods_per_s=len(tasks) / created_s,
        end_to_event_p50_s=to_event[49],
        end_to_event_p99_s=to_event[98],
        queued_to_created_p99_s=percentiles([task.created_s - task.handed_s for task in tasks])[98],
        longest_heartbeat_s=max(beat for scheduler in schedulers for beat in scheduler.heartbeats_s),
        cpu_s=cpu_s,
        wakes=wakes,
        redis_calls=dict(redis.calls),
        api_requests=api.requests,
    )


def percentiles(values: Sequence[float]) -> list[float]:
    return quantiles(values, n=100, method="inclusive")
