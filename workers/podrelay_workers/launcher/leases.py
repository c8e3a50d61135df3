"""The jobs a launcher has in hand: renewed while they are worked on, given back in batches with what became of them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable

from podrelay.errors import RedisUnavailable
from podrelay_workers.launcher.job_queue import CHUNK, Disposition, Job, JobQueue, back
from podrelay_workers.runtime.backoff import Backoff

log = logging.getLogger(__name__)

# Outcomes wait this long for company: a round trip to Redis costs as much for one as for many.
GATHER_S = 0.01


class Leases:
    """The jobs of one kind. `unwanted` answers for a pod that was made, but is not wanted any more."""

    def __init__(
        self, intake: JobQueue, lease_s: float, unwanted: Callable[[Disposition], Disposition] | None = None
    ) -> None:
        self._intake = intake
        self._lease_s = lease_s
        self._unwanted = unwanted
        self._held: dict[str, Job] = {}
        self._given: list[Disposition] = []
        self._bell = asyncio.Event()
        self.finished = 0
        self.failed = 0

    def __len__(self) -> int:
        return len(self._held)

    @property
    def empty(self) -> bool:
        return not self._held and not self._given

    def take(self, jobs: Iterable[Job]) -> None:
        self._held.update((job.id, job) for job in jobs)

    def give(self, outcome: Disposition) -> None:
        """Give a job back, soon. Its lease is renewed until Redis has said that it knows."""
        outcome.job.given = True
        self._given.append(outcome)
        self._bell.set()

    def settle(self, job: Job, outcome: Disposition | None) -> None:
        """Give it back; None: nothing was done, because it is not ours or not wanted any more."""
        if outcome is not None:
            self.give(outcome)
        elif job.lost:
            self.forget(job)
        else:
            self.give(back(job))  # the next claim drops it, if nobody wants it

    def forget(self, job: Job) -> None:
        """Another launcher has it."""
        if self._held.get(job.id) is job:
            del self._held[job.id]

    # --- leases -------------------------------------------------------------------------------------------------------
    async def fresh(self, job: Job) -> bool:
        """May an effect begin now? False where the lease may be another launcher's, or nobody wants the effect any more.

        A process that was stopped for a while finds out here, before it does anything. A lease with more than a third
        of its time left needs no question to Redis.

        :raises RedisUnavailable: it cannot be said.
        """
        if job.lost or job.unwanted or self.certain(job):
            return not (job.lost or job.unwanted)
        return (await self._intake.renew([job]))[0] == 1

    def certain(self, job: Job) -> bool:
        """Is the lease ours without asking?"""
        return not (job.lost or job.unwanted) and time.monotonic() - job.held_at_s < self._lease_s * 2 / 3

    async def renew(self) -> None:
        """Prolong every lease; what is lost is not ours any more."""
        jobs = list(self._held.values())
        if not jobs:
            return
        for job, answer in zip(jobs, await self._intake.renew(jobs), strict=True):
            if answer == 0 and not job.given:  # what is given may have been taken a moment ago
                log.info("Lost the lease of %s: another launcher has it.", job.id)
                self.forget(job)

    async def renew_forever(self) -> None:
        """Renew every third of the lease; a Redis that does not answer is asked again soon."""
        backoff = Backoff(0.1, min(1.0, self._lease_s / 6))
        while True:
            try:
                await self.renew()
                backoff.worked()
                await asyncio.sleep(self._lease_s / 3)
            except RedisUnavailable:
                await asyncio.sleep(backoff.failed())

    # --- giving back --------------------------------------------------------------------------------------------------
    async def flush(self) -> None:
        """Write down what was given.

        :raises RedisUnavailable: the rest stays for the next time.
        """
        while self._given:
            batch = self._given[:CHUNK]
            answers = await self._intake.finish(batch)
            del self._given[: len(batch)]
            for outcome, answer in zip(batch, answers, strict=True):
                self._answered(outcome, answer)

    def _answered(self, outcome: Disposition, answer: str) -> None:
        if answer == "unwanted" and self._unwanted is not None:
            self.give(self._unwanted(outcome))
            return
        if outcome.what != "order":
            self.forget(outcome.job)
        if answer == "broken":
            log.error("The outcome of %s cannot be written: its keys in Redis are not of our making.", outcome.job.id)
        elif answer == "lost" and outcome.what != "back":
            log.info("The outcome of %s came too late: another launcher has it.", outcome.job.id)
        elif outcome.what in ("created", "done"):
            self.finished += 1
        elif outcome.what == "failed":
            self.failed += 1

    async def flush_forever(self) -> None:
        backoff = Backoff(0.1, 2.0)
        while True:
            await self._bell.wait()
            await asyncio.sleep(GATHER_S)
            self._bell.clear()
            try:
                await self.flush()
                backoff.worked()
            except RedisUnavailable as error:
                if not backoff.failures:
                    log.warning("%s Outcomes are kept and written when it does.", error)
                self._bell.set()
                await asyncio.sleep(backoff.failed())
