"""Pure: the rollups of the last 24 hours as series for plots, one value for each bucket of five minutes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from podrelay.protocol.messages import TERMINAL, Json
from podrelay.protocol.rollups import BUCKET_S, FAILURES, STEPS, Rollup, bucket_starts, histogram, quantile_s

# A bucket that is younger has too few launches for a rate.
_YOUNGEST_S = 30.0


def history(rollups: Mapping[int, Rollup], now_s: float) -> Json:
    """Series by name, each as long as `at_s`, the starts of the buckets; and the totals of the 24 hours.

    `started` and `ended` are launches per minute. `p50` and `p95` are the seconds that each step took, None where no launch
    took it. `failed` are launches by class, `throttled_s` seconds.
    """
    starts = bucket_starts(now_s)
    buckets = [rollups.get(start, Rollup()) for start in starts]
    day = sum(buckets, Rollup())
    minutes = [_minutes(start, now_s) for start in starts]
    return {
        "at_s": starts,
        "started": _rates(buckets, minutes, "started"),
        "ended": _rates(buckets, minutes, *TERMINAL),
        "failed": {kind: [bucket[f"failed:{kind}"] for bucket in buckets] for kind in FAILURES},
        "throttled_s": [min(float(BUCKET_S), bucket["throttled_ms"] / 1000.0) for bucket in buckets],
        "steps": {step: _quantiles(buckets, step) for step in STEPS},
        "day": {
            "started": day["started"],
            **{outcome: day[outcome] for outcome in sorted(TERMINAL)},
            "failed_by_class": {kind: day[f"failed:{kind}"] for kind in FAILURES},
            "throttled_s": sum(min(float(BUCKET_S), bucket["throttled_ms"] / 1000.0) for bucket in buckets),
            "steps": {step: dict(_of_step(day, step)) for step in STEPS},
        },
    }


def _minutes(start: int, now_s: float) -> float | None:
    """The length of a bucket so far; None for one that has just begun."""
    seconds = min(float(BUCKET_S), now_s - start)
    return seconds / 60.0 if seconds >= _YOUNGEST_S else None


def _rates(buckets: list[Rollup], minutes: list[float | None], *names: str) -> list[float | None]:
    return [
        None if length is None else round(sum(bucket[name] for name in names) / length, 3)
        for bucket, length in zip(buckets, minutes, strict=True)
    ]


def _quantiles(buckets: list[Rollup], step: str) -> dict[str, list[float | None]]:
    found = [dict(_of_step(bucket, step)) for bucket in buckets]
    return {name: [values[name] for values in found] for name in ("p50", "p95")}


def _of_step(bucket: Rollup, step: str) -> Iterator[tuple[str, float | None]]:
    counts = histogram(bucket, step)
    for name, part in (("p50", 0.5), ("p95", 0.95)):
        seconds = quantile_s(counts, part)
        yield name, None if seconds is None else round(seconds, 3)
