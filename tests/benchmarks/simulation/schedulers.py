"""Executors in the scheduler's loop: heartbeats whose parts have time slices.

The slices and batches are those of the code that runs.
"""

from __future__ import annotations

import random

from podrelay.scheduling import heartbeat_budget
from podrelay.store.launch_queue import _CHUNK as CHUNK
from podrelay.store.result_stream import _READ_MOST as READ_MOST
from tests.benchmarks.simulation.machine import Machine, Process, Steps
from tests.benchmarks.simulation.services import Load, Redis, Task
from tests.benchmarks.simulation.unit_costs import UnitCosts

# The work between two looks at the clock.
_LOOK_EVERY = 5


class Scheduler:
    """One executor with its load, a heartbeat every `every_s` after the end of the last."""

    def __init__(
        self, machine: Machine, costs: UnitCosts, redis: Redis, number: int, load: Load, every_s: float
    ) -> None:
        self.env = machine.env
        self.process = Process(machine, f"scheduler {number}" if number else "scheduler")
        self.tasks: list[Task] = []
        self.over = 0
        self.heartbeats_s: list[float] = []
        self._number = number
        self._costs = costs
        self._redis = redis
        self._load = load
        self._every_s = every_s
        self._queued: list[Task] = []
        self._position = 0
        self._ended: list[Task] = []
        self._pace = heartbeat_budget.Pace()
        # What results took of the last heartbeat.
        self._results_s = 0.0
        self.env.process(self._arrive())
        self.env.process(self._run())

    @property
    def done(self) -> bool:
        return self.over == sum(count for _, count in self._load.arrivals)

    def _arrive(self) -> Steps:
        for at_s, count in self._load.arrivals:
            yield self.env.timeout(max(0.0, at_s - self.env.now))
            arrived = [Task(self._number, self._load.duration_s(), self.env.now) for _ in range(count)]
            self.tasks += arrived
            self._queued += arrived

    def _run(self) -> Steps:
        yield self.env.timeout(self._every_s * random.Random(self._number).random() if self._number else 0.0)
        while not self.done:
            began_s = self.env.now
            yield from self.process.work(self._costs.heartbeat_s)
            if self._queued:
                yield from self._hand_over()
            results_began_s = self.env.now
            yield from self._read_results(began_s)
            self._results_s = self.env.now - results_began_s
            self.heartbeats_s.append(self.env.now - began_s)
            yield self.env.timeout(self._every_s)

    def _hand_over(self) -> Steps:
        yield from self.process.work(len(self._queued) * self._costs.queued_s)
        alone = len(self.tasks) - len(self._queued) == self.over
        slice_s = heartbeat_budget.hand_over_slice_s(0.0, self._results_s, alone=alone)
        ends_s, count, sent, calls = self.env.now + slice_s, 0, 0, []
        while count < len(self._queued) and (not count or self.env.now < ends_s):
            more = min(_LOOK_EVERY, len(self._queued) - count)
            yield from self.process.work(more * self._costs.built_s)
            count += more
            if count - sent >= CHUNK:  # Redis runs it while the next ones are built
                calls.append(self.env.process(self._redis.call("offer", count - sent)))
                sent = count
        yield from self.process.work(count * (self._costs.hand_over_s - self._costs.built_s))
        offered, self._queued = self._queued[:count], self._queued[count:]
        yield self.env.all_of([*calls, self.env.process(self._redis.call("offer", count - sent))])
        self._redis.queue(self._redis.launches, offered)

    def _read_results(self, began_s: float) -> Steps:
        """Reads far ahead, since most entries call for nothing; acts on the ends of its own tasks, in batches that fit."""
        ends_s, has_more = began_s + heartbeat_budget.RESULTS_S, True
        least, most = heartbeat_budget.RESULT_BATCH, heartbeat_budget.RESULT_BATCH_MOST
        while True:
            batch_began_s = self.env.now
            if has_more and len(self._ended) < least:
                entries = self._redis.stream[self._position : self._position + READ_MOST]
                yield from self._redis.call("read_stream", len(entries))
                yield from self.process.work(len(entries) * self._costs.foreign_entry_s)
                self._position += len(entries)
                self._ended += [e.task for e in entries if e.end and e.task.scheduler == self._number]
                has_more = len(entries) >= READ_MOST
            batch = self._ended[: self._pace.fitting(ends_s - self.env.now, least, most)]
            if batch:
                yield from self._close(batch)
            if len(batch) >= least:
                self._pace.note(len(batch), self.env.now - batch_began_s)
            if (not has_more and not self._ended) or self.env.now >= ends_s:
                return

    def _close(self, batch: list[Task]) -> Steps:
        """Nobody waits for the answer to the acknowledgement."""
        yield from self.process.work(len(batch) * self._costs.results_s)
        self.env.process(self._acknowledge(batch))
        del self._ended[: len(batch)]
        for task in batch:
            task.over_s = self.env.now
        self.over += len(batch)

    def _acknowledge(self, batch: list[Task]) -> Steps:
        yield from self._redis.call("acknowledge", len(batch))
        self._redis.queue(self._redis.cleanups, batch)
