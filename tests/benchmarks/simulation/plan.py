"""What is simulated: what runs where, and with which load."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tests.benchmarks.simulation.services import Load

# The benchmark's own bed: everything on two cores, an API server that is one thread, an observer.
BED_CORES = 2


@dataclass(frozen=True)
class Plan:
    """What runs where. With `cores` everything shares one machine; without, each process has what it needs."""

    loads: Sequence[Load]
    launchers: int = 1
    latency_s: float = 0.0
    cores: int | None = None
    launcher_concurrency: int = 64
    cleanup_concurrency: int = 16
    heartbeat_every_s: float = 0.1
    redis_trip_s: float = 0.0001
    api_threads: int = 1
    observed: bool = False
    # Latency by a process in front of the API server, as in the benchmark.
    linked: bool = False


def bed(tasks: int, launchers: int, latency_s: float) -> Plan:
    """The benchmark's part `life`: all tasks at once, pods of one second."""
    return Plan([Load([(0.0, tasks)])], launchers, latency_s, BED_CORES, observed=True, linked=latency_s > 0)
