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
    """Wait until the condition holds; its value. It is looked at every 10 ms at first, and after a second every 50 ms.

    :raises AssertionError: it does not hold in time.
    """
    began = time.monotonic()
    while True:
        value = condition()
        if value:
            return value
        waited_s = time.monotonic() - began
        if waited_s > seconds:
            raise AssertionError(f"not within {seconds} s: {what or condition}")
        await asyncio.sleep(min(max(waited_s / 20, 0.01), 0.05))
