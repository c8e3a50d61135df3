"""Pure: what happened to the launches of a cluster in five minutes, as counts. The leading watcher sums up, the page reads.

A rollup is a flat counter. Its names are those of NAMES and no others, so that whatever stands in Redis stays bounded:
`started` (attempts whose container ran), each final outcome, `failed:<class>`, `throttled_ms`, and per step of a launch
`<step>:<bin>`, a histogram over the bins of EDGES_S.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import get_args

from podrelay.protocol.messages import TERMINAL, FailureClass
from podrelay.protocol.redis_values import number_of

BUCKET_S = 300
KEPT = 288  # buckets: 24 hours
KEPT_S = float(BUCKET_S * KEPT)
# The upper ends of the bins of a histogram, six per decade; what takes longer is in one more bin.
EDGES_S = tuple(
    round(digit * 10.0**power, 3) for power in range(-2, 4) for digit in (1.0, 1.5, 2.2, 3.3, 4.7, 6.8)
)  # fmt: skip
# Step -> the fields of the ledger between which it lies.
STEPS = {
    "created": ("t_offered", "t_created"),
    "started": ("t_created", "t_started"),
    "reported": ("t_finished", "t_reported"),
}
# The steps that a launch has behind it once its container runs, and those once its end is published.
_OF_START, _OF_END = ("created", "started"), ("reported",)
FAILURES = tuple(sorted(filter(None, get_args(FailureClass)))) + ("other",)
NAMES = frozenset(
    {
        "started", "throttled_ms", *TERMINAL, *(f"failed:{kind}" for kind in FAILURES),
        *(f"{step}:{place}" for step in STEPS for place in range(len(EDGES_S) + 1)),
    }
)  # fmt: skip
# podrelay writes no larger count.
_COUNT_MOST = 10**9
# The longest text of a rollup that is decoded: one with every name and a large count has fewer characters.
TEXT_MAX = 4096

Rollup = Counter[str]


@dataclass(frozen=True, slots=True)
class ReportedStep:
    """An entry of the results stream, with what the ledger holds of its attempt. Anybody with access to Redis may have
    written either.

    `at_s` is when it was published, by Redis' clock. `first_run`: nothing was reported before about this attempt's container
    having run.
    """

    at_s: float
    outcome: str
    first_run: bool
    failure_class: str
    entry: Mapping[str, str]


def bucket_of(at_s: float, now_s: float) -> int:
    """The start of the bucket that a time belongs to. A time in the future, or of more than a day ago, counts as now."""
    return int(at_s if now_s - KEPT_S < at_s <= now_s else now_s) // BUCKET_S * BUCKET_S


def bucket_starts(now_s: float) -> list[int]:
    """The buckets of the last 24 hours, the present one last."""
    last = bucket_of(now_s, now_s)
    return [last - BUCKET_S * back for back in reversed(range(KEPT))]


def counts_of(step: ReportedStep) -> Iterator[str]:
    """The names that this entry counts for."""
    if step.outcome == "started" or step.first_run:
        yield "started"
        yield from _bins(step.entry, _OF_START)
    if step.outcome in TERMINAL:
        yield step.outcome
        yield from _bins(step.entry, _OF_END)
    if step.outcome == "failed":
        yield f"failed:{step.failure_class if step.failure_class in FAILURES else 'other'}"


def _bins(entry: Mapping[str, str], steps: Iterable[str]) -> Iterator[str]:
    for step in steps:
        since_s, until_s = (number_of(entry.get(field)) for field in STEPS[step])
        if since_s and until_s:  # Kubernetes rounds to seconds and clocks differ: a negative duration counts as none
            yield f"{step}:{bisect_left(EDGES_S, until_s - since_s)}"


def histogram(rollup: Mapping[str, int], step: str) -> list[int]:
    """How many launches took how long for a step, by the bins of EDGES_S."""
    return [rollup.get(f"{step}:{place}", 0) for place in range(len(EDGES_S) + 1)]


def quantile_s(counts: list[int], part: float) -> float | None:
    """The duration that this part of the launches did not exceed, from a histogram; None without any.

    Within a bin the durations count as evenly spread; those beyond the last edge as that edge.
    """
    wanted = part * sum(counts)
    if not wanted:
        return None
    totals = list(accumulate(counts))
    place = min(bisect_left(totals, wanted), len(counts) - 1)
    low_s = EDGES_S[place - 1] if place else 0.0
    high_s = EDGES_S[min(place, len(EDGES_S) - 1)]
    inside = (wanted - (totals[place] - counts[place])) / counts[place]
    return low_s + (high_s - low_s) * inside


def encode(rollup: Mapping[str, int]) -> str:
    return json.dumps(rollup, sort_keys=True, separators=(",", ":"))


def decode(text: str) -> Rollup:
    """The rollup in a field; whatever podrelay would not have written is left out."""
    if len(text) > TEXT_MAX:
        return Rollup()
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return Rollup()
    items = found.items() if isinstance(found, dict) else ()
    return Rollup({name: count for name, count in items if name in NAMES and _is_count(count)})


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value <= _COUNT_MOST
