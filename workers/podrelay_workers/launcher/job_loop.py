"""The loop of one kind of jobs: claim as many as there are free slots, run a coroutine for each, repeat."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from podrelay.errors import RedisUnavailable
from podrelay_workers.launcher.job_queue import Claim, Job, JobQueue, QuotaNotice, back, wait
from podrelay_workers.launcher.leases import Leases
from podrelay_workers.launcher.throttle import Throttle
from podrelay_workers.runtime.backoff import Backoff
from podrelay_workers.runtime.shutdown import Shutdown

log = logging.getLogger(__name__)

# Without a wake-up (a lost message, a Redis that was away) the queue is looked at this often, and up to twice as seldom.
POLL_S = 0.5
# Slots that become free one by one are filled together: a claim costs as much for one job as for several. Meanwhile a
# quarter more than what is being sent is in hand.
GATHER_S = 0.005
# A job that meets a fault of ours is tried again after this long, here or by another launcher.
_FAULT_S = 5.0


class Slots(Protocol):
    in_flight: int

    @property
    def free(self) -> int: ...


class JobLoop:
    """Serves one kind of jobs until it is stopped. `work` gives each job back by itself."""

    def __init__(
        self,
        intake: JobQueue,
        holdings: Leases,
        slots: Slots,
        pauses: Throttle,
        work: Callable[[Job], Awaitable[None]],
        *,
        patience_s: float = 0.0,
        tell: Callable[[Sequence[QuotaNotice]], Awaitable[None]] | None = None,
    ) -> None:
        self._intake = intake
        self._holdings = holdings
        self._slots = slots
        self._pauses = pauses
        self._work = work
        self._patience_s = patience_s
        self._tell = tell
        self._bell = asyncio.Event()
        self._more = True
        self.tasks: set[asyncio.Task[None]] = set()

    def ring(self) -> None:
        """There may be work."""
        self._more = True
        self._bell.set()

    async def serve(self, shutdown: Shutdown) -> None:
        """Claim until it is time to stop; what is in hand then is the caller's to wait for."""
        backoff = Backoff(0.1, 2.0)
        while not shutdown.requested:
            if not self._slots.free:
                self._more = True
                await self._bell_or(shutdown, 60.0)
                await asyncio.sleep(GATHER_S)
                continue
            pause_s = self._pauses.left_s
            if pause_s:
                await shutdown.wait(pause_s)
                continue
            try:
                self._more = False
                claim = await self._intake.claim(self._slots.free, self._patience_s)
            except RedisUnavailable as error:
                if not backoff.failures:
                    log.warning("%s Trying again.", error)
                await shutdown.wait(backoff.failed())
                continue
            if backoff.failures:
                log.info("Redis answers again.")
                backoff.worked()
            self._take(claim)
            if claim.news and self._tell is not None:
                await self._tell(claim.news)
            if not claim.more and not self._more and not claim.wait_s:
                await self._bell_or(shutdown, _poll_s(claim.due_s))

    def _take(self, claim: Claim) -> None:
        self._pauses.failures = claim.failures
        if claim.wait_s:
            self._pauses.pause(claim.wait_s)
        if claim.dropped:
            log.debug("Dropped %d superseded launches", claim.dropped)
        self._more = self._more or claim.more
        self._holdings.take(claim.jobs)
        self._slots.in_flight += len(claim.jobs)
        for job in claim.jobs:
            task = asyncio.create_task(self._run(job))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    async def _run(self, job: Job) -> None:
        try:
            await self._work(job)
        except asyncio.CancelledError:
            self._holdings.give(back(job))
            raise
        except RedisUnavailable:
            self._holdings.give(back(job))
        except Exception as error:  # noqa: BLE001 - whatever a job does to us, the others go on
            log.exception("Job %s met a fault of the launcher", job.id)
            self._holdings.give(wait(job, _FAULT_S, "LauncherError", type(error).__name__))
        finally:
            self._slots.in_flight -= 1
            if self._more:
                self._bell.set()

    async def _bell_or(self, shutdown: Shutdown, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._bell.wait(), seconds)
        except asyncio.TimeoutError:
            pass
        finally:
            self._bell.clear()


def _poll_s(due_s: float) -> float:
    poll_s = POLL_S * (1 + random.random())
    return poll_s if due_s < 0 else min(poll_s, due_s + 0.005)
