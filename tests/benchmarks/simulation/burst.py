"""The busiest hour, with its burst: arrivals of a day's demand."""

from __future__ import annotations

import random

from tests.benchmarks.simulation.needs import Demand
from tests.benchmarks.simulation.plan import Plan
from tests.benchmarks.simulation.services import Load

# Simulated before and after the burst.
BEFORE_S, AFTER_S = 10.0, 20.0
# Pods run so long, exponentially distributed: short, so that ends meet the creations.
RUN_MEAN_S = 30.0
HEARTBEAT_EVERY_S = 0.2


def burst_plan(demand: Demand, latency_s: float, launchers: int) -> tuple[Plan, float]:
    """Steady arrivals once a second, and the burst after some seconds, spread over the schedulers; when it comes."""
    rng = random.Random(1)
    mean = demand.peak_per_s / demand.schedulers
    loads = []
    for _ in range(demand.schedulers):
        steady = [(float(at_s), poisson(rng, mean)) for at_s in range(int(BEFORE_S + AFTER_S))]
        arrivals = sorted([*steady, (BEFORE_S, demand.burst // demand.schedulers)])
        loads.append(Load(arrivals, duration_s=lambda: rng.expovariate(1 / RUN_MEAN_S)))
    plan = Plan(loads, launchers, latency_s, api_threads=1000, heartbeat_every_s=HEARTBEAT_EVERY_S)
    return plan, BEFORE_S


def poisson(rng: random.Random, mean: float) -> int:
    """Arrivals in one unit of time."""
    count, passed = 0, rng.expovariate(mean)
    while passed < 1.0:
        count, passed = count + 1, passed + rng.expovariate(mean)
    return count
