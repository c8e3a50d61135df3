"""Gives a launch an idle pod: in Redis, then in Kubernetes, then the workload. Used by `launch_job`.

Each step may be repeated, by this launcher or another one: the ledger keeps the pod of a launch from the first step on.
A launch gets a new pod only after it is certain that its warm pod will never get the workload (invariant I1,
docs/architecture.md).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from podrelay import metrics_table
from podrelay.protocol import identifiers
from podrelay.protocol.mailbox import Delivery, MailboxKey
from podrelay.protocol.messages import Json, LaunchRequest, PodReport, WarmPod, WarmShape
from podrelay.protocol.starts import Start
from podrelay.store.scripts import HeldJob
from podrelay.store.warm_pool import Assignment, WarmPool
from podrelay_workers.kube.client import PodClient
from podrelay_workers.kube.errors import Conflict, NotFound, Refused, Unreachable
from podrelay_workers.kube.send_guard import SendBlocked, before_send
from podrelay_workers.launcher.concurrency import Concurrency
from podrelay_workers.launcher.job_queue import JobQueue
from podrelay_workers.launcher.leased_job import Disposition, Job, back, done
from podrelay_workers.launcher.leases import Leases
from podrelay_workers.launcher.pod_ownership import belongs_to, find_warm_pod
from podrelay_workers.launcher.throttle import Throttle
from podrelay_workers.launcher.warm_pool.deliveries import Deliveries
from podrelay_workers.launcher.warm_pool.pool_switch import switch_off
from podrelay_workers.launcher.warm_pool.shape import assignment_patch, shape_of
from podrelay_workers.launcher.warm_pool.trouble import is_ending, is_idle
from podrelay_workers.runtime.metrics import Metrics

log = logging.getLogger(__name__)


class Cold:
    """The launch gets a new pod."""


@dataclass(frozen=True)
class Assigned:
    """The pod of the launch, which has its workload or will be judged by its end: name, namespace and uid are certain."""

    pod: Json = field(repr=False)


# A disposition or None: as for a launch without warm pods.
Started = Assigned | Cold | Disposition | None
# What the API server says of a warm pod: labelled for this launch now; so long ago that Redis has forgotten it; idle, but the
# label was refused; or no longer to be had.
_Label = Literal["labelled", "forgotten", "refused", "gone"]


class WarmStarter:
    """Starts launches in warm pods, and continues what another launcher began, even while warm pods are off here.

    :raises ApiError: from `start`; the launch waits, and its next try continues here.
    :raises RedisUnavailable: from `start`; likewise.
    """

    def __init__(
        self,
        pool: WarmPool,
        pods: PodClient,
        queue: JobQueue,
        leases: Leases,
        throttle: Throttle,
        concurrency: Concurrency,
        metrics: Metrics,
        *,
        is_on: bool,
        idle_s: float,
        timeout_s: float,
        refill: Callable[[], None] = lambda: None,
    ) -> None:
        """:param idle_s: how long an idle pod waits before it ends by itself.
        :param timeout_s: how long a pod may take to take its workload.
        :param refill: called when the pool may need another pod.
        """
        self._pool = pool
        self._pods = pods
        self._queue = queue
        self._leases = leases
        self._throttle = throttle
        self._concurrency = concurrency
        self._metrics = metrics
        self._is_on = is_on
        self._idle_s = idle_s
        self._timeout_s = timeout_s
        self._refill = refill
        self._deliveries = Deliveries(pool)

    def concerns(self, job: Job) -> bool:
        """Whether this launch may get a warm pod, or may have one already. Otherwise nothing is asked."""
        return self._is_on or bool(job.warm)

    async def start(self, job: Job, request: LaunchRequest, pod: Json) -> Started:
        """Give the launch a warm pod, if there is one.

        :param pod: the launch's own pod, as it would be created.
        """
        claimed_s = job.held_at_s
        shape = shape_of(request, pod)
        why = self._obstacle(request, shape)
        answer = await self._pool.assign(held(job), shape.shape if shape else "", idle_s=self._idle_s, why=why)
        if answer.word == "over":
            return done(job)
        if answer.word == "unreadable" or (answer.word == "cold" and why == "repeated"):
            # Which pod it has, if any, only Kubernetes knows.
            found = await find_warm_pod(self._pods, pod)
            return Assigned(found) if found is not None else self._cold(answer.why or "timed_out")
        if answer.word == "cold":
            return await self._go_cold(shape, answer.why)
        if answer.word == "condemned":
            if answer.pod is not None:
                await self._retire(pod, answer.pod, ours=answer.pod.condemned_by == job.id)
            return self._cold("timed_out")
        if answer.pod is None:  # lost or unwanted
            return None
        self._refill()
        if not answer.delivered and (shape is None or answer.pod.shape != shape.shape):
            # What is not encrypted in Redis may have been changed: its containers may be those of another DAG's author.
            log.warning("Launch %s does not get warm pod %s, whose shape is another one", job.id, answer.pod.pod)
            return await self._take_back(job, request, pod, answer.pod, identity_of(answer.pod))
        started = await self._use(job, request, pod, answer.pod, shape, answer)
        if isinstance(started, Assigned):
            self._metrics.count(metrics_table.STARTS, "warm")
            self._metrics.observe(metrics_table.WARM_ASSIGNMENT, time.monotonic() - claimed_s)
        return started

    def _obstacle(self, request: LaunchRequest, shape: WarmShape | None) -> Start | Literal[""]:
        """Why this launch gets no warm pod, unless it has one already; empty if nothing is in its way."""
        if not self._is_on:
            return "pool_off"
        if request.repeated:  # Redis lost what it knew of this launch
            return "repeated"
        return "" if shape else "not_eligible"

    async def _go_cold(self, shape: WarmShape | None, why: str) -> Cold:
        if shape is not None and why == "new_shape":
            await self._pool.save_shape(shape.shape, shape.skeleton)
        if self._is_on:
            self._refill()
        return self._cold(why)

    def _cold(self, why: str) -> Cold:
        if self._is_on:
            self._metrics.count(metrics_table.STARTS, why)
        return Cold()

    # --- assignment -----------------------------------------------------------------------------------------------
    async def _use(
        self,
        job: Job,
        request: LaunchRequest,
        pod: Json,
        warm: WarmPod,
        shape: WarmShape | None,
        answer: Assignment,
    ) -> Started:
        found, may_have_it = identity_of(warm), answer.delivered
        if not answer.delivered:
            try:
                label, found = await self._label(job, pod, warm, shape, is_new=answer.word == "assigned")
            except SendBlocked:
                if not job.unwanted:
                    return back(job)
                await self._abandon(job, pod, warm)
                return None
            if label == "forgotten" and answer.word == "assigned":
                # Its task may run: an earlier life of the data gave it the workload.
                log.warning("Launch %s had the warm pod %s before Redis lost its data", job.id, warm.pod)
                return Assigned(found)
            # Who labelled it may have delivered the workload as well, and Redis lost that.
            may_have_it = label == "forgotten"
            if label in ("refused", "gone"):
                return await self._take_back(job, request, pod, warm, found, ours=label == "gone")
            delivery = Delivery(request.launch_id, request.attempt, request.args[-1])
            word = await self._pool.deliver(held(job), warm, MailboxKey.from_text(warm.key).seal(delivery))
            if word != "delivered":
                return await self._not_delivered(job, pod, warm, word, ours=not may_have_it)
        taken = await self._deliveries.wait(warm, self._timeout_s)
        if taken == "taken":
            return await self._taken(request, warm, found)
        if may_have_it or taken == "unknown":
            # Redis may have lost that the pod took its workload. The watcher decides by the pod's end.
            return Assigned(found)
        return await self._take_back(job, request, pod, warm, found, ours=True)

    async def _label(
        self, job: Job, pod: Json, warm: WarmPod, shape: WarmShape | None, *, is_new: bool
    ) -> tuple[_Label, Json]:
        """Make the warm pod this launch's in Kubernetes; what became of it, and the pod as far as it is known.

        :param is_new: no other launcher can have labelled it for this launch.
        :raises SendBlocked: nothing was sent.
        """
        patch = assignment_patch(pod, warm.uid, warm.shape)
        lost: Unreachable | None = None
        retried = False
        while True:
            try:
                found = await self._send_patch(job, warm, patch)
                return ("gone" if is_ending(found) else "labelled"), found
            except SendBlocked:
                if lost is None:
                    raise
                raise lost from None  # the first request may have labelled the pod
            except NotFound:
                return "gone", identity_of(warm)
            except (Refused, Conflict, Unreachable) as error:
                found_or_none = await self._look(warm)
                if found_or_none is None:
                    return "gone", identity_of(warm)
                if belongs_to(found_or_none, pod):
                    sent = is_new and (lost is not None or isinstance(error, Unreachable))
                    return ("labelled" if sent else "forgotten"), found_or_none
                if isinstance(error, Refused):
                    await self._note_refusal(warm, found_or_none, shape, error)
                    return "refused", found_or_none
                if retried:
                    raise
                retried = True
                lost = error if isinstance(error, Unreachable) else lost

    async def _note_refusal(self, warm: WarmPod, found: Json, shape: WarmShape | None, error: Refused) -> None:
        why = f"pod {warm.namespace}/{warm.pod} cannot get the labels of a task: {error}"
        if shape is not None and is_idle(found, warm):  # other pods of this shape would fare no better
            await switch_off(self._pool, shape, why)
        else:
            log.warning("No task for a warm pod: %s", why)

    async def _send_patch(self, job: Job, warm: WarmPod, patch: list[Json]) -> Json:
        """:raises SendBlocked: a pause has begun, or the lease was lost; nothing was sent."""
        before_send.set(lambda: self._check(job))
        if not await self._leases.holds(job):
            raise SendBlocked
        began_s = time.monotonic()
        async with self._concurrency.slot("launch"):
            job.sent = True
            found = await self._pods.test_and_patch_pod(warm.namespace, warm.pod, patch)
            self._concurrency.succeeded("launch", began_s, time.monotonic())
        return found

    async def _look(self, warm: WarmPod) -> Json | None:
        """The warm pod, even if it is ending; None if it is gone."""
        before_send.set(None)
        try:
            found = await self._pods.get_pod(warm.namespace, warm.pod)
        except NotFound:
            return None
        return found if found["metadata"].get("uid") == warm.uid else None

    def _check(self, job: Job) -> None:
        if self._throttle.launches.remaining_s or not self._leases.certainly_holds(job):
            raise SendBlocked

    # --- delivery -----------------------------------------------------------------------------------------------------
    async def _not_delivered(self, job: Job, pod: Json, warm: WarmPod, word: str, *, ours: bool) -> Started:
        if word == "over":
            return done(job)
        if word == "condemned":
            await self._retire(pod, warm, ours=ours)
            return self._cold("timed_out")
        if word == "unwanted":
            await self._abandon(job, pod, warm, ours=ours)
        return None

    async def _abandon(self, job: Job, pod: Json, warm: WarmPod, *, ours: bool = False) -> None:
        """The launch was withdrawn or superseded: nobody else would delete a pod that never gets its workload."""
        if await self._pool.take_back(held(job), warm, certain=ours) == "taken_back":
            await self._retire(pod, warm, ours=ours)

    async def _take_back(
        self, job: Job, request: LaunchRequest, pod: Json, warm: WarmPod, found: Json, *, ours: bool = False
    ) -> Started:
        """The pod did not take its workload in time, or never can. A new pod only if that is certain to stay so."""
        word = await self._pool.take_back(held(job), warm, certain=ours)
        if word == "taken_back":
            log.warning("Warm pod %s/%s does not get the task of launch %s", warm.namespace, warm.pod, job.id)
            await self._retire(pod, warm, ours=ours)
            return self._cold("timed_out")
        if word in ("lost", "over"):
            return done(job) if word == "over" else None
        if word == "taken":
            return await self._taken(request, warm, found)
        return Assigned(found)  # nobody knows: the watcher decides by the end of the pod

    async def _taken(self, request: LaunchRequest, warm: WarmPod, found: Json) -> Assigned:
        """Report the start: the container started before, and the watcher may have seen the pod without its workload."""
        node = str((found.get("spec") or {}).get("nodeName") or "")
        report = PodReport(
            request.launch_id, request.attempt, "started", pod=warm.pod, namespace=warm.namespace, uid=warm.uid, node=node,
            phase="Running", seen_at_s=time.time(), cluster=request.cluster,
        )  # fmt: skip
        await self._queue.publish(report)
        return Assigned(found)

    async def _retire(self, pod: Json, warm: WarmPod, *, ours: bool = False) -> None:
        """Delete a pod that will never get a workload; labelled first, so that no watcher reports its end.

        Only one that is idle, or that a launcher has labelled and taken the workload back from. Of any other, only the ledger
        says that it is condemned, or the launch's: whoever can write to Redis could have a running task deleted. Without a
        workload it ends by itself.

        :param pod: the launch's own pod, as it would be created.
        :param ours: this call of `start` has labelled it, or its encrypted record says that it has no workload.
        :raises ApiError: it may exist; the launch must not get another pod before this has succeeded.
        """
        found = await self._look(warm)
        if found is None:
            return
        metadata = found["metadata"]
        labels = metadata.get("labels") or {}
        is_labelled = ours and belongs_to(found, pod)
        if labels.get(identifiers.LABEL_WARM) != warm.warm_id or not (is_idle(found, warm) or is_labelled):
            log.warning("Warm pod %s/%s may have a task; leaving it", warm.namespace, warm.pod)
            return
        seen = {"uid": warm.uid, "resourceVersion": metadata["resourceVersion"]}
        try:
            revoked = await self._pods.patch_pod(
                warm.namespace, warm.pod, {"metadata": {**seen, "labels": {identifiers.LABEL_REVOKED: "True"}}}
            )
            version = revoked["metadata"]["resourceVersion"]  # unless another launch has got an idle one meanwhile
            await self._pods.delete_pod(warm.namespace, warm.pod, uid=warm.uid, version=version)
        except NotFound:
            return
        except Refused as error:  # it keeps its name and its labels, but gets nothing
            log.warning("Cannot delete warm pod %s/%s, which is of no use: %s", warm.namespace, warm.pod, error)


# Pure.
def held(job: Job) -> HeldJob:
    return HeldJob(job.id, job.execution, job.queue, job.kind)


def identity_of(warm: WarmPod) -> Json:
    """What is certain about a warm pod, in the form of a pod."""
    return {"metadata": {"name": warm.pod, "namespace": warm.namespace, "uid": warm.uid}}
