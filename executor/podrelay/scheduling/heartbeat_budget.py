"""How much of a heartbeat each part of the executor may use: a heartbeat stops the whole scheduler.

Each part works in small groups and begins another one only while its share lasts, the first always: the shares and one
group over each stay below 50 ms together, whatever is queued, ended or running. What is left keeps its place for the next
heartbeat, which comes at once while the scheduler has work.

What is not in our hand is Redis. How long its round trips take is measured (`relay`), and a part begins only while the
trips that it needs still fit into the heartbeat (`HeartbeatBudget`), the first always. What does not fit comes first in the next one,
so a Redis that is far away slows the executor down and not the scheduler. With one 20 ms away a heartbeat makes one trip to
hand over, or two for results; with one nearby all parts find room. One that does not answer costs
`[podrelay] redis_timeout_s` once, then is left alone for a while. A thread would hide even that, but a scheduler
with threads must not fork, as a LocalExecutor beside us does, and what such a thread holds is neither in the scheduler's
queue nor in Redis.
"""

from __future__ import annotations

import time
from typing import Protocol

# No part begins that would end later than this after the heartbeat began: its trips, and the work on what they bring.
LONGEST_S, WORK_S = 0.05, 0.008
# About 150 launches, 40 results and 200 comparisons on a slow core.
HAND_OVER_S = 0.008
RESULTS_S = 0.006
COMPARISON_S = 0.005
WITHDRAWALS_S = 0.005
# With a Redis nearer than this, all trips that a heartbeat can make are short together: only the shares bound it.
NEARBY_S = 0.002
# In one group: small enough that the last one ends soon after the share, large enough for its round trips.
RESULTS_AT_ONCE = 40
COMPARED_AT_ONCE = 100
WITHDRAWN_AT_ONCE = 100


class TimeSlice:
    """One part's share of this heartbeat; it begins when it is made."""

    def __init__(self, seconds: float) -> None:
        self._ends_s = time.monotonic() + seconds

    @property
    def over(self) -> bool:
        return time.monotonic() >= self._ends_s


class RoundTrips(Protocol):
    """The way to Redis: trips that it made so far, and what one takes at present."""

    trips: int

    @property
    def trip_s(self) -> float: ...


class HeartbeatBudget:
    """One heartbeat, all parts of it together: a context, and what is entered within it belongs to it."""

    def __init__(self, way: RoundTrips) -> None:
        self._way = way
        self._depth = 0

    def __enter__(self) -> None:
        if self._depth == 0:
            self._begun_s = time.monotonic()
            self._before = self._way.trips
        self._depth += 1

    def __exit__(self, *raised: object) -> None:
        self._depth -= 1

    @property
    def is_redis_near(self) -> bool:
        return self._way.trip_s < NEARBY_S

    def has_room(self, trips: int = 1) -> bool:
        """Do so many round trips fit in? The first of a heartbeat always does, so that each gets something done."""
        if self._depth == 0 or self._way.trips == self._before or self.is_redis_near:
            return True
        return time.monotonic() - self._begun_s + trips * self._way.trip_s + WORK_S <= LONGEST_S
