"""One launch, from the claimed job to its outcome: open the job, check it, render the pod, create it, handle the answer.

Used by the launcher.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Sequence
from dataclasses import replace

from podrelay import metrics_table
from podrelay.errors import MessageError, RedisUnavailable
from podrelay.metrics_table import Metric
from podrelay.protocol.messages import Json, LaunchRequest
from podrelay_workers.kube.client import PodClient
from podrelay_workers.kube.errors import ApiError, Overloaded, Throttled
from podrelay_workers.kube.send_guard import SendBlocked
from podrelay_workers.launcher.concurrency import Concurrency
from podrelay_workers.launcher.error_policy import (
    ApiServerHealth,
    ErrorPolicy,
    classify_error,
    may_settle,
    secret_policy,
)
from podrelay_workers.launcher.failed_launch import FAULT_S, FailedLaunches
from podrelay_workers.launcher.final_checks import FinalChecks
from podrelay_workers.launcher.job_queue import PROBE_S, REPORT_INTERVAL_S, JobQueue
from podrelay_workers.launcher.launch_messages import discard_of, launch_report, quota_report, revocation_of
from podrelay_workers.launcher.leased_job import (
    Disposition,
    Job,
    QuotaNotice,
    back,
    created_pod,
    done,
    failed,
    wait,
)
from podrelay_workers.launcher.leases import Leases
from podrelay_workers.launcher.pod_creation import PodCreator, Unconfirmed
from podrelay_workers.launcher.pod_manifest import ManifestRenderer
from podrelay_workers.launcher.pod_ownership import namespace_of
from podrelay_workers.launcher.pod_template import ManifestError
from podrelay_workers.launcher.redaction import redact
from podrelay_workers.launcher.refusals import Refusals
from podrelay_workers.launcher.shared_waits import SharedWaits
from podrelay_workers.launcher.throttle import Throttle
from podrelay_workers.launcher.token_check import explain, is_token_ending, renewal_pause_s
from podrelay_workers.launcher.unreadable_job import UnreadableJobs
from podrelay_workers.launcher.wait_limit import WaitLimit
from podrelay_workers.launcher.warm_pool.assignment import Assigned, Cold, WarmStarter
from podrelay_workers.launcher.workload_secret import secret_name_of, secret_of
from podrelay_workers.runtime.backoff import exponential_s
from podrelay_workers.runtime.logs import launch_fields
from podrelay_workers.runtime.metrics import Metrics
from podrelay_workers.runtime.recent import Recent
from podrelay_workers.runtime.shutdown import Shutdown

log = logging.getLogger(__name__)

# A shorter wait is not reported to users.
_REPORT_AFTER_S = 5.0
_TOKEN_ENDS = "the task's token was about to expire"


class LaunchHandler:
    """Creates the pods of claimed launches. Each job ends in exactly one disposition, handed to the leases."""

    def __init__(
        self,
        queue: JobQueue,
        leases: Leases,
        pods: PodClient,
        manifests: ManifestRenderer,
        concurrency: Concurrency,
        throttle: Throttle,
        shutdown: Shutdown,
        wait_limit: WaitLimit,
        unreadable: UnreadableJobs,
        metrics: Metrics,
        warm: WarmStarter,
        *,
        token_margin_s: float,
    ) -> None:
        self._queue = queue
        self._leases = leases
        self._creator = PodCreator(pods, leases, throttle)
        self._waits = SharedWaits(queue, throttle)
        self._manifests = manifests
        self._final_checks = FinalChecks(pods, manifests, leases)
        self._failures = FailedLaunches(queue, self._final_checks, metrics)
        self._refusals = Refusals()
        self._concurrency = concurrency
        self._health = ApiServerHealth()
        self._throttle = throttle
        self._shutdown = shutdown
        self._wait_limit = wait_limit
        self._unreadable = unreadable
        self._token_margin_s = token_margin_s
        # Seconds of each request that created a pod.
        self.creations = Recent()
        self._metrics = metrics
        self._warm = warm

    async def handle(self, job: Job) -> None:
        """Run one claimed launch to its end.

        :raises RedisUnavailable: put the job back; its pod may exist, and the next attempt finds it by name.
        """
        self._leases.finish_or_release(job, await self._process(job))

    async def fail_crashed(self, job: Job) -> None:
        """Fail a launch that every launcher died of (`reap.lua`).

        :raises RedisUnavailable: nothing was finished; try again later.
        """
        try:
            request = self._queue.open_launch(job)
        except MessageError as error:
            self._leases.finish(failed(job, f"Quarantined: {error}"))
            return
        message = "each launcher that held this launch died"
        identity = self._manifests.identity(request)  # rendering the pod may be what killed them
        self._leases.finish(await self._failures.reject(job, request, "LauncherCrashed", message, identity))

    async def report_quota_waits(self, notices: Sequence[QuotaNotice]) -> None:
        """Report launches that wait for their namespace's quota; a report that Redis does not accept is dropped."""
        try:
            await asyncio.gather(*(self._queue.publish(quota_report(notice)) for notice in notices))
        except RedisUnavailable:
            log.debug("Reports of %d launches that wait for quota were not published", len(notices))

    def discard_pod(self, disposition: Disposition) -> Disposition:
        """Give up a launch that was withdrawn or superseded while its pod was created, and request the pod's deletion.

        While Redis was unavailable the pod may have started its task: a pod that has started is left running.
        """
        cleanup, attempt = discard_of(disposition, self._queue.cluster)
        log.info("Launch %s superseded; deleting pod %s/%s", disposition.job.id, cleanup.namespace, cleanup.pod)
        return self._queue.with_cleanup(disposition.job, cleanup, attempt, "abandon")

    # --- checks -------------------------------------------------------------------------------------------------------
    async def _process(self, job: Job) -> Disposition | None:
        """What became of the job; None if the lease was lost or the launch was superseded."""
        try:
            request = self._queue.open_launch(job)
        except MessageError as error:
            return await self._unreadable.handle(job, error)
        try:
            disposition = await self._launch(job, request)
        except RedisUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 - an error of ours or of a library must not stop the process
            log.exception("Launch %s failed because of an error in the launcher", job.id)
            disposition = await self._failures.retry(job, request, type(error).__name__)
        if job.probe and (disposition is None or disposition.what != "created"):
            # The probe did not test the quota. Where the quota refused it, the script ignores this.
            await self._queue.throttle("passed", request.namespace, 1.0, PROBE_S)
        return disposition

    async def _launch(self, job: Job, request: LaunchRequest) -> Disposition | None:
        if job.overdue is not None:
            return await self._failures.overdue(job, request, *job.overdue)
        if is_token_ending(request, job.clock.scheduler_s(), self._token_margin_s):
            return await self._request_token(job, request)
        try:
            pod = await self._manifests.make(request)
        except ManifestError as error:
            return await self._failures.reject(job, request, error.reason, redact(str(error), request.args), error.pod)
        if self._warm.concerns(job):
            started = await self._start_warm(job, request, pod)
            if not isinstance(started, Cold):
                return started
        async with self._concurrency.slot("launch"):
            if self._shutdown.requested or self._throttle.launches.remaining_s:
                return back(job)
            paused_s = self._throttle.namespace_remaining_s(request.namespace)
            if paused_s and not job.probe:
                return wait(job, paused_s, "QuotaExceeded", "the namespace's quota is used up", tried=False)
            return await self._create(job, request, pod)

    async def _request_token(self, job: Job, request: LaunchRequest) -> Disposition:
        """Let the executor issue a new token; after several that did not lead to a pod, not at once. The new token is for
        another pod, so an earlier try must not have created one.
        """
        instead = await self._final_checks.instead_of_failure(job, request, "TokenExpired", _TOKEN_ENDS)
        if instead is not None:
            return instead
        now_s = job.clock.scheduler_s()
        pause_s = 0.0 if job.tries else renewal_pause_s(request.attempt, job.clock.queued_s())
        if pause_s:
            message = explain(request, now_s, self._token_margin_s)
            log.warning("Launch %s waits %.0f s: %s", job.id, pause_s, message)
            report = self._queue.sealed(launch_report(request, "pending", "TokenExpired", message))
            return wait(job, pause_s, "TokenExpired", message, report)
        log.info("Launch %s needs a new token: its own would expire too soon; no pod created", job.id)
        await self._queue.publish(launch_report(request, "expired", "TokenExpired", _TOKEN_ENDS))
        return done(job)

    # --- warm pods ----------------------------------------------------------------------------------------------------
    async def _start_warm(self, job: Job, request: LaunchRequest, pod: Json) -> Cold | Disposition | None:
        if self._shutdown.requested or self._throttle.launches.remaining_s:
            return back(job)
        began_s = time.monotonic()
        try:
            started = await self._warm.start(job, request, pod)
        except ApiError as error:
            return await self._handle_error(
                job, request, pod, error, began_s, answers=metrics_table.POD_PATCHING_STATUS
            )
        if not isinstance(started, Assigned):
            return started
        if job.probe:  # nothing was created, so the quota was not tested
            await self._queue.throttle("passed", request.namespace, 1.0, PROBE_S)
            job.probe = False
        return await self._created(job, request, started.pod, "Warm pod assigned")

    # --- creation -----------------------------------------------------------------------------------------------------
    async def _create(self, job: Job, request: LaunchRequest, pod: Json) -> Disposition | None:
        began_s = time.monotonic()
        try:
            found = await self._creator.create_or_find(job, pod)
        except SendBlocked:
            self._concurrency.stopped(began_s)
            return back(job)
        except Unconfirmed as error:
            return await self._handle_error(job, request, pod, error.refusal, began_s, error)
        except ApiError as error:
            return await self._handle_error(job, request, pod, error, began_s)
        if found is None:
            return None
        now_s = time.monotonic()
        self._concurrency.succeeded("launch", began_s, now_s)
        self.creations.add(now_s - began_s, now_s)
        self._metrics.observe(metrics_table.POD_CREATION, now_s - began_s)
        self._metrics.count(metrics_table.POD_CREATION_STATUS, "200")
        if secret_name_of(found):
            return await self._create_secret(job, request, found)
        return await self._created(job, request, found)

    async def _create_secret(self, job: Job, request: LaunchRequest, pod: Json) -> Disposition | None:
        """Complete a pod that waits for its Secret: only then is its job finished (invariant I2, docs/architecture.md)."""
        began_s = time.monotonic()
        try:
            held = await self._creator.create_secret(job, namespace_of(pod), secret_of("".join(request.args[-1:]), pod))
        except SendBlocked:
            self._concurrency.stopped(began_s)
            return wait(job, 0.0, "Interrupted", "the Secret of the pod was not sent: a pause began")
        except ApiError as error:
            answers = metrics_table.SECRET_CREATION_STATUS
            return await self._handle_error(job, request, pod, error, began_s, answers=answers)
        if not held:
            return created_pod(job, pod) if job.unwanted else None  # the pod of an unwanted launch is deleted
        self._concurrency.succeeded("launch", began_s, time.monotonic())
        self._metrics.count(metrics_table.SECRET_CREATION_STATUS, "200")
        return await self._created(job, request, pod)

    async def _created(self, job: Job, request: LaunchRequest, pod: Json, event: str = "Pod created") -> Disposition:
        self._health.succeeded()
        self._refusals.worked(job.id)
        if job.offered_at_s:
            self._metrics.observe(metrics_table.LAUNCH_WAIT, job.waited_s)
        await self._waits.end(job, request)
        if log.isEnabledFor(logging.INFO):
            where, latency_s = pod["metadata"], round(job.waited_s, 3) if job.offered_at_s else None
            found = {"pod": where["name"], "namespace": where["namespace"], "latency_s": latency_s}
            log.info(event, extra=launch_fields(request, **found))
        return created_pod(job, pod)

    # --- errors of the API server -------------------------------------------------------------------------------------
    async def _handle_error(
        self,
        job: Job,
        request: LaunchRequest,
        pod: Json,
        error: ApiError,
        began_s: float,
        unconfirmed: Unconfirmed | None = None,
        *,
        answers: Metric = metrics_table.POD_CREATION_STATUS,
    ) -> Disposition:
        self._metrics.count(answers, str(error.status or "error"))
        policy = self._policy(job, request, error, unconfirmed)
        if answers is metrics_table.SECRET_CREATION_STATUS:
            policy = secret_policy(policy, error)
        self._metrics.count(metrics_table.REFUSALS, "launch", policy.reason)
        if policy.slower:
            quiet_s = self._concurrency.failed(began_s, time.monotonic(), refused=isinstance(error, Throttled))
            self._throttle.quiet.extend(quiet_s, policy.reason)
        if policy.scope == "never":
            reason, message = await self._final_checks.explain(error, namespace_of(pod), policy)
            return await self._failures.reject(job, request, reason, message, pod)
        seconds = await self._waits.share(request, pod, policy)
        waited_s = job.waited_s
        if self._wait_limit.exceeded(waited_s, job.tries) and not policy.settles:
            return await self._end_wait(job, request, pod, policy)
        return self._wait(job, request, policy, seconds, waited_s)

    def _policy(
        self, job: Job, request: LaunchRequest, error: ApiError, unconfirmed: Unconfirmed | None
    ) -> ErrorPolicy:
        alone = isinstance(error, Overloaded) and self._health.failed_alone(job.launch_id)
        refused_s = self._refusals.refused(job.id) if may_settle(error) else 0.0
        policy = classify_error(error, job.tries, alone, refused_s)
        if unconfirmed is not None:
            policy = replace(policy, message=str(unconfirmed), ambiguous=True, settles=False)
            if policy.scope == "never":
                policy = replace(policy, scope="launch", seconds=exponential_s(job.tries + 1, FAULT_S / 10, FAULT_S))
        return replace(policy, message=redact(policy.message, request.args))

    async def _end_wait(self, job: Job, request: LaunchRequest, pod: Json, policy: ErrorPolicy) -> Disposition:
        """Give up a launch that waited too long, unless its pod exists or may exist."""
        instead = await self._final_checks.instead_of_failure(job, request, policy.reason, policy.message, pod)
        if instead is not None:
            return instead
        if policy.ambiguous:  # the server may still be working on this request, and nothing would clean the pod up
            self._leases.finish(self._queue.with_cleanup(job, revocation_of(request, pod), request.attempt))
        return await self._failures.give_up(job, request, policy.reason, policy.message)

    def _wait(
        self, job: Job, request: LaunchRequest, policy: ErrorPolicy, seconds: float, waited_s: float
    ) -> Disposition:
        """Put the launch back for a while; report the wait to users now and then."""
        log.debug("Launch %s waits %.1f s (%s: %s)", job.id, seconds, policy.reason, policy.message)
        self._metrics.count(metrics_table.LAUNCH_WAITS, policy.reason)
        report = ""
        if job.clock.redis_s() - job.reported_at_s > REPORT_INTERVAL_S and waited_s + seconds > _REPORT_AFTER_S:
            report = self._queue.sealed(launch_report(request, "pending", policy.reason, policy.message))
        spread_s = random.random() * min(1.0, 0.2 + seconds / 10)
        tried = policy.ambiguous or not policy.settles
        return wait(job, seconds + spread_s, policy.reason, policy.message, report, tried)
