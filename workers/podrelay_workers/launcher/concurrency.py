"""How many jobs a launcher works on at once: launches by the API server's latency, clean-ups by a fixed number. No I/O."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol


class Slots(Protocol):
    """How many more jobs a `JobLoop` may claim; the loop counts those in flight."""

    in_flight: int

    @property
    def free(self) -> int: ...


class FixedSlots:
    """A fixed number of clean-ups at once, so that launches and clean-ups do not starve each other."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.in_flight = 0

    @property
    def free(self) -> int:
        return self._most - self.in_flight


class Concurrency:
    """How many creations may be sent at once. While latency stays flat, the limit doubles per round trip at first, then
    grows by one.

    It halves when the server throttles or fails, once for all requests that failed together, and stays between one and the
    ceiling. Up to a quarter more jobs than that are held (`in_flight`), ready to be sent when a `slot` becomes free; no
    more, because a more urgent launch cannot overtake a held one.
    """

    def __init__(self, ceiling: int, start: int = 16) -> None:
        self.ceiling = ceiling
        self.in_flight = 0
        self._sending = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._limit = float(min(start, ceiling))
        self._doubling = True
        self._flat_s = 0.0
        self._recent_s = 0.0
        self._halved_at_s = float("-inf")
        self._peak = 0.0

    @property
    def limit(self) -> int:
        return max(1, int(self._limit))

    @property
    def free(self) -> int:
        return max(0, self.limit + self.limit // 4 - self.in_flight)

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Wait for the right to send one creation, first come, first served."""
        while self._sending >= self.limit:
            admitted = asyncio.get_running_loop().create_future()
            self._waiting.append(admitted)
            try:
                await admitted
            except asyncio.CancelledError:
                self._admit_next()  # this waiter may have been admitted at the same moment
                raise
        self._sending += 1
        try:
            yield
        finally:
            self._sending -= 1
            self._admit_next()

    def _admit_next(self) -> None:
        room = self.limit - self._sending
        while room > 0 and self._waiting:
            admitted = self._waiting.popleft()
            if not admitted.done():
                admitted.set_result(None)
                room -= 1

    def succeeded(self, latency_s: float) -> None:
        """Count an answer. The limit grows only while at least half of it is used: idle slots prove nothing."""
        self._recent_s += 0.1 * (latency_s - self._recent_s) if self._recent_s else latency_s
        # The lowest latency seen rises slowly, so that a server that became slower for good gets a new baseline.
        self._flat_s = min(self._flat_s * 1.001, latency_s) if self._flat_s else latency_s
        self._peak = max(float(self._sending), self._peak * 0.99)
        if self._peak < self._limit / 2:
            return
        if self._recent_s > 2.0 * self._flat_s + 0.1:
            self._doubling = False
            return
        self._limit = min(float(self.ceiling), self._limit + (1.0 if self._doubling else 1.0 / self._limit))

    def failed(self, began_s: float, now_s: float) -> None:
        """Halve the limit, unless this request was sent before the last halving.

        After each pause that did not help, half as many requests are sent: during a long outage one per launcher.

        :param began_s: when the request was sent; both times are monotonic.
        """
        self._doubling = False
        if began_s > self._halved_at_s:
            self._halved_at_s = now_s
            self._limit = max(1.0, self._limit / 2)
