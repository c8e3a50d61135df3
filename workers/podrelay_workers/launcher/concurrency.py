"""How many requests a launcher sends at once: one limit for launches and clean-ups, which the same API server serves. No I/O.

Additive increase, multiplicative decrease, per process: only a Retry-After is shared with other launchers (`throttle`).
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from dataclasses import dataclass

from podrelay_workers.launcher.leased_job import Kind

# So many at first: a server with Kubernetes' defaults serves 200 changes at once, and several launchers may start together.
START = 32
# While both kinds wait, each so many-th slot goes to a clean-up: launches come first, but pods do not pile up either.
CLEANUP_TURN = 4
# How long the limit stays at what the server accepted before it grows again. Each try to send more that is refused costs
# every launcher a pause (Retry-After: 1 from priority and fairness), so the time doubles as long as the tries fail.
HOLD_FIRST_S, HOLD_MOST_S = 10.0, 60.0
# How long a process whose only request was refused leaves the server to the others: several launchers may share one seat.
QUIET_FIRST_S, QUIET_MOST_S = 2.0, 15.0
QUIET_FORGET_S = 60.0


@dataclass
class _Latency:
    """Of one kind of requests: the lowest, and the recent average."""

    flat_s: float = 0.0
    recent_s: float = 0.0

    def add(self, latency_s: float) -> None:
        self.recent_s += 0.1 * (latency_s - self.recent_s) if self.recent_s else latency_s
        # The lowest latency seen rises slowly, so that a server that became slower for good gets a new baseline.
        self.flat_s = min(self.flat_s * 1.001, latency_s) if self.flat_s else latency_s

    @property
    def rises(self) -> bool:
        return self.recent_s > 2.0 * self.flat_s + 0.1


class Concurrency:
    """How many requests may be sent at once. While latency stays flat, the limit doubles per round trip at first, then
    grows by one.

    It halves when the server refuses (429) or fails, once for all requests that were sent together, and stays between one
    and the ceiling. After a 429 it goes no further than to the number of requests that the server accepted beside the
    refused ones; it returns to that number quickly, and exceeds it only after `HOLD_FIRST_S` or more.
    """

    def __init__(self, launches: int, cleanups: int, start: int = START) -> None:
        """:param launches, cleanups: the most of each kind at once."""
        self._most: dict[Kind, int] = {"launch": launches, "cleanup": cleanups}
        self.sending = 0
        self._sending: dict[Kind, int] = {"launch": 0, "cleanup": 0}
        self._waiting: dict[Kind, deque[asyncio.Future[None]]] = {"launch": deque(), "cleanup": deque()}
        self._latency: dict[Kind, _Latency] = {"launch": _Latency(), "cleanup": _Latency()}
        self._ceiling = launches + cleanups
        self._limit = float(min(start, self._ceiling))
        self._doubling = True
        self._turn = 0
        self._peak = 0.0
        self._decreased_at_s = float("-inf")
        # The last refusal: when, at which limit, and how many requests in flight with the refused ones were accepted.
        self._refused_at_s = float("-inf")
        self._refused_limit = 0.0
        self._accepted = 0
        self._hold_s = 0.0
        self._quiet_s = 0.0
        self._quiet_at_s = float("-inf")
        self._hold_until_s = float("-inf")

    @property
    def limit(self) -> int:
        return max(1, int(self._limit))

    def limit_of(self, kind: Kind) -> int:
        return min(self.limit, self._most[kind])

    # --- slots --------------------------------------------------------------------------------------------------------
    def slot(self, kind: Kind) -> _Slot:
        """Wait for the right to send one request at a time: first come, first served within a kind, launches first."""
        return _Slot(self, kind)

    async def acquire(self, kind: Kind) -> None:
        """The first half of `slot`."""
        if self._has_room(kind) and not self._waiting[kind]:
            self._begin(kind)
            return
        admitted = asyncio.get_running_loop().create_future()
        self._waiting[kind].append(admitted)
        self._admit()
        try:
            await admitted
        except asyncio.CancelledError:
            if not admitted.cancelled():  # admitted at the same moment
                self.release(kind)
            raise

    def release(self, kind: Kind) -> None:
        """The second half of `slot`."""
        self.sending -= 1
        self._sending[kind] -= 1
        self._admit()

    def _begin(self, kind: Kind) -> None:
        self.sending += 1
        self._sending[kind] += 1

    def _admit(self) -> None:
        while kind := self._next_kind():
            admitted = self._waiting[kind].popleft()
            if not admitted.done():
                self._begin(kind)
                admitted.set_result(None)

    def _next_kind(self) -> Kind | None:
        """Whose waiter is admitted next; None if there is no room or nobody waits."""
        launch = bool(self._waiting["launch"]) and self._has_room("launch")
        cleanup = bool(self._waiting["cleanup"]) and self._has_room("cleanup")
        if not (launch and cleanup):
            return "launch" if launch else "cleanup" if cleanup else None
        self._turn = (self._turn + 1) % CLEANUP_TURN
        return "launch" if self._turn else "cleanup"

    def _has_room(self, kind: Kind) -> bool:
        return self.sending < self.limit and self._sending[kind] < self._most[kind]

    # --- answers: times are monotonic, and each call is made before its slot is left ----------------------------------
    def succeeded(self, kind: Kind, began_s: float, now_s: float) -> None:
        """Count an answer that shows no overload."""
        if began_s <= self._decreased_at_s:
            return
        latency = self._latency[kind]
        latency.add(now_s - began_s)
        self._peak = max(float(self.sending), self._peak * 0.99)
        # Idle slots prove nothing about the server.
        if self._peak >= self._limit / 2:
            self._grow(latency, now_s)

    def _grow(self, latency: _Latency, now_s: float) -> None:
        if latency.rises:
            self._doubling = False
        elif self._limit < self._accepted:
            self._limit = min(float(self._accepted), self._limit + 1.0)
        elif now_s >= self._hold_until_s:
            self._limit = min(float(self._ceiling), self._limit + (1.0 if self._doubling else 1.0 / self._limit))

    def failed(self, began_s: float, now_s: float, *, refused: bool = False) -> float:
        """Halve the limit, unless this request was sent before the last decrease.

        After each pause that did not help, half as many requests are sent: during a long outage one per launcher.

        :param began_s: when the request was sent.
        :param refused: with 429: the other requests in flight, as far as they are accepted, are what the server takes.
        :return: seconds for which this process should send nothing; positive if it sends one request at a time, and even
            that one was refused.
        """
        self._doubling = False
        only = refused and self.limit == 1 and began_s > self._decreased_at_s
        if refused and began_s > self._refused_at_s:
            self._hold(now_s)
        if began_s > self._decreased_at_s:
            self._decreased_at_s = now_s
            self._limit = max(1.0, self._limit / 2)
        if refused:
            self._not_accepted()
        return self._next_quiet_s(now_s) if only else 0.0

    def _next_quiet_s(self, now_s: float) -> float:
        again = now_s - self._quiet_at_s < QUIET_FORGET_S
        self._quiet_s = min(QUIET_MOST_S, self._quiet_s * 2) if again else QUIET_FIRST_S
        self._quiet_at_s = now_s
        return self._quiet_s * (0.5 + random.random())

    def _hold(self, now_s: float) -> None:
        again = self._limit <= self._refused_limit + 1.0
        self._hold_s = min(HOLD_MOST_S, self._hold_s * 2) if again else HOLD_FIRST_S
        self._hold_until_s = now_s + self._hold_s
        self._refused_at_s, self._refused_limit, self._accepted = now_s, self._limit, self.sending

    def stopped(self, began_s: float) -> None:
        """A request that was not sent in the end: it does not count among those that the server accepted."""
        if began_s <= self._refused_at_s:
            self._not_accepted()

    def _not_accepted(self) -> None:
        self._accepted = max(1, self._accepted - 1)
        self._limit = min(self._limit, float(self._accepted))


class _Slot:
    """What `slot` returns. A generator would cost three times as much, once for each request."""

    __slots__ = ("_concurrency", "_kind")

    def __init__(self, concurrency: Concurrency, kind: Kind) -> None:
        self._concurrency = concurrency
        self._kind: Kind = kind

    async def __aenter__(self) -> None:
        await self._concurrency.acquire(self._kind)

    async def __aexit__(self, *exc: object) -> None:
        self._concurrency.release(self._kind)


class JobSlots:
    """How many more jobs of one kind a `JobLoop` may claim; the loop counts those in flight.

    Some more than may be sent are held, ready for the next slots. Of launches half as many or at least two; no more, because
    a more urgent launch cannot overtake a held one. Of clean-ups, which are not urgent, as many again.
    """

    def __init__(self, concurrency: Concurrency, kind: Kind) -> None:
        self._concurrency = concurrency
        self._kind: Kind = kind
        self.in_flight = 0

    @property
    def free(self) -> int:
        return max(0, self._concurrency.limit_of(self._kind) + self._spare - self.in_flight)

    @property
    def claimable(self) -> int:
        """How many to claim now: 0 while at least half of those held beyond what may be sent are left. A claim costs as much
        for one job as for several, and meanwhile no slot is idle.
        """
        free = self.free
        return free if free >= max(1, self._spare // 2) else 0

    @property
    def _spare(self) -> int:
        limit = self._concurrency.limit_of(self._kind)
        return max(2, limit // 2 if self._kind == "launch" else limit)
