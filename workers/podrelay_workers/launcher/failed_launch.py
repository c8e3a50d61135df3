"""Launches that fail: published first, unless their pod exists after all. Used by `launch_job`."""

from __future__ import annotations

import logging

from podrelay import metrics_table
from podrelay.protocol.messages import FailureClass, Json, LaunchRequest
from podrelay_workers.launcher.final_checks import FinalChecks
from podrelay_workers.launcher.job_queue import JobQueue
from podrelay_workers.launcher.launch_messages import launch_report
from podrelay_workers.launcher.leased_job import Disposition, Job, failed, wait
from podrelay_workers.runtime.logs import launch_fields
from podrelay_workers.runtime.metrics import Metrics

log = logging.getLogger(__name__)

# How often a launch is tried again after an error of the launcher, and the first wait; each wait is longer by the same.
FAULTS_MAX, FAULT_S = 4, 5.0


class FailedLaunches:
    """:raises RedisUnavailable: from every method; nothing was finished, and each may be repeated."""

    def __init__(self, queue: JobQueue, final_checks: FinalChecks, metrics: Metrics) -> None:
        self._queue = queue
        self._final_checks = final_checks
        self._metrics = metrics

    async def reject(
        self, job: Job, request: LaunchRequest, reason: str, message: str, pod: Json | None = None
    ) -> Disposition:
        """Fail a launch that can never succeed, unless an earlier try has created its pod after all."""
        instead = await self._final_checks.instead_of_failure(job, request, reason, message, pod)
        return instead or await self._fail(job, request, reason, message, "configuration")

    async def give_up(self, job: Job, request: LaunchRequest, reason: str, message: str) -> Disposition:
        """Fail a launch that has no pod and may wait no longer."""
        text = f"no pod after {job.waited_s:.0f} s and {job.tries + 1} tries: {message}"
        return await self._fail(job, request, reason, text, "infrastructure")

    async def overdue(self, job: Job, request: LaunchRequest, reason: str, message: str) -> Disposition:
        """Give up a launch that waited too long, unless an earlier try has created its pod after all."""
        instead = await self._final_checks.instead_of_failure(job, request, reason, message)
        return instead or await self.give_up(job, request, reason, message)

    async def retry(self, job: Job, request: LaunchRequest, error: str) -> Disposition:
        """Try again after an error in the launcher: the pod may exist, and another launcher, or a newer one, may succeed."""
        if job.tries < FAULTS_MAX:
            return wait(job, FAULT_S * (job.tries + 1), "LauncherError", error)
        return await self.reject(job, request, "LauncherError", f"{error} in each launcher that tried; see their logs")

    async def _fail(
        self, job: Job, request: LaunchRequest, reason: str, message: str, failure_class: FailureClass
    ) -> Disposition:
        """Publish the failure; only then may the job leave Redis (invariant I2, docs/architecture.md)."""
        found = {"namespace": request.namespace, "reason": reason, "message": message}
        log.warning("Launch failed", extra=launch_fields(request, **found))
        await self._queue.publish(launch_report(request, "failed", reason, message, failure_class))
        self._metrics.count(metrics_table.LAUNCH_FAILURES, reason)
        return failed(job, f"{reason}: {message}")
