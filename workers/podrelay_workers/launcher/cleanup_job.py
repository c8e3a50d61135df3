"""One clean-up job: delete a pod, label it as done, or revoke it. Used by the launcher.

Only an executor that has finished with a pod requests such jobs, or a launcher for a pod whose launch was superseded
(invariant I3, docs/architecture.md).
"""

from __future__ import annotations

import logging
import random
import re
import time
from collections.abc import Awaitable, Callable

from podrelay import metrics_table
from podrelay.errors import MessageError
from podrelay.metrics_table import Metric
from podrelay.protocol import identifiers, jobs
from podrelay.protocol.messages import CleanupRequest, Json
from podrelay_workers.kube.client import PodClient
from podrelay_workers.kube.errors import ApiError, Conflict, NotFound, Throttled
from podrelay_workers.kube.send_guard import SendBlocked
from podrelay_workers.launcher.concurrency import Concurrency
from podrelay_workers.launcher.error_policy import (
    STUMBLE_FIRST_S,
    STUMBLE_MOST_S,
    ErrorPolicy,
    classify_error,
    may_settle,
)
from podrelay_workers.launcher.job_queue import JobQueue
from podrelay_workers.launcher.leased_job import Disposition, Job, back, done, failed, wait
from podrelay_workers.launcher.leases import Leases
from podrelay_workers.launcher.pod_ownership import mismatch
from podrelay_workers.launcher.refusals import Refusals
from podrelay_workers.launcher.throttle import Throttle
from podrelay_workers.launcher.unreadable_job import UnreadableJobs
from podrelay_workers.launcher.unstarted_pod import READS_MAX, has_started
from podrelay_workers.launcher.workload_secret import secret_name_of
from podrelay_workers.runtime.backoff import exponential_s
from podrelay_workers.runtime.metrics import Metrics
from podrelay_workers.runtime.shutdown import Shutdown

log = logging.getLogger(__name__)

# Each kind of refusal is logged once, and at most this many kinds.
_LOGGED_MAX = 100
# How long the revocation of such a pod waits.
_CHANGING_S = 1.0
# The longest wait between two tries of one clean-up that is refused, for another reason than a missing permission.
_REFUSED_MOST_S = 600.0
# Clean-ups that wait for a refusal to pass are tried again this much apart.
_SPREAD_S = 5.0


class PodKeepsChanging(Exception):  # noqa: N818 - not an error
    """The pod changed before each attempt to delete it."""


class PodMismatch(Exception):  # noqa: N818 - not an error of ours
    """The labels of the pod of that name show another launch; the pod was left alone."""


