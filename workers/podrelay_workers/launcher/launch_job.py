"""One launch, from the claimed job to its outcome: open, check, render, create, and classify_error what the API server said."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from airflow.providers.common.compat.sdk import Stats

from podrelay.errors import MessageError, RedisUnavailable
from podrelay.protocol import identifiers
from podrelay.protocol.messages import CleanupRequest, FailureClass, LaunchRequest, Outcome, PodReport
from podrelay.teams import metric_tags
from podrelay_workers.kube.client import PodClient
from podrelay_workers.kube.errors import (
    AlreadyExists,
    ApiError,
    Conflict,
    NotFound,
    Overloaded,
    QuotaExceeded,
    Refused,
    Unreachable,
)
from podrelay_workers.kube.send_guard import last_look
from podrelay_workers.launcher.error_policy import (
    QUOTA_FIRST_S,
    QUOTA_MOST_S,
    STUMBLE_FIRST_S,
    STUMBLE_MOST_S,
    ApiServerHealth,
    Concurrency,
    ErrorPolicy,
    classify_error,
)
from podrelay_workers.launcher.job_queue import (
    NEWS_S,
    PROBE_S,
    Disposition,
    Job,
    JobQueue,
    QuotaNotice,
    back,
    created,
    done,
    failed,
    wait,
)
from podrelay_workers.launcher.leases import Leases
from podrelay_workers.launcher.pod_manifest import ManifestError, ManifestRenderer
from podrelay_workers.launcher.pod_ownership import find_own, namespace_of
from podrelay_workers.launcher.redaction import hide
from podrelay_workers.launcher.throttle import Throttle
from podrelay_workers.runtime.shutdown import Shutdown

log = logging.getLogger(__name__)

Json = dict[str, Any]

# A launch that meets a fault of ours is tried again so often, after this long and longer each time.
FAULTS_MAX, FAULT_S = 4, 5.0
# A wait shorter than this is no news.
_NEWS_AFTER_S = 5.0
# A request that broke sooner is sent again at once: mostly a kept connection that the server had just closed.
_BROKE_EARLY_S = 2.0


class NotNow(Exception):  # noqa: N818 - not an error
    """The request was kept back at the last moment: all are asked to wait, or the lease may have ended."""


@dataclass(frozen=True)
class WaitLimit:
    """How long a launch may wait for capacity since its offer, and how often it may be tried (None: any number)."""

    wait_s: float
    tries_max: int | None = None


class LaunchHandler:
    """Makes the pods of claimed launches. Each job ends in exactly one outcome, given to the holdings."""

    def __init__(
        self,
        intake: JobQueue,
        holdings: Leases,
        pods: PodClient,
        manifests: ManifestRenderer,
        concurrency: Concurrency,
        pauses: Throttle,
        shutdown: Shutdown,
        patience: WaitLimit,
        *,
        token_margin_s: float,
        team: str | None = None,
    ) -> None:
        self._intake = intake
        self._holdings = holdings
        self._pods = pods
        self._manifests = manifests
        self._concurrency = concurrency
        self._health = ApiServerHealth()
        self._pauses = pauses
        self._shutdown = shutdown
        self._patience = patience
        self._token_margin_s = token_margin_s
        self._tags = metric_tags(team)

    async def work(self, job: Job) -> None:
        self._holdings.settle(job, await self._outcome(job))

    async def _outcome(self, job: Job) -> Disposition | None:
        """What became of the job; None where it is not ours, or not wanted, by now."""
        try:
            request = self._intake.open_launch(job)
        except MessageError as error:
            log.warning("Quarantined job %s: %s", job.id, error)
            await self._intake.quarantine(job, str(error))
            return failed(job, f"Quarantined: {error}")
        try:
            outcome = await self._launch(job, request)
        except RedisUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 - a fault of ours or of a library stops this launch, not the process
            log.exception("Launch %s met a fault of the launcher", job.id)
            outcome = await self._faulted(job, request, type(error).__name__)
        if job.probe and (outcome is None or outcome.what != "created"):
            # It says nothing about the quota, unless that is what it met: then this is ignored.
            await self._intake.throttle("passed", request.namespace, 1.0, PROBE_S)
        return outcome

    async def _launch(self, job: Job, request: LaunchRequest) -> Disposition | None:
        if job.overdue is not None:
            return await self._overdue(job, request, *job.overdue)
        if request.not_after_s and time.time() + self._token_margin_s > request.not_after_s:
            log.info("Launch %s: its token ends too soon, no pod was made", job.id)
            await self._publish(request, "expired", "TokenExpired", "the task's token would have ended too soon")
            return done(job)
        try:
            pod = await self._manifests.make(request)
        except ManifestError as error:
            return await self._refuse(job, request, error.reason, hide(str(error), request.args))
        async with self._concurrency.slot():
            if self._shutdown.requested or self._pauses.left_s:
                return back(job)
            closed_s = self._pauses.closed_s(request.namespace)
            if closed_s and not job.probe:
                return wait(job, closed_s, "QuotaExceeded", "the namespace's quota is used up", tried=False)
            return await self._create(job, request, pod)

    # --- creation -----------------------------------------------------------------------------------------------------
    async def _create(self, job: Job, request: LaunchRequest, pod: Json) -> Disposition | None:
        began_s = time.monotonic()
        last_look.set(lambda: self._look(job))
        try:
            made = await self._post(job, request, pod)
        except NotNow:
            return back(job)
        except ApiError as error:
            self._count("pod_creation_status", str(error.status or "error"))
            alone = isinstance(error, Overloaded) and self._health.failed_alone(job.launch_id)
            verdict = classify_error(error, job.tries, alone)
            verdict = replace(verdict, message=hide(verdict.message, request.args))
            if verdict.slower:
                self._concurrency.failed(began_s, time.monotonic())
            return await self._judged(job, request, pod, verdict)
        if made is None:
            return None
        took_s = time.monotonic() - began_s
        self._concurrency.succeeded(took_s)
        self._health.succeeded()
        Stats.timing("kubernetes_executor.pod_creation", took_s * 1000.0, tags=self._tags)
        self._count("pod_creation_status", "200")
        if job.offered_at_s:
            Stats.timing("podrelay.launch_wait", max(0.0, time.time() - job.offered_at_s) * 1000.0, tags=self._tags)
        await self._all_clear(job, request)
        return _created(job, made)

    def _look(self, job: Job) -> None:
        if self._pauses.left_s or not self._holdings.certain(job):
            raise NotNow

    async def _post(self, job: Job, request: LaunchRequest, pod: Json) -> Json | None:
        """The pod of this launch, made now or before; None where the launch is not ours to make any more."""
        again = False
        while True:
            # The last thing before the request: a process that slept through its lease makes nothing.
            if not await self._holdings.fresh(job):
                return None
            began_s = time.monotonic()
            try:
                return await self._pods.create_pod(namespace_of(pod), pod)
            except AlreadyExists as error:
                found = await find_own(self._pods, pod)
                if found is None:
                    raise Conflict("the pod of this launch was there and is gone", status=409) from error
                return found
            except (QuotaExceeded, Refused, NotFound):
                # Admission looks at a request before the name does: what refuses it may be the pod that an earlier try
                # made, whose answer was lost.
                found = await find_own(self._pods, pod) if again or job.tries else None
                if found is None:
                    raise
                return found
            except Unreachable:
                if again or time.monotonic() - began_s > _BROKE_EARLY_S:
                    raise
                again = True

    async def _all_clear(self, job: Job, request: LaunchRequest) -> None:
        """Tell the others, where they wait for such news."""
        if job.probe:
            await self._intake.throttle("passed", request.namespace, 1.25, PROBE_S)
        if self._pauses.failures:
            self._pauses.failures = 0
            await self._intake.throttle("recover")
            log.info("The API server works again.")

    # --- failures -----------------------------------------------------------------------------------------------------
    async def _judged(self, job: Job, request: LaunchRequest, pod: Json, verdict: ErrorPolicy) -> Disposition:
        if verdict.scope == "never":
            return await self._refuse(job, request, verdict.reason, verdict.message)
        seconds = await self._tell_all(request, verdict)
        waited_s = time.time() - job.offered_at_s
        tries_max = self._patience.tries_max
        if waited_s > self._patience.wait_s > 0 or (tries_max is not None and job.tries >= tries_max):
            if verdict.ambiguous:  # the pod may exist after all, and nobody would wait for it
                self._holdings.give(self._intake.order(job, _revocation(request, pod), request.attempt))
            return await self._give_up(job, request, verdict.reason, verdict.message)
        log.debug("Launch %s: waits %.1f s, %s: %s", job.id, seconds, verdict.reason, verdict.message)
        Stats.incr("podrelay.launch_waits", tags={"reason": verdict.reason, **self._tags})
        news = ""
        if time.time() - job.told_at_s > NEWS_S and waited_s + seconds > _NEWS_AFTER_S:
            news = self._intake.sealed(_result(request, "pending", verdict.reason, verdict.message))
        spread_s = random.random() * min(1.0, 0.2 + seconds / 10)
        return wait(job, seconds + spread_s, verdict.reason, verdict.message, news)

    async def _tell_all(self, request: LaunchRequest, verdict: ErrorPolicy) -> float:
        """TimeSlice the wait with every launcher; its seconds."""
        began_s = time.monotonic()
        throttle, reason, message = self._intake.throttle, verdict.reason, verdict.message
        if verdict.scope == "launch":
            return verdict.seconds or 0.0
        if verdict.scope == "namespace":
            seconds = await throttle("refused", request.namespace, QUOTA_FIRST_S, QUOTA_MOST_S, reason, message)
            self._pauses.close(request.namespace, began_s, seconds)
            return seconds
        paused = self._pauses.left_s > 0
        if verdict.seconds:
            self._pauses.pause(verdict.seconds)  # first: Redis may be away
            seconds = await throttle("pause", x=verdict.seconds, reason=reason)
        else:
            seconds = await throttle("stumble", x=STUMBLE_FIRST_S, y=STUMBLE_MOST_S, reason=reason)
        self._pauses.pause(seconds)
        self._pauses.failures = max(1, self._pauses.failures)
        if not paused:
            log.warning("No pods are created for %.1f s: %s (%s)", seconds, message, reason)
        return seconds

    async def _refuse(self, job: Job, request: LaunchRequest, reason: str, message: str) -> Disposition:
        """What can never succeed: the result first, then the job."""
        return await self._fail(job, request, reason, message, "configuration")

    async def _overdue(self, job: Job, request: LaunchRequest, reason: str, message: str) -> Disposition:
        """Its time is up while it waits; an earlier try may have made its pod all the same."""
        if job.tries:
            with contextlib.suppress(ApiError, ManifestError):
                found = await find_own(self._pods, await self._manifests.make(request))
                if found is not None:
                    return _created(job, found)
        return await self._give_up(job, request, reason, message)

    async def _give_up(self, job: Job, request: LaunchRequest, reason: str, message: str) -> Disposition:
        waited_s = max(0.0, time.time() - job.offered_at_s)
        told = f"no pod after {waited_s:.0f} s and {job.tries + 1} tries: {message}"
        return await self._fail(job, request, reason, told, "infrastructure")

    async def _fail(
        self, job: Job, request: LaunchRequest, reason: str, message: str, failure_class: FailureClass
    ) -> Disposition:
        log.warning("Launch %s (%s) failed, %s: %s", job.id, request.description, reason, message)
        await self._publish(request, "failed", reason, message, failure_class)
        return failed(job, f"{reason}: {message}")

    async def _faulted(self, job: Job, request: LaunchRequest, error: str) -> Disposition:
        """Whether its pod was made is not known: another launcher, perhaps a newer one, tries before it is failed."""
        if job.tries < FAULTS_MAX:
            return wait(job, FAULT_S * (job.tries + 1), "LauncherError", error)
        return await self._refuse(job, request, "LauncherError", f"{error} in each launcher that tried: see their logs")

    async def crashed(self, job: Job) -> None:
        """A job that lost every launcher that held it (`reap.lua`)."""
        try:
            request = self._intake.open_launch(job)
        except MessageError as error:
            self._holdings.give(failed(job, f"Quarantined: {error}"))
            return
        message = "each launcher that held this launch was lost"
        self._holdings.give(await self._refuse(job, request, "LauncherCrashed", message))

    async def tell(self, news: Sequence[QuotaNotice]) -> None:
        """Tell users of launches that wait behind their namespace's quota."""
        results = [
            PodReport(item.launch_id, item.attempt, "pending", reason=item.reason, message=item.message)
            for item in news
        ]
        try:
            await asyncio.gather(*map(self._intake.publish, results))
        except RedisUnavailable:
            log.debug("QuotaNotice of %d waiting launches were not published", len(results))

    async def _publish(
        self,
        request: LaunchRequest,
        outcome: Outcome,
        reason: str,
        message: str,
        failure_class: FailureClass = "",
    ) -> None:
        await self._intake.publish(_result(request, outcome, reason, message, failure_class))

    def _count(self, what: str, status: str) -> None:
        Stats.incr(f"kubernetes_executor.{what}", tags={"status": status, **self._tags})

    # --- pods that nobody wants ---------------------------------------------------------------------------------------
    def unwanted(self, outcome: Disposition) -> Disposition:
        """The launch was withdrawn or superseded while its pod was made: give it up, and order the pod's deletion. If Redis
        was away meanwhile, the pod may have begun its task: then it is left.
        """
        pod, namespace, uid = map(str, outcome.args[:3])
        launch_id, attempt = identifiers.parse_job_id(outcome.job.id) or ("", 0)
        log.info("Launch %s: not wanted any more, its pod %s/%s goes", outcome.job.id, namespace, pod)
        cleanup = CleanupRequest(
            launch_id, "revoke", namespace, pod, uid, cluster=self._intake.cluster, unless_started=True
        )
        return self._intake.order(outcome.job, cleanup, attempt, "abandon")


def _created(job: Job, pod: Json) -> Disposition:
    metadata = pod["metadata"]
    log.debug("Launch %s: created pod %s/%s", job.id, metadata["namespace"], metadata["name"])
    return created(job, metadata["name"], metadata["namespace"], metadata.get("uid", ""))


def _result(
    request: LaunchRequest, outcome: Outcome, reason: str, message: str, failure_class: FailureClass = ""
) -> PodReport:
    return PodReport(
        request.launch_id, request.attempt, outcome, reason=reason, message=message, failure_class=failure_class,
        namespace=request.namespace, seen_at_s=time.time(), cluster=request.cluster,
    )  # fmt: skip


def _revocation(request: LaunchRequest, pod: Json) -> CleanupRequest:
    return CleanupRequest(
        request.launch_id, "revoke", namespace_of(pod), pod["metadata"]["name"], cluster=request.cluster
    )
