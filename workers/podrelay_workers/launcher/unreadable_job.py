"""A job whose payload this launcher cannot read: of another format, encrypted with a key that it lacks, forged or damaged."""

from __future__ import annotations

import logging

from podrelay.errors import DecryptionError, MessageError, QuarantineKind, UnknownFormat
from podrelay_workers.launcher.job_queue import JobQueue
from podrelay_workers.launcher.leased_job import Disposition, Job, failed, wait
from podrelay_workers.runtime.key_announcer import KeyAnnouncer

log = logging.getLogger(__name__)

# Another launcher may have the key, or this one after its restart.
_KEY_S = 2.0
# Another launcher may be of the release that reads the format, or this one after its upgrade.
_FORMAT_S = 5.0
# What has waited for long is tried more rarely: very many such launches leave launchers the time for others.
_RARELY_S = 60.0
UPGRADE = "upgrade the launchers before the schedulers"


class UnreadableJobs:
    """Decides what becomes of jobs that cannot be read. Each unknown format is logged once."""

    def __init__(self, queue: JobQueue, announcer: KeyAnnouncer) -> None:
        self._queue = queue
        self._announcer = announcer
        self._logged: set[str] = set()

    async def handle(self, job: Job, error: MessageError) -> Disposition:
        """Let the job wait if another launcher may read it, now or after an upgrade; else quarantine it.

        :raises RedisUnavailable: put the job back.
        """
        if isinstance(error, UnknownFormat):
            return self._keep(job, str(error))
        lacking = await self._announcer.compare() if isinstance(error, DecryptionError) else ()
        if lacking:
            return wait(job, _again_s(job, _KEY_S), "KeyMismatch", "; ".join(lacking)[:500], tried=False)
        return await self.quarantine(job, error.kind, str(error))

    async def quarantine(self, job: Job, kind: QuarantineKind, why: str) -> Disposition:
        """:raises RedisUnavailable: put the job back."""
        log.warning("Job %s quarantined: %s", job.id, why)
        await self._queue.quarantine(job, kind, why)
        return failed(job, f"Quarantined: {why}")

    def _keep(self, job: Job, why: str) -> Disposition:
        if why not in self._logged:
            self._logged.add(why)
            log.error("Job %s and others like it wait: %s; %s", job.id, why, UPGRADE)
        return wait(job, _again_s(job, _FORMAT_S), "UnknownFormat", f"{why}; {UPGRADE}", tried=False)


def _again_s(job: Job, first_s: float) -> float:
    """Seconds until the next try; always the same for a clean-up, whose age is unknown."""
    return min(_RARELY_S, max(first_s, job.waited_s / 2)) if job.offered_at_s else first_s
