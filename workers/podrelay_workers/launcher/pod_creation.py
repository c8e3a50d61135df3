"""Create the pod of a launch, and the Secret of that pod, at most once: only while the lease holds. Used by `launch_job`."""

from __future__ import annotations

import time

from podrelay.protocol.messages import Json
from podrelay_workers.kube.client import PodClient
from podrelay_workers.kube.errors import (
    AlreadyExists,
    ApiError,
    Conflict,
    NotFound,
    QuotaExceeded,
    Refused,
    Unreachable,
)
from podrelay_workers.kube.send_guard import SendBlocked, before_send
from podrelay_workers.launcher.leased_job import Job
from podrelay_workers.launcher.leases import Leases
from podrelay_workers.launcher.pod_ownership import find_own_pod, namespace_of
from podrelay_workers.launcher.throttle import Throttle

# A request whose connection broke sooner is repeated at once: mostly the server had just closed a kept connection.
_BROKE_EARLY_S = 2.0


class Unconfirmed(Exception):  # noqa: N818 - not an error of ours
    """The pod of this launch may exist: its creation was refused, and so was the look for a pod of an earlier try."""

    def __init__(self, refusal: ApiError, look: ApiError) -> None:
        super().__init__(f"{refusal}; whether an earlier try made the pod is unknown: {look}")
        self.refusal = refusal
        self.look = look


class PodCreator:
    """Creates pods for launches whose lease this launcher holds."""

    def __init__(self, pods: PodClient, leases: Leases, throttle: Throttle) -> None:
        self._pods = pods
        self._leases = leases
        self._throttle = throttle

    async def create_or_find(self, job: Job, pod: Json) -> Json | None:
        """The pod of this launch, created now or earlier; None if the lease was lost or the launch was superseded.

        :raises SendBlocked: nothing was sent.
        :raises Unconfirmed: the pod may exist, and the server does not say whether it does.
        :raises ApiError: `Unreachable` and 5xx leave open whether the pod exists.
        :raises RedisUnavailable: whether the lease still holds is unknown, so nothing was sent.
        """
        before_send.set(lambda: self._check(job))
        lost: Unreachable | None = None
        while True:
            # Directly before the request: a process that was suspended past its lease creates nothing.
            if not await self._leases.holds(job):
                return None
            began_s = time.monotonic()
            job.sent = True
            try:
                return await self._pods.create_pod(namespace_of(pod), pod)
            except SendBlocked:
                if lost is None:
                    raise
                raise lost from None  # the first request may have created the pod
            except AlreadyExists as error:
                found = await self._find(pod, error)
                if found is None:
                    raise Conflict("the pod of this launch existed and is gone", status=409) from error
                return found
            except (QuotaExceeded, Refused, NotFound) as error:
                # Admission runs before the name is checked: the pod of an earlier try, whose answer was lost, may exist and
                # even be the reason for this refusal.
                found = await self._find(pod, error) if lost or job.tries else None
                if found is None:
                    raise
                return found
            except Unreachable as error:
                if lost or time.monotonic() - began_s > _BROKE_EARLY_S:
                    raise
                lost = error

    async def create_secret(self, job: Job, namespace: str, secret: Json) -> bool:
        """Create the Secret of this launch's pod, which exists. False if the lease was lost or the launch was superseded.

        :raises SendBlocked: a pause or the shutdown has begun; the Secret does not exist as far as is known.
        :raises ApiError: `Unreachable` and 5xx leave open whether the Secret exists.
        :raises RedisUnavailable: whether the lease still holds is unknown, so nothing was sent.
        """
        before_send.set(lambda: self._check(job))
        repeated = False
        while await self._leases.holds(job):
            began_s = time.monotonic()
            try:
                await self._pods.create_secret(namespace, secret)
                return True
            except AlreadyExists:  # by an earlier try: no other pod has a Secret of this name
                return True
            except Unreachable:
                if repeated or time.monotonic() - began_s > _BROKE_EARLY_S:
                    raise
                repeated = True
        return False

    async def _find(self, pod: Json, refusal: ApiError) -> Json | None:
        """The pod that an earlier try created.

        :raises Unconfirmed: unknown.
        :raises Refused: a pod of that name belongs to something else.
        """
        before_send.set(None)  # nothing is created any more
        try:
            return await find_own_pod(self._pods, pod)
        except ApiError as error:
            if isinstance(error, Refused) and error.status == 409:
                raise
            raise Unconfirmed(refusal, error) from error

    def _check(self, job: Job) -> None:
        if self._throttle.launches.remaining_s or not self._leases.certainly_holds(job):
            raise SendBlocked
