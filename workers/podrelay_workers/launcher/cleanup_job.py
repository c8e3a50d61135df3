"""One clean-up job: delete a pod, label it as done, or revoke it.

Such jobs are only ever made by an executor that is done with the pod, or by a launcher for a pod that nobody wants
(invariant I3).
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import Any

from airflow.providers.common.compat.sdk import Stats

from podrelay.errors import MessageError
from podrelay.protocol import identifiers
from podrelay.protocol.messages import CleanupRequest
from podrelay.teams import metric_tags
from podrelay_workers.kube.client import PodClient
from podrelay_workers.kube.errors import ApiError, Conflict, NotFound
from podrelay_workers.launcher.error_policy import STUMBLE_FIRST_S, STUMBLE_MOST_S, classify_error
from podrelay_workers.launcher.job_queue import Disposition, Job, JobQueue, back, done, failed, wait
from podrelay_workers.launcher.leases import Leases
from podrelay_workers.launcher.pod_ownership import why_not_of
from podrelay_workers.launcher.throttle import Throttle
from podrelay_workers.runtime.backoff import exponential_s
from podrelay_workers.runtime.shutdown import Shutdown

log = logging.getLogger(__name__)

# Each kind of refusal is told once; no more kinds than this.
_TOLD_MAX = 100


# A pending pod changes a few times while it is scheduled and its containers are made.
_LOOKS_MAX = 5


class StillChanging(Exception):  # noqa: N818 - not an error
    """Each time that it was about to be deleted the pod had changed."""


class NotOfLaunch(Exception):  # noqa: N818 - not an error of ours
    """The API server's pod says of itself that it is not the one that was meant; nothing was done to it."""


