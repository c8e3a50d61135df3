"""Pure: percentiles of one measurement, and medians of several rounds."""

from __future__ import annotations

from statistics import median, quantiles
from typing import Any

Json = dict[str, Any]


def percentiles_ms(seconds: list[float]) -> Json:
    if len(seconds) < 2:
        return {"p50_ms": None, "p99_ms": None, "max_ms": None}
    cuts = quantiles(seconds, n=100, method="inclusive")
    return {"p50_ms": 1000 * median(seconds), "p99_ms": 1000 * cuts[98], "max_ms": 1000 * max(seconds)}


def medians(runs: list[Json]) -> Json:
    """The median of each figure over the rounds, and all of them where there was more than one."""
    made: Json = {}
    for name, value in runs[0].items():
        values = [run[name] for run in runs if name in run]
        if isinstance(value, dict):
            made[name] = medians(values)
        elif isinstance(value, (int, float)) and None not in values:
            made[name] = median(values)
            if name in ("pods_per_s", "heartbeat_sum_s", "heartbeat_max_ms") and len(values) > 1:
                made[f"{name}_rounds"] = values
        else:
            made[name] = value
    return made
