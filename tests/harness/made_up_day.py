"""A day in the life of a deployment, made up: rollups for the plots of the page, until an hour ago."""

from __future__ import annotations

import math
import random
from bisect import bisect_left

import redis

from podrelay.protocol.redis_keys import RedisKeys
from podrelay.protocol.rollups import EDGES_S, Rollup, bucket_starts, encode

_AN_HOUR = 12  # buckets


def write_made_up_day(redis_url: str, keys: RedisKeys, now_s: float) -> dict[int, Rollup]:
    """Write it, and return the rollups by bucket."""
    dice = random.Random(1)  # noqa: S311 - the same day each time
    day = {start: _bucket(place, dice) for place, start in enumerate(bucket_starts(now_s)[:-_AN_HOUR])}
    with redis.Redis.from_url(redis_url) as client:
        mapping = {str(start): encode(rollup) for start, rollup in day.items()}
        client.hset(keys.rollups("default"), mapping=mapping)  # type: ignore[arg-type]
    return day


def _bucket(place: int, dice: random.Random) -> Rollup:
    """Busy at day, little at night, each hour at its beginning more; one hour with a slow and throttling API server."""
    busy = 0.55 - 0.45 * math.cos(place / 276 * 2 * math.pi)
    launches = int((120 + (260 if place % 12 == 0 else 0)) * busy * dice.uniform(0.85, 1.15)) + 3
    trouble = 150 <= place < 163
    rollup = Rollup({"started": launches})
    failed = int(launches * 0.01) + (int(launches * 0.05) if trouble else 0)
    rollup["failed"], rollup["succeeded"] = failed, launches - failed
    for _ in range(failed):
        kinds = ("infrastructure",) * 8 if trouble else ("application",) * 6 + ("infrastructure", "configuration")
        rollup[f"failed:{dice.choice(kinds)}"] += 1
    rollup["throttled_ms"] = int(dice.uniform(20, 140) * 1000) if trouble else 0
    for _ in range(launches):
        slow = 12.0 if trouble else 1.0 + 1.5 * busy * (place % 12 == 0)
        for step, median_s, spread in (
            ("created", 0.18 * slow, 0.7),
            ("started", 2.4 + 0.3 * slow, 0.5),
            ("reported", 0.4, 0.3),
        ):
            rollup[f"{step}:{bisect_left(EDGES_S, dice.lognormvariate(math.log(median_s), spread))}"] += 1
    return rollup
