"""Redis and the API server with its pods, as far as they take time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from tests.benchmarks.simulation.machine import Inbox, Machine, Process, Steps
from tests.benchmarks.simulation.unit_costs import UnitCosts


@dataclass(eq=False)
class Task:
    """One task of one scheduler, and when what happened to it."""

    scheduler: int
    duration_s: float
    handed_s: float = 0.0
    created_s: float = 0.0
    ended_s: float = 0.0
    over_s: float = 0.0


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
        self.process = Process(machine, "redis")
        self.launches = Inbox(machine.env)
        self.cleanups = Inbox(machine.env)
        self.stream: list[Entry] = []
        self._subscribers: list[tuple[Inbox, Inbox]] = []
        self.calls: dict[str, int] = {}
        self._costs = costs
        self._trip_s = trip_s

    def call(self, script: str, items: int) -> Steps:
        """One script with so many tasks in it; returns when its answer is there."""
        self.calls[script] = self.calls.get(script, 0) + 1
        costs = self._costs
        took_s = costs.redis_call_s[script] + items * costs.redis_task_s[script]
        yield self.process.env.timeout(self._trip_s / 2)
        yield from self.process.work(took_s)
        yield self.process.env.timeout(self._trip_s / 2)

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


class ApiServer:
    """Answers requests, runs pods, and delivers their changes to who watches. A link delays what it sends to workers."""

    def __init__(
        self, machine: Machine, costs: UnitCosts, latency_s: float, threads: int, link: Process | None
    ) -> None:
        """:param link: the process that delays answers and events; without one only answers are late."""
        self.env = machine.env
        self.process = Process(machine, "api server", threads)
        self.requests = 0
        self._watches: list[tuple[Inbox, Process | None]] = []
        self._costs = costs
        self._latency_s = latency_s
        self._link = link

    def watch(self, inbox: Inbox, *, direct: bool = False) -> None:
        """:param direct: not through the link."""
        self._watches.append((inbox, None if direct else self._link))

    def create(self, task: Task) -> Steps:
        yield from self.process.work(self._costs.api_create_s)
        task.created_s = self.env.now
        self._publish(Event(task))
        self.env.process(self._live(task))
        yield from self._answer()

    def delete(self, task: Task) -> Steps:
        yield from self.process.work(self._costs.api_change_s)
        self._publish(Event(task))
        yield from self._answer()

    def _answer(self) -> Steps:
        self.requests += 1
        if self._link is not None:
            yield from self._link.work(self._costs.link_s)
        yield self.env.timeout(self._latency_s)

    def _live(self, task: Task) -> Steps:
        """All but the last of the changes come before the pod runs, the last is its end."""
        changes = self._costs.status_changes
        for change in range(1, changes):
            yield from self.process.work(self._costs.api_change_s)
            self._publish(Event(task, report=change == changes - 1))
        yield self.env.timeout(task.duration_s)
        yield from self.process.work(self._costs.api_change_s)
        task.ended_s = self.env.now
        self._publish(Event(task, report=True, end=True))

    def _publish(self, event: Event) -> None:
        for inbox, link in self._watches:
            if link is None:
                inbox.put(event)
            else:
                self.env.process(self._deliver_late(inbox, link, event))

    def _deliver_late(self, inbox: Inbox, link: Process, event: Event) -> Steps:
        yield from link.work(self._costs.link_s)
        yield self.env.timeout(self._latency_s)
        inbox.put(event)


class Observer:
    """The benchmark's own watch: it shares the machine."""

    def __init__(self, machine: Machine, costs: UnitCosts, api: ApiServer) -> None:
        self.process = Process(machine, "observer")
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
