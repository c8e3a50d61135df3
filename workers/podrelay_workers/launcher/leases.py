"""The jobs that a launcher holds: their leases are renewed, their outcomes written in batches. Used by the launcher."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable

from podrelay.errors import RedisUnavailable
from podrelay_workers.launcher.job_queue import CHUNK, JobQueue
from podrelay_workers.launcher.leased_job import Disposition, Job, back
from podrelay_workers.runtime.backoff import Backoff

log = logging.getLogger(__name__)

# Outcomes are collected for this long: a round trip to Redis costs as much for one as for many. Nothing waits for those of
# clean-ups.
GATHER_S, GATHER_CLEANUPS_S = 0.02, 0.1


class Leases:
    """The held jobs of one kind."""

    def __init__(
        self, queue: JobQueue, lease_s: float, discard: Callable[[Disposition], Disposition] | None = None
    ) -> None:
        """:param discard: what to do instead with a created pod whose launch was withdrawn or superseded meanwhile."""
        self._queue = queue
        self._lease_s = lease_s
        self._discard = discard
        self._gather_s = GATHER_S if queue.kind == "launch" else GATHER_CLEANUPS_S
        self._held: dict[str, Job] = {}
        self._unwritten: list[Disposition] = []
        self._notified = asyncio.Event()
        self.finished = 0
        self.failed = 0

    def __len__(self) -> int:
        return len(self._held)

    def hold(self, jobs: Iterable[Job]) -> None:
        """Renew the leases of these jobs until they are finished or dropped."""
        self._held.update((job.id, job) for job in jobs)

    def finish(self, disposition: Disposition) -> None:
        """Write what became of a job, with the next batch. Its lease is renewed until Redis has confirmed that."""
        disposition.job.given = True
        self._unwritten.append(disposition)
        self._notified.set()

    def finish_or_release(self, job: Job, disposition: Disposition | None) -> None:
        """Finish the job; None: nothing was done, because the lease was lost or the launch was superseded."""
        if disposition is not None:
            self.finish(disposition)
        elif job.lost:
            self.drop(job)
        else:
            self.finish(back(job))  # the next claim drops it if it was superseded

    def drop(self, job: Job) -> None:
        """Stop renewing the lease: another launcher holds the job, or will."""
        if self._held.get(job.id) is job:
            del self._held[job.id]

    # --- leases -------------------------------------------------------------------------------------------------------
    async def holds(self, job: Job) -> bool:
        """May an effect of this job begin now? False if another launcher may hold the lease, or the job was superseded.

        A process that was suspended finds out here, before it has any effect. No round trip is needed
        while more than a third of the lease is left.

        :raises RedisUnavailable: the answer is unknown.
        """
        if job.lost or job.unwanted or self.certainly_holds(job):
            return not (job.lost or job.unwanted)
        return (await self._queue.renew([job]))[0] == 1

    def certainly_holds(self, job: Job) -> bool:
        """Is the lease certainly ours, without asking Redis?"""
        return not (job.lost or job.unwanted) and time.monotonic() - job.held_at_s < self._lease_s * 2 / 3

    async def renew(self) -> None:
        """Renew every lease; drop the jobs whose lease was lost.

        :raises RedisUnavailable: what was renewed is unknown; it may be repeated.
        """
        jobs = list(self._held.values())
        if not jobs:
            return
        for job, answer in zip(jobs, await self._queue.renew(jobs), strict=True):
            if answer == 0 and not job.given:  # the outcome of a given job may just have been written
                log.info("Lease lost for job %s; another launcher holds it", job.id)
                self.drop(job)

    async def renew_forever(self) -> None:
        """Renew the leases every third of their length, and sooner after a failure."""
        backoff = Backoff(0.1, min(1.0, self._lease_s / 6))
        while True:
            try:
                await self.renew()
                backoff.worked()
                await asyncio.sleep(self._lease_s / 3)
            except RedisUnavailable:
                await asyncio.sleep(backoff.failed())

    # --- outcomes -----------------------------------------------------------------------------------------------------
    async def flush(self) -> None:
        """Write the outcomes of finished jobs.

        :raises RedisUnavailable: what is left, or was refused, is written by the next call; its leases are renewed.
        """
        refused: list[Disposition] = []
        error = ""
        while self._unwritten:
            batch = self._unwritten[:CHUNK]
            answers = await self._queue.finish(batch)
            del self._unwritten[: len(batch)]
            for disposition, answer in zip(batch, answers, strict=True):
                if answer.startswith("refused "):
                    refused.append(disposition)
                    error = answer.removeprefix("refused ")
                else:
                    self._written(disposition, answer)
        if refused:
            self._unwritten += refused
            refusal = self._queue.refusal(error)
            self._queue.outages.failed(refusal)
            raise refusal

    def _written(self, disposition: Disposition, answer: str) -> None:
        if answer == "unwanted" and self._discard is not None:
            self.finish(self._discard(disposition))
            return
        job_id = disposition.job.id
        if disposition.what != "order":
            self.drop(disposition.job)
        if answer == "broken":
            log.error("Could not write the outcome of job %s: what Redis holds about it is not podrelay's", job_id)
        elif answer == "lost" and disposition.what != "back":
            log.info("Outcome of job %s came too late; another launcher holds it", job_id)
        elif disposition.what in ("created", "done"):
            self.finished += 1
        elif disposition.what == "failed":
            self.failed += 1

    async def flush_forever(self) -> None:
        """Write outcomes soon after they come in; while Redis is unavailable they are kept."""
        backoff = Backoff(0.1, 2.0)
        while True:
            await self._notified.wait()
            await asyncio.sleep(self._gather_s)
            self._notified.clear()
            try:
                await self.flush()
                backoff.worked()
            except RedisUnavailable:
                self._notified.set()
                await asyncio.sleep(backoff.failed())
