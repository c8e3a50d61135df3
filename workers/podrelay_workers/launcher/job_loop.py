"""The loop of one kind of jobs: claim as many as there are free slots, start a task for each, repeat. Used by `launcher`."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence

from podrelay.errors import RedisUnavailable
from podrelay_workers.launcher.concurrency import JobSlots
from podrelay_workers.launcher.job_queue import JobQueue
from podrelay_workers.launcher.leased_job import Claim, Disposition, Job, QuotaNotice, back, wait
from podrelay_workers.launcher.leases import Leases
from podrelay_workers.launcher.throttle import Pause, Throttle
from podrelay_workers.runtime.backoff import Backoff
from podrelay_workers.runtime.shutdown import Shutdown

log = logging.getLogger(__name__)

# Without a wake-up (a lost message, an unavailable Redis) the queue is polled after this time, at most twice as long.
POLL_S = 0.5
# Slots that become free one by one are filled together (`JobSlots.claimable`). The jobs held beyond those being sent bridge
# this time.
GATHER_S = 0.005
# While too few slots are free, the loop waits for a job to end; this bounds the wait.
_NO_SLOT_S = 60.0
SUSPENDED = "RQ is suspended on this Redis; nothing is taken until: rq resume"
# A job that fails because of an error in the launcher is tried again after this time, here or by another launcher.
_FAULT_S = 5.0


class JobLoop:
    """Serves one kind of jobs until shutdown. `handle` finishes or puts back each job itself."""

    def __init__(
        self,
        queue: JobQueue,
        leases: Leases,
        slots: JobSlots,
        throttle: Throttle,
        pause: Pause,
        handle: Callable[[Job], Awaitable[None]],
        *,
        wait_limit_s: float = 0.0,
        report_waits: Callable[[Sequence[QuotaNotice]], Awaitable[None]] | None = None,
        held: Callable[[], bool] = lambda: False,
    ) -> None:
        """:param pause: the one of `throttle` that stops this kind of jobs.
        :param wait_limit_s: how long a launch may wait for quota before it is handed out to be failed.
        :param report_waits: receives the launches whose wait for quota should be reported to users.
        :param held: while it returns True, nothing is claimed; `notify` after a change.
        """
        self._queue = queue
        self._leases = leases
        self._slots = slots
        self._throttle = throttle
        self._pause = pause
        self._handle = handle
        self._wait_limit_s = wait_limit_s
        self._report_waits = report_waits
        self._held = held
        self._notified = asyncio.Event()
        self._more = True
        self._suspended = False
        self.tasks: set[asyncio.Task[None]] = set()

    def notify(self) -> None:
        """Check the queue soon: there may be jobs."""
        self._more = True
        self._notified.set()

    async def run(self, shutdown: Shutdown) -> None:
        """Claim until shutdown is requested; `tasks` then holds the jobs in flight, which the caller awaits."""
        backoff = Backoff(0.1, 2.0)
        while not shutdown.requested:
            if not self._slots.claimable or self._held():
                self._more = True
                await self._wait_notified(_NO_SLOT_S)
                await asyncio.sleep(GATHER_S)
            elif pause_s := self._pause.remaining_s:
                await shutdown.wait(pause_s)
            else:
                await self._claim(shutdown, backoff)

    async def _claim(self, shutdown: Shutdown, backoff: Backoff) -> None:
        """Claim once and start the jobs; without more jobs in the queue, wait for a wake-up or the next poll."""
        try:
            self._more = False
            claim = await self._queue.claim(self._slots.free, self._wait_limit_s)
        except RedisUnavailable:
            await shutdown.wait(backoff.failed())
            return
        backoff.worked()
        self._start(claim)
        if claim.notices and self._report_waits is not None:
            await self._report_waits(claim.notices)
        if not claim.more and not self._more and not claim.wait_s:
            await self._wait_notified(_poll_s(claim.due_s))

    def _start(self, claim: Claim) -> None:
        self._throttle.failures = claim.failures
        if claim.wait_s:
            self._pause.extend(claim.wait_s, "Suspended" if claim.suspended else "")
        if claim.suspended != self._suspended:
            self._suspended = claim.suspended
            log.warning("%s: %s", self._queue.kind, SUSPENDED if claim.suspended else "RQ goes on")
        if claim.dropped:
            log.debug("Dropped %d superseded launches", claim.dropped)
        self._more = self._more or claim.more
        self._leases.hold(claim.jobs)
        self._slots.in_flight += len(claim.jobs)
        for job in claim.jobs:
            task = asyncio.create_task(self._run_job(job), name=f"job {job.id}")
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    async def _run_job(self, job: Job) -> None:
        try:
            await self._handle(job)
        except asyncio.CancelledError:
            self._leases.finish(_given_up(job))
            raise
        except RedisUnavailable:
            self._leases.finish(_given_up(job))
        except Exception as error:  # noqa: BLE001 - an error of one job must not stop the others
            log.exception("Job %s failed because of an error in the launcher; trying again in %.0f s", job.id, _FAULT_S)
            self._leases.finish(wait(job, _FAULT_S, "LauncherError", type(error).__name__))
        finally:
            self._slots.in_flight -= 1
            if self._more:
                self._notified.set()

    async def _wait_notified(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._notified.wait(), seconds)
        except asyncio.TimeoutError:
            pass
        finally:
            self._notified.clear()


def _given_up(job: Job) -> Disposition:
    """For a job that was stopped: a request that was sent counts as a try, because its effect is unknown."""
    return wait(job, 0.0, "Interrupted", "the launcher stopped during a request") if job.sent else back(job)


def _poll_s(due_s: float) -> float:
    """Seconds until the next poll, sooner where a waiting job is due. The random part keeps launchers apart."""
    poll_s = POLL_S * (1 + random.random())
    return poll_s if due_s < 0 else min(poll_s, due_s + 0.005)
