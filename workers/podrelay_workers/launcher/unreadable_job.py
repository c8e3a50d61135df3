"""A job that this launcher cannot decrypt: forged or damaged, or encrypted with a key that this launcher lacks."""

from __future__ import annotations

import logging

from podrelay.errors import DecryptionError
from podrelay_workers.launcher.job_queue import JobQueue
from podrelay_workers.launcher.leased_job import Disposition, Job, failed, wait
from podrelay_workers.runtime.key_announcer import KeyAnnouncer

log = logging.getLogger(__name__)

# Another launcher may have the key, or this one after its restart.
_KEY_S = 2.0


async def handle_unreadable(queue: JobQueue, announcer: KeyAnnouncer, job: Job, error: DecryptionError) -> Disposition:
    """Let the job wait if another process encrypts with a key that this launcher lacks; else quarantine it.

    :raises RedisUnavailable: put the job back.
    """
    lacking = await announcer.compare()
    if lacking:
        return wait(job, _KEY_S, "KeyMismatch", "; ".join(lacking)[:500], tried=False)
    log.warning("Job %s quarantined: %s", job.id, error)
    await queue.quarantine(job, error.kind, str(error))
    return failed(job, f"Quarantined: {error}")