class CleanupHandler:
    """Runs claimed clean-ups. They have no fence: name and uid identify the pod, and 404 is success.

    A revocation takes its pod from the ledger, which any client of Redis can write, so the pod itself is checked first. So
    is a warm pod that the executor knows from the ledger only: its name does not say whose it is.
    """

    def __init__(
        self,
        queue: JobQueue,
        leases: Leases,
        pods: PodClient,
        concurrency: Concurrency,
        throttle: Throttle,
        shutdown: Shutdown,
        unreadable: UnreadableJobs,
        metrics: Metrics,
        deployment: str,
    ) -> None:
        self._queue = queue
        self._leases = leases
        self._pods = pods
        self._concurrency = concurrency
        self._throttle = throttle
        self._shutdown = shutdown
        self._unreadable = unreadable
        self._deployment = deployment
        self._metrics = metrics
        self._logged: set[str] = set()
        # Per namespace and action: while all are refused, only one of them is sent now and then.
        self._refusals = Refusals()

    async def handle(self, job: Job) -> None:
        """Run one claimed clean-up to its end.

        :raises RedisUnavailable: put the job back; a clean-up may be repeated.
        """
        self._leases.finish_or_release(job, await self._process(job))

    async def fail_crashed(self, job: Job) -> None:
        """Fail a clean-up that every launcher died of (`reap.lua`)."""
        self._leases.finish(failed(job, "LauncherCrashed: each launcher that held this clean-up died"))

    async def _process(self, job: Job) -> Disposition | None:
        """What became of the job; None if the lease was lost."""
        try:
            request = self._queue.open_cleanup(job)
        except MessageError as error:
            return await self._unreadable.handle(job, error)
        if self._shutdown.requested or self._throttle.cleanups.remaining_s:
            return back(job)
        closed_s = self._refusals.pass_gate((request.namespace, request.action))
        if closed_s:
            return wait(job, _spread(closed_s), "CleanupRefused", "clean-ups of this kind are refused", tried=False)
        if not await self._leases.holds(job):
            return None
        return await self._run(job, request)

    async def _run(self, job: Job, request: CleanupRequest) -> Disposition:
        try:
            await self._apply(request, identifiers.attempt_of_job(job.id))
        except NotFound:
            return await self._done(job, request)
        except SendBlocked:
            return back(job)
        except PodMismatch as error:
            return await self._unreadable.quarantine(job, "foreign", str(error))
        except PodKeepsChanging:
            return wait(job, _CHANGING_S, "StillChanging", "the pod changes faster than it can be deleted")
        except ApiError as error:
            try:
                if isinstance(error, Conflict) and await self._is_gone(request):
                    return await self._done(job, request)
            except SendBlocked:
                return back(job)
            except ApiError as another:
                error = another
            return await self._handle_error(job, request, error)
        return await self._done(job, request)

    async def _done(self, job: Job, request: CleanupRequest) -> Disposition:
        if self._refusals.worked((request.namespace, request.action)):
            log.info("Clean-ups (%s) in namespace %s work again", request.action, request.namespace)
            await self._queue.throttle("cleanup_worked", request.namespace)
        return done(job)

    async def _is_gone(self, request: CleanupRequest) -> bool:
        """Is the pod gone? A conflict alone does not show it: the server also reports one when the pod changed meanwhile."""
        try:
            found = await self._send(lambda: self._pods.get_pod(request.namespace, request.pod))
        except NotFound:
            return True
        return bool(request.uid) and found["metadata"].get("uid") != request.uid

    async def _apply(self, request: CleanupRequest, attempt: int | None) -> None:
        if request.action == "revoke":
            await self._revoke(request, attempt)
            return
        if not jobs.proves_pod(request):
            request = request.replaced(uid=_uid_of(await self._own_pod(request, attempt)))
        if request.action == "done":
            await self._delete_secret(request, await self._label(request, identifiers.LABEL_DONE))
        else:
            await self._delete(request)

    async def _own_pod(self, request: CleanupRequest, attempt: int | None) -> Json:
        """The pod as it is now.

        :raises NotFound: the pod of that name is another one, or a warm pod that this launch never got.
        :raises PodMismatch: its labels show another launch.
        """
        pod = await self._send(lambda: self._pods.get_pod(request.namespace, request.pod))
        if request.uid not in ("", _uid_of(pod)) or identifiers.LABEL_IDLE in (pod["metadata"].get("labels") or {}):
            raise NotFound(f"pod {request.pod} is not of launch {request.launch_id}", status=404)
        difference = mismatch(request, attempt, self._deployment, pod)
        if difference:
            raise PodMismatch(difference)
        return pod

    async def _revoke(self, request: CleanupRequest, attempt: int | None) -> None:
        """Label and delete the pod if its labels show that it is the one requested.

        With `unless_started` each write names the resource version at which no container had started, so that the API server
        checks this in the same step. A pod that has started keeps running: its task may have begun, and if not, Airflow's
        execution API refuses it and the pod ends. The result of a pod that has ended is reported as usual. The label of an
        earlier attempt is removed from such a pod, because the watcher ignores labelled pods.
        """
        for _ in range(READS_MAX):
            pod = await self._own_pod(request, attempt)
            seen = request.replaced(uid=_uid_of(pod))
            if not request.unless_started:
                await self._label(seen, identifiers.LABEL_REVOKED)
                await self._delete(seen)
                return
            try:
                await self._revoke_unless_started(seen, pod)
            except Conflict:  # it has changed since: read it again
                continue
            return
        raise PodKeepsChanging

    async def _revoke_unless_started(self, request: CleanupRequest, pod: Json) -> None:
        """:raises Conflict: the pod has changed since it was read."""
        if has_started(pod):
            log.info("Pod %s/%s has started; leaving it running", request.namespace, request.pod)
            if identifiers.LABEL_REVOKED in (pod["metadata"].get("labels") or {}):
                await self._label(request, identifiers.LABEL_REVOKED, value=None)
            return
        version = str(pod["metadata"]["resourceVersion"])
        pod = await self._label(request, identifiers.LABEL_REVOKED, version)
        await self._delete(request, str(pod["metadata"]["resourceVersion"]))

    async def _delete(self, request: CleanupRequest, version: str = "") -> None:
        await self._send(lambda: self._timed(
            metrics_table.POD_DELETION, metrics_table.POD_DELETION_STATUS,
            self._pods.delete_pod(
                request.namespace, request.pod, uid=request.uid, version=version, options=request.delete_options
            ),
        ))  # fmt: skip

    async def _delete_secret(self, request: CleanupRequest, pod: Json) -> None:
        """A pod that is kept keeps no token.

        :raises NotFound: there is none.
        """
        name = secret_name_of(pod)
        if name:
            await self._send(lambda: self._pods.delete_secret(request.namespace, name))

    async def _label(self, request: CleanupRequest, label: str, version: str = "", value: str | None = "True") -> Json:
        """:param value: None removes the label."""
        metadata: Json = {"labels": {label: value}}
        if request.uid:
            metadata["uid"] = request.uid
        if version:
            metadata["resourceVersion"] = version
        patch: Json = {"metadata": metadata}
        return await self._send(lambda: self._timed(
            metrics_table.POD_PATCHING, metrics_table.POD_PATCHING_STATUS,
            self._pods.patch_pod(request.namespace, request.pod, patch),
        ))  # fmt: skip

    async def _send(self, call: Callable[[], Awaitable[Json]]) -> Json:
        """Send one request when it is its turn.

        :raises SendBlocked: a pause or the shutdown has begun meanwhile; nothing was sent.
        """
        async with self._concurrency.slot("cleanup"):
            if self._shutdown.requested or self._throttle.cleanups.remaining_s:
                raise SendBlocked
            began_s = time.monotonic()
            try:
                answer = await call()
            except ApiError as error:
                if classify_error(error, 0).slower:
                    quiet_s = self._concurrency.failed(began_s, time.monotonic(), refused=isinstance(error, Throttled))
                    self._throttle.cleanups.extend(quiet_s)
                raise
            self._concurrency.succeeded("cleanup", began_s, time.monotonic())
            return answer

    async def _timed(self, duration: Metric, answers: Metric, call: Awaitable[Json]) -> Json:
        """Await the call and record it in these two metrics."""
        began_s = time.monotonic()
        status = "error"
        try:
            answer = await call
            status = "200"
            return answer
        except ApiError as error:
            status = str(error.status or "error")
            raise
        finally:
            self._metrics.observe(duration, time.monotonic() - began_s)
            self._metrics.count(answers, status)

    async def _handle_error(self, job: Job, request: CleanupRequest, error: ApiError) -> Disposition:
        policy = classify_error(error, job.tries)
        self._metrics.count(metrics_table.REFUSALS, "cleanup", policy.reason)
        if policy.scope == "never" or policy.settles:
            return await self._refused(job, request, error, policy.message)
        if policy.reason == "Throttled":
            seconds = await self._pause_cleanups(job, policy)
        elif policy.scope == "cluster":
            seconds = await self._throttle.publish_pause(self._queue, policy)
        else:
            seconds = exponential_s(job.tries + 1, 0.5, 15.0)
        log.debug("Clean-up %s waits %.1f s (%s: %s)", job.id, seconds, policy.reason, policy.message)
        return wait(job, seconds, policy.reason, policy.message)

    async def _pause_cleanups(self, job: Job, policy: ErrorPolicy) -> float:
        """Launches go on: that the server takes no more clean-ups now says nothing about them."""
        if policy.seconds:
            return await self._throttle.publish_cleanup_pause(self._queue, policy.seconds, policy.reason)
        seconds = exponential_s(job.tries + 1, STUMBLE_FIRST_S, STUMBLE_MOST_S)
        self._throttle.cleanups.extend(seconds)
        return seconds

    async def _refused(self, job: Job, request: CleanupRequest, error: ApiError, message: str) -> Disposition:
        """Try again without end, ever more rarely: nothing else would remove this pod."""
        # The names of missing roles come last, in another order each time. A Secret has the name of its pod and more.
        kind = re.sub(re.escape(request.pod) + "(?:-[0-9a-f]{8})?", "*", message.partition(": RBAC: ")[0])
        refusal = f"{request.action} pods in {request.namespace}: {kind}"
        self._log_refusal(refusal)
        if may_settle(error):
            seconds = self._refusals.close((request.namespace, request.action))
        else:
            self._refusals.refused((request.namespace, request.action))  # so that a success is noticed
            seconds = exponential_s(job.tries + 1, 1.0, _REFUSED_MOST_S)
        await self._queue.throttle("cleanup_refused", request.namespace, reason="CleanupRefused", message=refusal)
        return wait(job, _spread(seconds), "CleanupRefused", message)

    def _log_refusal(self, refusal: str) -> None:
        if refusal not in self._logged and len(self._logged) < _LOGGED_MAX:
            self._logged.add(refusal)
            log.error("Clean-up refused; trying again, ever more rarely: cannot %s", refusal)


def _uid_of(pod: Json) -> str:
    return str(pod["metadata"].get("uid") or "")


def _spread(seconds: float) -> float:
    return seconds + random.random() * min(_SPREAD_S, seconds)
