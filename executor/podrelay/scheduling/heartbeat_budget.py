"""How much of a heartbeat each part of the executor may use. A heartbeat blocks the whole scheduler, so it must stay short.

Each part works in small batches. It always does the first one and starts another only while its time slice lasts. All
slices, and one batch beyond each of them, take less than 50 ms together, whatever is queued, finished or running. What is
left keeps its place for the next heartbeat, which follows at once while the scheduler has work.

The latency of Redis is outside our control. It is measured (`podrelay.store`), and a part starts only while the round trips
that it needs still fit into the heartbeat (`HeartbeatBudget`); the first part always starts. A part that does not fit is the
first of the next heartbeat, so a distant Redis slows down the executor and not the scheduler: at 20 ms a round trip, a
heartbeat makes one to hand over or two for results; with a nearby Redis all parts fit. A Redis that does not answer costs
`[podrelay] redis_timeout_s` once and is then left alone for a while. A thread would hide even that cost, but a scheduler
with threads must not fork, as a LocalExecutor in the same process does, and what such a thread holds would be neither in the
scheduler's queue nor in Redis.

Used by the executor and by every module of this package that works in batches.
"""

from __future__ import annotations

import time
from typing import Protocol

# No part starts that would end later than HEARTBEAT_LIMIT_S after the heartbeat began: its round trips, and WORK_S for the
# work on what they return.
HEARTBEAT_LIMIT_S, WORK_S = 0.05, 0.008
# Time slices of the parts: about 150 launches and 200 comparisons on a slow core. That of the hand-over begins after its
# first query. With a nearby Redis it is longer by what results left of their time when they were last processed, up to
# HAND_OVER_MOST_S with the query. A scheduler without launches has no results and nothing to compare: its first hand-over
# has HAND_OVER_ALONE_S.
HAND_OVER_S, HAND_OVER_MOST_S, HAND_OVER_ALONE_S = 0.012, 0.02, 0.032
# With less than this left of it, no further workloads are looked up in the database: a query takes as long as ten launches.
LOOKUP_S = 0.003
# Results come first, as Airflow's next steps wait for them: they have all that is left until this long after the heartbeat
# began. What runs after them takes less than half of a heartbeat.
RESULTS_S = 0.025
COMPARISON_S = 0.005
WITHDRAWALS_S = 0.005
# If a round trip takes less than this, all that fit into a heartbeat are short together, and only the slices limit it.
NEARBY_S = 0.002
# Items in one batch: few enough to end soon after the time slice, enough to be worth the round trips and queries.
# Workloads and results: so many at least, and at most; between, as many as fit (`Pace`).
HAND_OVER_BATCH, HAND_OVER_BATCH_MOST = 20, 200
RESULT_BATCH, RESULT_BATCH_MOST = 20, 400
COMPARISON_BATCH = 100
WITHDRAWAL_BATCH = 100


class TimeSlice:
    """The time that one part has in this heartbeat, counted from its construction."""

    def __init__(self, seconds: float) -> None:
        self._ends_s = time.monotonic() + seconds

    @property
    def left_s(self) -> float:
        return self._ends_s - time.monotonic()

    @property
    def over(self) -> bool:
        return self.left_s <= 0


def hand_over_slice_s(query_s: float, results_s: float, *, alone: bool) -> float:
    """The time slice of a hand-over beside a nearby Redis: a burst of launches, before its first results come, takes fewer
    heartbeats than with `HAND_OVER_S`.

    :param query_s: what its first query took.
    :param results_s: what results took when they were last processed.
    :param alone: there are no launches yet, and none is compared in this heartbeat.
    """
    most_s = HAND_OVER_ALONE_S if alone else HAND_OVER_MOST_S - results_s
    return max(HAND_OVER_S, most_s - query_s)


class Pace:
    """How many items of a kind fit into a time, by what they took lately. A large batch shares one query and one round trip,
    and a busy machine takes several times as long for it: so neither a number nor a time alone would do.
    """

    def __init__(self) -> None:
        self._item_s = float("inf")

    def fitting(self, seconds: float, least: int, most: int) -> int:
        """From `least`, which is also the answer while nothing was measured, to `most`."""
        return max(least, int(min(most, seconds / self._item_s)))

    def note(self, count: int, seconds: float) -> None:
        """So many items took so long. A higher cost counts at once, a lower one by and by. What all items of a batch share
        would make a few look expensive: note no small batches.
        """
        item_s = max(seconds / count, 1e-6)
        self._item_s = item_s if self._item_s == float("inf") else max(item_s, (self._item_s + item_s) / 2)


class RoundTrips(Protocol):
    """Counts the round trips to Redis and measures them: `trips` so far, `trip_s` seconds for one at present."""

    trips: int

    @property
    def trip_s(self) -> float: ...


class HeartbeatBudget:
    """The time of one heartbeat, for all parts together. A reentrant context: the outermost one is the heartbeat."""

    def __init__(self, round_trips: RoundTrips) -> None:
        self._round_trips = round_trips
        self._depth = 0

    def __enter__(self) -> None:
        if self._depth == 0:
            self._began_s = time.monotonic()
            self._trips_before = self._round_trips.trips
        self._depth += 1

    def __exit__(self, *raised: object) -> None:
        self._depth -= 1

    @property
    def is_redis_near(self) -> bool:
        return self._round_trips.trip_s < NEARBY_S

    @property
    def trips(self) -> int:
        return self._round_trips.trips

    def work_s(self, began_s: float, trips_before: int) -> float:
        """Seconds since then (monotonic) without those on the way to Redis."""
        elapsed_s, trips = time.monotonic() - began_s, self._round_trips.trips - trips_before
        return max(0.0, elapsed_s - trips * self._round_trips.trip_s)

    def left_s(self, until_s: float, trips: int = 1) -> float:
        """Seconds for work until this long after the heartbeat began, beside so many round trips. With a distant Redis, whose
        other parts wait for another heartbeat, until its end.
        """
        if self._depth == 0:
            return until_s
        if not self.is_redis_near:
            until_s = HEARTBEAT_LIMIT_S - WORK_S
        return until_s - (time.monotonic() - self._began_s) - trips * self._round_trips.trip_s

    def has_room(self, trips: int = 1) -> bool:
        """Is there budget for `trips` more round trips? Always for the first ones, so that each heartbeat makes progress."""
        if self._depth == 0 or self._round_trips.trips == self._trips_before or self.is_redis_near:
            return True
        return time.monotonic() - self._began_s + trips * self._round_trips.trip_s + WORK_S <= HEARTBEAT_LIMIT_S
