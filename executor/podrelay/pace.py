"""How much of a heartbeat each part of the executor may use: a heartbeat stops the whole scheduler.

Each part works in small groups and begins another one only while its share lasts, the first always: the shares and one
group over each stay below 50 ms together, whatever is queued, ended or running. What is left keeps its place for the next
heartbeat, which comes at once while the scheduler has work.

What is not in our hand is Redis. A heartbeat makes one round trip to hand over and one to read results, up to two more for
results that were there, three for a comparison that is due, and more only where that finds something to mend. A slow Redis
uses up the share with the first group, so it never costs more than these; one that does not answer costs
`[podrelay] redis_timeout_s` once, then is left alone for a while (`relay`). A thread would hide even that, but a scheduler
with threads must not fork, as a LocalExecutor beside us does, and what such a thread holds is neither in the scheduler's
queue nor in Redis.
"""

from __future__ import annotations

import time

# About 200 launches, 50 results and 200 comparisons on a slow core.
HAND_OVER_S = 0.01
RESULTS_S = 0.008
COMPARISON_S = 0.005
# In one group: small enough that the last one ends soon after the share, large enough for its round trips.
RESULTS_AT_ONCE = 40
COMPARED_AT_ONCE = 100


class Share:
    """One part's share of this heartbeat; it begins when it is made."""

    def __init__(self, seconds: float) -> None:
        self._ends_s = time.monotonic() + seconds

    @property
    def over(self) -> bool:
        return time.monotonic() >= self._ends_s
