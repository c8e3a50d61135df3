"""Processors, and the processes that share them."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import simpy

# A process of the simulation: yields events of simpy.
Steps = Generator[simpy.Event, Any, None]

# After this much work a process lets others have the processor, as an operating system does.
QUANTUM_S = 0.001
# Priorities are whole numbers: of two processes, one that has used this much less is the first.
_TICK_S = 1e-6


class Machine:
    """So many processors, each for whoever has used them least: who mostly sleeps hardly waits for who never does."""

    def __init__(self, env: simpy.Environment, cores: int) -> None:
        self.env = env
        self.cores = simpy.PriorityResource(env, capacity=cores)


class Process:
    """A process with `threads` threads (one: an event loop), the processor time that it has used, and how often it slept."""

    def __init__(self, machine: Machine, name: str, threads: int = 1, wake_s: float = 0.0) -> None:
        """:param wake_s: what it costs to be woken: for one event as much as for several that come together."""
        self.env = machine.env
        self.name = name
        self.cpu_s = 0.0
        self.wakes = 0
        self._wake_s = wake_s
        self._busy_until_s = -1.0
        self._cores = machine.cores
        self._thread = simpy.Resource(machine.env, capacity=threads)

    def work(self, seconds: float = 0.0) -> Steps:
        """Use the processor for so long, after what this process does already. By default it only wakes for something."""
        if not self._thread.count and self.env.now > self._busy_until_s:
            self.wakes += 1
            seconds += self._wake_s
        with self._thread.request() as turn:
            yield turn
            while seconds > 0:
                part_s = min(QUANTUM_S, seconds)
                with self._cores.request(priority=round(self.cpu_s / _TICK_S)) as core:
                    yield core
                    yield self.env.timeout(part_s)
                self.cpu_s += part_s
                seconds -= part_s
            self._busy_until_s = self.env.now


class Inbox:
    """What waits for a process: items, and an event for who has found it empty."""

    def __init__(self, env: simpy.Environment) -> None:
        self._env = env
        self.items: list[Any] = []
        self._filled = env.event()

    def __len__(self) -> int:
        return len(self.items)

    def put(self, *items: Any) -> None:
        self.items += items
        if self.items and not self._filled.triggered:
            self._filled.succeed()

    def filled(self) -> simpy.Event:
        """Happens when there is something."""
        if self._filled.triggered and not self.items:
            self._filled = self._env.event()
        return self._filled

    def take(self, most: int | None = None) -> list[Any]:
        """The oldest items, at most so many."""
        taken, self.items = self.items[:most], self.items[len(self.items[:most]) :]
        return taken
