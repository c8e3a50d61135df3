"""Wait for a condition in a test that runs an event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any


class LoopStall:
    """The longest time for which the event loop did not run: what a busy machine adds to any delay seen in a test."""

    def __init__(self) -> None:
        self.longest_s = 0.0

    async def __aenter__(self) -> LoopStall:
        self._ticking = asyncio.create_task(self._tick(), name="measure stalls")
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._ticking.cancel()

    async def _tick(self) -> None:
        while True:
            before_s = time.monotonic()
            await asyncio.sleep(0.01)
            self.longest_s = max(self.longest_s, time.monotonic() - before_s - 0.01)


async def until(condition: Callable[[], Any], seconds: float = 10.0, what: str = "") -> Any:
    """Wait until the condition holds, looking every 10 ms; its value.

    :raises AssertionError: it does not hold in time.
    """
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what or condition}")
        await asyncio.sleep(0.01)
