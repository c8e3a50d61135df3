"""Launchers and the watcher: when they ask Redis, how many requests they send, and what that costs them.

The pauses and limits are those of the code that runs.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import simpy

from podrelay_workers.launcher import job_loop, job_queue, leases
from podrelay_workers.launcher.concurrency import Concurrency, JobSlots
from podrelay_workers.launcher.leased_job import Kind
from podrelay_workers.watcher import outbox, reflector
from tests.benchmarks.simulation.machine import Inbox, Machine, Process, Steps
from tests.benchmarks.simulation.plan import Plan
from tests.benchmarks.simulation.services import ApiServer, Entry, Event, Redis, Task
from tests.benchmarks.simulation.unit_costs import UnitCosts

_KINDS: tuple[Kind, ...] = ("launch", "cleanup")
_GATHER_S: dict[Kind, float] = {"launch": leases.GATHER_S, "cleanup": leases.GATHER_CLEANUPS_S}
# The share of a request's cost that comes before it is sent: check, render, encode.
_BEFORE = 0.7
# Events in a piece of a watch that is read without a pause after it, 64 KB; and the most that TLS reads at once, 256 KB.
_PIECE, _PIECE_MOST = 11, 44


class Launcher:
    """Claims launches and clean-ups, each for its free slots, and writes outcomes in batches."""

    def __init__(
        self, machine: Machine, costs: UnitCosts, redis: Redis, api: ApiServer, number: int, plan: Plan
    ) -> None:
        self.env = machine.env
        self.process = Process(machine, f"launcher {number}", wake_s=costs.launcher_wake_s)
        self._costs = costs
        self._redis = redis
        self._api = api
        # One that has worked before: it sends as much as it may from the beginning.
        most = plan.launcher_concurrency + plan.cleanup_concurrency
        self._concurrency = Concurrency(plan.launcher_concurrency, plan.cleanup_concurrency, start=most)
        self._slots = {kind: JobSlots(self._concurrency, kind) for kind in _KINDS}
        self._sending = dict.fromkeys(_KINDS, 0)
        self._waiting: dict[Kind, deque[simpy.Event]] = {kind: deque() for kind in _KINDS}
        self._ended = {kind: Inbox(self.env) for kind in _KINDS}
        self._outcomes = {kind: Inbox(self.env) for kind in _KINDS}
        queues: dict[Kind, Inbox] = {"launch": redis.launches, "cleanup": redis.cleanups}
        for kind, queue in queues.items():
            notices = Inbox(self.env)
            self.env.process(self._listen(redis.subscribe(queue), notices))
            self.env.process(self._claim(kind, queue, notices))
            self.env.process(self._write_outcomes(self._outcomes[kind], _GATHER_S[kind]))

    def _listen(self, messages: Inbox, notices: Inbox) -> Steps:
        """Redis sends each launcher each message, also one that is busy."""
        while True:
            yield messages.filled()
            received = messages.take()
            yield from self.process.work()
            notices.put(*received)

    def _claim(self, kind: Kind, queue: Inbox, notices: Inbox) -> Steps:
        """Claims whenever it is notified, also when another launcher has been faster."""
        slots = self._slots[kind]
        while True:
            if not slots.claimable:
                self._ended[kind].take()
                yield self._ended[kind].filled()
                yield self.env.timeout(job_loop.GATHER_S)
                yield from self.process.work()
                continue
            notices.take()
            tasks = yield from self._redis.claim(queue, slots.claimable)
            yield from self.process.work()
            slots.in_flight += len(tasks)
            for task in tasks:
                self.env.process(self._launch(task) if kind == "launch" else self._clean_up(task))
            if not queue:
                yield notices.filled()

    def _launch(self, task: Task) -> Steps:
        yield from self._send("launch", self._costs.create_s, self._api.create(task))

    def _clean_up(self, task: Task) -> Steps:
        yield from self._send("cleanup", self._costs.clean_up_s, self._api.delete(task))

    def _send(self, kind: Kind, cost_s: float, request: Steps) -> Steps:
        """One request, when it is its turn. Most of its cost comes before it is sent."""
        if self._sending[kind] >= self._concurrency.limit_of(kind) or self._waiting[kind]:
            admitted = self.env.event()
            self._waiting[kind].append(admitted)
            yield admitted
        else:
            self._sending[kind] += 1
        yield from self.process.work(cost_s * _BEFORE)
        yield from request
        yield from self.process.work(cost_s * (1 - _BEFORE))
        self._finish(kind)

    def _finish(self, kind: Kind) -> None:
        self._slots[kind].in_flight -= 1
        self._sending[kind] -= 1
        while self._waiting[kind] and self._sending[kind] < self._concurrency.limit_of(kind):
            self._waiting[kind].popleft().succeed()
            self._sending[kind] += 1
        self._ended[kind].put(kind)
        self._outcomes[kind].put(kind)

    def _write_outcomes(self, outcomes: Inbox, gather_s: float) -> Steps:
        """Those of one kind: what came during a call is written at once."""
        while True:
            yield outcomes.filled()
            yield self.env.timeout(gather_s)
            yield from self.process.work()
            while written := outcomes.take(job_queue.CHUNK):
                yield from self._redis.call("finish", len(written))
                yield from self.process.work()


class Watcher:
    """Reads events as they come, and publishes what they say about tasks in batches."""

    def __init__(self, machine: Machine, costs: UnitCosts, redis: Redis, api: ApiServer) -> None:
        self.env = machine.env
        self.process = Process(machine, "watcher", wake_s=costs.watcher_wake_s)
        self._costs = costs
        self._redis = redis
        self._events = Inbox(self.env)
        self._reports = Inbox(self.env)
        api.watch(self._events)
        self.env.process(self._read())
        self.env.process(self._publish())

    def _read(self) -> Steps:
        """In pieces with a pause between them, unless a piece is large."""
        while True:
            yield self._events.filled()
            events: list[Event] = self._events.take(_PIECE_MOST)
            yield from self.process.work(len(events) * self._costs.watch_event_s)
            self._reports.put(*(event for event in events if event.report))
            if len(events) < _PIECE:
                yield self.env.timeout(reflector.GATHER_EVENTS_S)
                yield from self.process.work()

    def _publish(self) -> Steps:
        while True:
            yield self._reports.filled()
            while reports := self._reports.take(outbox.BATCH):
                yield from self._redis.call("publish", len(reports))
                self._redis.stream += [Entry(event.task, event.end) for event in reports]
                yield from self.process.work()
            yield self.env.timeout(outbox.GATHER_S)
            yield from self.process.work()


def idle_cost_s(costs: UnitCosts, process: str, seconds: float) -> float:
    """What leases, registration and the like cost in so many seconds."""
    rates: dict[str, Any] = {"launcher": costs.launcher_idle, "watcher": costs.watcher_idle}
    return float(rates.get(process.split()[0], 0.0)) * seconds
