"""Wait for a condition in a test that runs an event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any


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
