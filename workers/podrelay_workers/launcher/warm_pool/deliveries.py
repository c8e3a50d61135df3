"""Waits until warm pods have taken the workloads that were delivered to them. Used by `assignment`."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Literal

from podrelay.errors import RedisUnavailable
from podrelay.protocol.messages import WarmPod
from podrelay.store.warm_pool import WarmPool

# How often the mailboxes are looked at, all of them in one round trip, while anybody waits.
POLL_S = 0.02
# While Redis does not answer.
_UNAVAILABLE_S = 0.2


# unknown: not as far as is known, but Redis did not answer at times. It may have lost that the pod has taken its workload.
Taken = Literal["taken", "not_taken", "unknown"]


@dataclass
class _Wait:
    pod: WarmPod
    answered: bool = True


class Deliveries:
    """One loop for all launches that wait. It runs only while there are any."""

    def __init__(self, pool: WarmPool) -> None:
        self._pool = pool
        self._waiting: dict[asyncio.Future[None], _Wait] = {}
        self._loop: asyncio.Task[None] | None = None

    async def wait(self, pod: WarmPod, timeout_s: float) -> Taken:
        """Wait until this pod has its workload, at most this long."""
        taken = asyncio.get_running_loop().create_future()
        wait = self._waiting[taken] = _Wait(pod)
        if self._loop is None or self._loop.done():
            self._loop = asyncio.create_task(self._poll(), name="wait for warm pods to take workloads")
        try:
            await asyncio.wait_for(asyncio.shield(taken), timeout_s)
            return "taken"
        except asyncio.TimeoutError:
            return "not_taken" if wait.answered else "unknown"
        finally:
            self._waiting.pop(taken, None)
            taken.cancel()

    async def _poll(self) -> None:
        while self._waiting:
            began_s = time.monotonic()
            try:
                await self._look(dict(self._waiting))
                pause_s = POLL_S
            except RedisUnavailable:
                pause_s = _UNAVAILABLE_S
                for wait in self._waiting.values():
                    wait.answered = False
            await asyncio.sleep(max(0.0, pause_s - (time.monotonic() - began_s)))

    async def _look(self, waiting: dict[asyncio.Future[None], _Wait]) -> None:
        answers = await self._pool.taken([wait.pod for wait in waiting.values()])
        for future, taken in zip(waiting, answers, strict=True):
            if taken and not future.done():
                future.set_result(None)
