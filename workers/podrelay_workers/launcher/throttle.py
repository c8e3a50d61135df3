"""What this launcher knows of the waits that the API server asked for. Redis knows for all; this is what acts at once."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field

from podrelay.errors import RedisUnavailable
from podrelay_workers.launcher.job_queue import JobQueue

# How soon Redis hears again of a pause that it forgot, and how much shorter than ours the one it knows may be.
REMIND_S = 0.5


@dataclass
class Throttle:
    """Until when (monotonic) nothing may be created, in the cluster or in one namespace. `failures`: see `throttle.lua`."""

    failures: int = 0
    _until_s: float = 0.0
    _namespaces: dict[str, float] = field(default_factory=dict)

    def pause(self, seconds: float) -> None:
        self._until_s = max(self._until_s, time.monotonic() + seconds)

    @property
    def left_s(self) -> float:
        return max(0.0, self._until_s - time.monotonic())

    def close(self, namespace: str, since_s: float, seconds: float) -> None:
        """:param since_s: monotonic time from before Redis was told, so that the namespace opens here no later than there."""
        self._namespaces[namespace] = since_s + seconds

    def closed_s(self, namespace: str) -> float:
        """Seconds for which nothing is created in this namespace."""
        if not self._namespaces:
            return 0.0
        left_s = self._namespaces.get(namespace, 0.0) - time.monotonic()
        if left_s <= 0.0:
            self._namespaces.pop(namespace, None)
            return 0.0
        return left_s


async def remind_forever(pauses: Throttle, intake: JobQueue) -> None:
    """Tell a Redis that lost its data of a long pause again, for launchers that start or did not hear of it.

    A last second is left out: it may be that of RQ's suspension (`claim.lua`), which is not ours to prolong.
    """
    while True:
        await asyncio.sleep(REMIND_S)
        left_s = pauses.left_s
        if left_s > 1.0:
            with contextlib.suppress(RedisUnavailable):
                await intake.throttle("remind", x=left_s, y=REMIND_S, reason="Throttled")
