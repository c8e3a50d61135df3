"""Redis and the API server with its pods, as far as they take time."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from math import ceil
from typing import Any

import simpy

from podrelay_local_cluster.kubelet.pod_run import _STEP_S as STEP_S
from tests.benchmarks.simulation.machine import Inbox, Machine, Process, Steps
from tests.benchmarks.simulation.unit_costs import ITEMS, UnitCosts

# uvloop, which serves the link, counts its timers in milliseconds.
LINK_TICK_S = 0.001
# A request is read in one round of an event loop and handled in the next.
_REQUEST_ROUNDS = 2


@dataclass(eq=False)
class Task:
    """One task of one scheduler, and when what happened to it."""

    scheduler: int
    duration_s: float
    handed_s: float = 0.0
    created_s: float = 0.0
    ended_s: float = 0.0
    over_s: float = 0.0
    deleted_s: float = 0.0


@dataclass(eq=False)
class Event:
    """A change of a pod, as a watch delivers it. `report` says whether the watcher publishes it."""

    task: Task
    report: bool = False
    end: bool = False


@dataclass
class Entry:
    """An entry of the results stream."""

    task: Task
    end: bool


class Redis:
    """One thread. Holds what waits: launches, clean-ups, and the results stream, which each scheduler reads by itself."""

    def __init__(self, machine: Machine, costs: UnitCosts, trip_s: float) -> None:
        self.process = Process(machine, "redis", wake_s=costs.redis_wake_s)
        self.launches = Inbox(machine.env)
        self.cleanups = Inbox(machine.env)
        self.stream: list[Entry] = []
        self._subscribers: list[tuple[Inbox, Inbox]] = []
        # Of each script: its calls, and the tasks in them.
        self.calls = dict.fromkeys(ITEMS, 0)
        self.tasks = dict.fromkeys(ITEMS, 0)
        self._costs = costs
        self._trip_s = trip_s

    def call(self, script: str, items: int) -> Steps:
        """One script with so many tasks in it; returns when its answer is there."""
        yield self.process.env.timeout(self._trip_s / 2)
        yield from self._run(script, items)
        yield self.process.env.timeout(self._trip_s / 2)

    def claim(self, queue: Inbox, most: int) -> Generator[simpy.Event, Any, list[Task]]:
        """The tasks that are there when the script runs, at most so many."""
        yield self.process.env.timeout(self._trip_s / 2)
        tasks = queue.take(most)
        yield from self._run("claim", len(tasks))
        yield self.process.env.timeout(self._trip_s / 2)
        return tasks

    def _run(self, script: str, items: int) -> Steps:
        self.calls[script] += 1
        self.tasks[script] += items
        yield from self.process.work(self._costs.redis_call_s[script] + items * self._costs.redis_task_s[script])

    def subscribe(self, queue: Inbox) -> Inbox:
        """Receives a message for each call that has put something into this queue."""
        inbox = Inbox(self.process.env)
        self._subscribers.append((queue, inbox))
        return inbox

    def queue(self, queue: Inbox, tasks: list[Task]) -> None:
        queue.put(*tasks)
        for of, inbox in self._subscribers:
            if of is queue:
                inbox.put(len(tasks))
        self._subscribers.append(self._subscribers.pop(0))  # so that no launcher is the first each time


class ApiServer:
    """Answers requests, runs pods, and delivers their changes to who watches. A link delays what it sends to workers.

    With one thread it is an event loop: what has come during one round is done in the next, requests first, and watches get
    all changes of a round together. So answers come in clumps, however busy it is.
    """

    def __init__(
        self, machine: Machine, costs: UnitCosts, latency_s: float, threads: int, link: Process | None
    ) -> None:
        """:param link: the process that delays answers and events; without one only answers are late."""
        self.env = machine.env
        self.process = Process(machine, "api server", threads, costs.api_wake_s)
        self.requests = self.pods = 0
        self._watches: list[tuple[Inbox, Process | None]] = []
        self._due = Inbox(self.env)
        self._unsent: list[Event] = []
        self._in_rounds = threads == 1
        if self._in_rounds:
            self.env.process(self._run())
        self._costs = costs
        self._latency_s = latency_s
        self._link = link

    def watch(self, inbox: Inbox, *, direct: bool = False) -> None:
        """:param direct: not through the link."""
        self._watches.append((inbox, None if direct else self._link))

    def _run(self) -> Steps:
        while True:
            yield self._due.filled()
            for _, seconds, done in sorted(self._due.take(), key=lambda due: due[0]):
                yield from self.process.work(seconds)
                done.succeed()
                yield self.env.timeout(0)  # its changes are there before the round ends
            unsent, self._unsent = self._unsent, []
            self._send(unsent)

    def _work(self, seconds: float, *, of_pod: bool = False) -> Steps:
        if not self._in_rounds:
            yield from self.process.work(seconds)
            return
        parts = 1 if of_pod else _REQUEST_ROUNDS
        for _ in range(parts):
            done = self.env.event()
            self._due.put((of_pod, seconds / parts, done))
            yield done

    def create(self, task: Task) -> Steps:
        yield from self._work(self._costs.api_create_s)
        task.created_s = self.env.now
        self.pods += 1
        self._publish(Event(task))
        self.env.process(self._live(task))
        yield from self._answer()

    def delete(self, task: Task) -> Steps:
        yield from self._work(self._costs.deletion_changes * self._costs.api_change_s)
        for _ in range(self._costs.deletion_changes):
            self._publish(Event(task))
        task.deleted_s = self.env.now
        yield from self._answer()

    def _answer(self) -> Steps:
        self.requests += 1
        if self._link is None:
            yield self.env.timeout(self._latency_s)
        else:
            yield from self._late(self._link)

    def _late(self, link: Process, items: int = 1) -> Steps:
        """Through the link, whose clock has whole ticks: what is due in the same tick arrives together."""
        yield from link.work(items * self._costs.link_s)
        due_s = ceil((self.env.now + self._latency_s) / LINK_TICK_S) * LINK_TICK_S
        yield self.env.timeout(due_s - self.env.now)

    def _live(self, task: Task) -> Steps:
        """All but the last of the changes come before the pod runs, the last is its end."""
        changes = self._costs.status_changes
        for change in range(1, changes):
            yield self.env.timeout(STEP_S)
            yield from self._work(self._costs.api_change_s, of_pod=True)
            self._publish(Event(task, report=change == changes - 1))
        yield self.env.timeout(task.duration_s)
        yield from self._work(self._costs.api_change_s, of_pod=True)
        task.ended_s = self.env.now
        self._publish(Event(task, report=True, end=True))

    def _publish(self, event: Event) -> None:
        if self._in_rounds:
            self._unsent.append(event)
        else:
            self._send([event])

    def _send(self, events: list[Event]) -> None:
        for inbox, link in self._watches:
            if link is None:
                inbox.put(*events)
            elif events:
                self.env.process(self._deliver_late(inbox, link, events))

    def _deliver_late(self, inbox: Inbox, link: Process, events: list[Event]) -> Steps:
        yield from self._late(link, len(events))
        inbox.put(*events)


class Observer:
    """The benchmark's own watch: it shares the machine."""

    def __init__(self, machine: Machine, costs: UnitCosts, api: ApiServer) -> None:
        self.process = Process(machine, "observer", wake_s=costs.observer_wake_s)
        self._inbox = Inbox(machine.env)
        self._costs = costs
        api.watch(self._inbox, direct=True)
        machine.env.process(self._run())

    def _run(self) -> Steps:
        while True:
            yield self._inbox.filled()
            yield from self.process.work(len(self._inbox.take()) * self._costs.observer_event_s)


@dataclass
class Load:
    """The tasks of one scheduler: how many come when, and how long their pods run."""

    arrivals: list[tuple[float, int]]
    duration_s: Callable[[], float] = field(default=lambda: 1.0)