class FixedSlots:
    """A fixed number of clean-ups at once, so that they neither starve launches nor are starved by them."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.in_flight = 0

    @property
    def free(self) -> int:
        return self._most - self.in_flight


class CleanupHandler:
    """Does claimed clean-ups. They have no fence: name and uid say that a pod is the right one, and 404 is success.

    Which pod a revocation is about stands in the ledger, which anybody may have written: the pod is asked first.
    """

    def __init__(
        self,
        intake: JobQueue,
        holdings: Leases,
        pods: PodClient,
        pauses: Throttle,
        shutdown: Shutdown,
        deployment: str,
        team: str | None = None,
    ) -> None:
        self._intake = intake
        self._holdings = holdings
        self._pods = pods
        self._pauses = pauses
        self._shutdown = shutdown
        self._deployment = deployment
        self._tags = metric_tags(team)
        self._told: set[str] = set()

    async def work(self, job: Job) -> None:
        self._holdings.settle(job, await self._outcome(job))

    async def crashed(self, job: Job) -> None:
        """A job that lost every launcher that held it (`reap.lua`)."""
        self._holdings.give(failed(job, "LauncherCrashed: each launcher that held this clean-up was lost"))

    async def _outcome(self, job: Job) -> Disposition | None:
        try:
            request = self._intake.open_cleanup(job)
        except MessageError as error:
            return await self._quarantined(job, str(error))
        if self._shutdown.requested or self._pauses.left_s:
            return back(job)
        if not await self._holdings.fresh(job):
            return None
        try:
            await self._act(request)
        except NotFound:
            return done(job)
        except NotOfLaunch as error:
            return await self._quarantined(job, str(error))
        except StillChanging:
            return wait(job, 1.0, "StillChanging", "the pod changes faster than it can be deleted")
        except ApiError as error:
            try:
                if isinstance(error, Conflict) and await self._is_gone(request):
                    return done(job)
            except ApiError as another:
                error = another
            return await self._judged(job, request, error)
        return done(job)

    async def _quarantined(self, job: Job, why: str) -> Disposition:
        log.warning("Quarantined job %s: %s", job.id, why)
        await self._intake.quarantine(job, why)
        return failed(job, f"Quarantined: {why}")

    async def _is_gone(self, request: CleanupRequest) -> bool:
        """After a conflict, which the server also reports where somebody else changed the pod at the same moment."""
        try:
            found = await self._pods.get_pod(request.namespace, request.pod)
        except NotFound:
            return True
        return bool(request.uid) and found["metadata"].get("uid") != request.uid

    async def _act(self, request: CleanupRequest) -> None:
        if request.action == "done":
            await self._label(request, identifiers.LABEL_DONE)
        elif request.action == "revoke":
            await self._revoke(request)
        else:
            await self._delete(request)

    async def _revoke(self, request: CleanupRequest) -> None:
        """Mark and delete a pod that says of itself that it is the one that was meant; where it must not have started, only
        one of which the API server says, in the same step, that no container of it has.

        Each write then names the version at which that was so. A pod that has started is left: its task may have begun, and
        if it has not, Airflow's execution API refuses it and it ends by itself; what becomes of one that is over, its
        result says. The mark that an earlier look put on it is taken off, for the watcher follows no pod that is marked.
        """
        for _ in range(_LOOKS_MAX):
            pod = await self._pods.get_pod(request.namespace, request.pod)
            uid = str(pod["metadata"].get("uid") or "")
            if request.uid not in ("", uid):
                return
            why_not = why_not_of(request, self._deployment, pod)
            if why_not:
                raise NotOfLaunch(why_not)
            seen = replace(request, uid=uid)
            if not request.unless_started:
                await self._label(seen, identifiers.LABEL_REVOKED)
                await self._delete(seen)
                return
            try:
                await self._revoke_unless_started(seen, pod)
            except Conflict:  # it has changed since: look again
                continue
            return
        raise StillChanging

    async def _revoke_unless_started(self, request: CleanupRequest, pod: dict[str, Any]) -> None:
        """:raises Conflict: this is not how the pod is any more."""
        if has_started(pod):
            log.info("Pod %s/%s is not revoked: it has started", request.namespace, request.pod)
            if identifiers.LABEL_REVOKED in (pod["metadata"].get("labels") or {}):
                await self._label(request, identifiers.LABEL_REVOKED, value=None)
            return
        version = str(pod["metadata"]["resourceVersion"])
        pod = await self._label(request, identifiers.LABEL_REVOKED, version)
        await self._delete(request, str(pod["metadata"]["resourceVersion"]))

    async def _delete(self, request: CleanupRequest, version: str = "") -> None:
        await self._timed("pod_deletion", self._pods.delete_pod(
            request.namespace, request.pod, uid=request.uid, version=version, options=request.delete_options
        ))  # fmt: skip

    async def _label(
        self, request: CleanupRequest, label: str, version: str = "", value: str | None = "True"
    ) -> dict[str, Any]:
        """:param value: None takes the label off."""
        metadata: dict[str, Any] = {"labels": {label: value}}
        if request.uid:
            metadata["uid"] = request.uid
        if version:
            metadata["resourceVersion"] = version
        patch = self._pods.patch_pod(request.namespace, request.pod, {"metadata": metadata})
        return dict(await self._timed("pod_patching", patch))

    async def _timed(self, what: str, call: Any) -> Any:
        """Do it, under the stock executor's metrics."""
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
            Stats.timing(f"kubernetes_executor.{what}", (time.monotonic() - began_s) * 1000.0, tags=self._tags)
            Stats.incr(f"kubernetes_executor.{what}_status", tags={"status": status, **self._tags})

    async def _judged(self, job: Job, request: CleanupRequest, error: ApiError) -> Disposition:
        verdict = classify_error(error, job.tries)
        if verdict.scope == "never":
            told = f"{request.action} of pods in {request.namespace}: {verdict.message.replace(request.pod, '*')}"
            if told not in self._told and len(self._told) < _TOLD_MAX:
                self._told.add(told)
                log.error("Clean-up is refused, %s", told)
            return failed(job, f"{verdict.reason}: {verdict.message}")
        if verdict.scope == "cluster":
            if verdict.seconds:
                seconds = await self._intake.throttle("pause", x=verdict.seconds, reason=verdict.reason)
            else:
                seconds = await self._intake.throttle(
                    "stumble", x=STUMBLE_FIRST_S, y=STUMBLE_MOST_S, reason=verdict.reason
                )
            self._pauses.pause(seconds)
        else:
            seconds = exponential_s(job.tries + 1, 0.5, 15.0)
        log.debug("Clean-up %s: waits %.1f s, %s: %s", job.id, seconds, verdict.reason, verdict.message)
        return wait(job, seconds, verdict.reason, verdict.message)


def has_started(pod: dict[str, Any]) -> bool:
    """Pure: does a container of this pod run, or has one ended? A pod that is over counts too, whatever it came to."""
    status = pod.get("status") or {}
    if status.get("phase") in ("Running", "Succeeded", "Failed"):
        return True
    containers = status.get("containerStatuses") or []
    return any(item.get("state", {}).get(what) for item in containers for what in ("running", "terminated"))
