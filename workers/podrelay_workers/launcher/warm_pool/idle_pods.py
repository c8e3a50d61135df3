"""Idle pods in Kubernetes: creates, reads, finds and deletes them. Used by `keeper`."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from podrelay.protocol import identifiers
from podrelay.protocol.mailbox import MailboxKey
from podrelay.protocol.messages import Json, WarmPod, WarmPodConfig, WarmShape
from podrelay_workers.kube.client import PodClient
from podrelay_workers.kube.errors import ApiError, Conflict, NotFound, Throttled
from podrelay_workers.kube.send_guard import SendBlocked, before_send
from podrelay_workers.launcher.concurrency import Concurrency
from podrelay_workers.launcher.error_policy import classify_error
from podrelay_workers.launcher.pod_policy import PodPolicy, describe
from podrelay_workers.launcher.throttle import Throttle
from podrelay_workers.launcher.warm_pool.shape import idle_pod
from podrelay_workers.launcher.warm_pool.trouble import is_unused
from podrelay_workers.launcher.workload_secret import FILE, FOLDER, base_container_index, secret_of, with_volume

log = logging.getLogger(__name__)

COMMAND = ("python", "-m", "podrelay_workers.warm_pod")
_PAGE = 500
_Answer = TypeVar("_Answer")


class Forbidden(Exception):  # noqa: N818 - not an error of ours
    """`[podrelay] pod_policy` forbids the pod."""


class IdlePods:
    """The pods of one cluster that have no task. Requests wait for slots behind those of launches and clean-ups.

    :raises ApiError: from every method.
    :raises SendBlocked: from every method that writes: launches are paused, or the launcher stops; nothing was sent.
    """

    def __init__(
        self,
        pods: PodClient,
        concurrency: Concurrency,
        throttle: Throttle,
        policy: PodPolicy,
        *,
        deployment: str,
        cluster: str,
        namespaces: Sequence[str | None],
        idle_s: float,
        in_secret: bool,
        stopped: Callable[[], bool],
    ) -> None:
        """:param namespaces: those that podrelay watches; None stands for all.
        :param in_secret: `[podrelay] workload_in_secret`: then the key of a mailbox is kept out of the pod, too.
        """
        self._pods = pods
        self._concurrency = concurrency
        self._throttle = throttle
        self._policy = policy
        self._deployment = deployment
        self._cluster = cluster
        self._namespaces = namespaces
        self._idle_s = idle_s
        self._in_secret = in_secret
        self._stopped = stopped

    async def create(self, shape: WarmShape) -> WarmPod:
        """Create one idle pod, with a mailbox of its own.

        :raises Forbidden: the policy of this launcher forbids it.
        """
        warm_id, key = identifiers.new_warm_id(), MailboxKey.generate()
        config = WarmPodConfig(self._deployment, warm_id, key.text, self._idle_s).encode().decode()
        argument = ("--json-path", f"{FOLDER}/{FILE}") if self._in_secret else (config,)
        name = identifiers.warm_pod_name(self._deployment, warm_id)
        pod = idle_pod(shape, name, warm_id, (*COMMAND, *argument), deployment=self._deployment)
        if violations := self._policy.violations(pod):
            raise Forbidden(describe(violations))
        namespace = namespace_of_shape(shape)
        if self._in_secret:
            pod = with_volume(pod)
        made = await self._send(lambda: self._pods.create_pod(namespace, pod))
        uid = made["metadata"]["uid"]
        if self._in_secret:
            try:
                await self._send(lambda: self._pods.create_secret(namespace, secret_of(config, made)))
            except (ApiError, SendBlocked):  # its container would wait for the Secret, and never end by itself
                with contextlib.suppress(ApiError, SendBlocked):
                    await self.delete(namespace, name, uid)
                raise
        return WarmPod(warm_id, shape.shape, namespace, name, uid, key.text, time.time(), self._cluster)

    async def read(self, pod: WarmPod) -> Json | None:
        """The pod, or None if it is gone."""
        before_send.set(None)
        try:
            found = await self._pods.get_pod(pod.namespace, pod.pod)
        except NotFound:
            return None
        return found if found["metadata"].get("uid") == pod.uid else None

    async def delete(self, namespace: str, name: str, uid: str, version: str = "") -> None:
        """Delete a pod, unless it is gone; with `version` unless it has changed since, because a launch has got it."""
        with contextlib.suppress(NotFound, Conflict):
            await self._send(lambda: self._pods.delete_pod(namespace, name, uid=uid, version=version))

    async def delete_idle(self, pod: WarmPod) -> None:
        """Delete a pod of the pool, unless Kubernetes shows that a launch has got it: a failover of Redis may have lost
        that it was removed, and whoever can write to Redis can put a pod back whose task runs.
        """
        found = await self.read(pod)
        if found is not None and identifiers.LABEL_IDLE in (found["metadata"].get("labels") or {}):
            version = found["metadata"]["resourceVersion"]
            with contextlib.suppress(NotFound):
                await self._send(lambda: self._pods.delete_pod(pod.namespace, pod.pod, uid=pod.uid, version=version))

    async def list_unused(self) -> list[Json]:
        """Metadata and status of all warm pods that are idle, or ended long ago without having got a workload."""
        before_send.set(None)
        whose = f"{identifiers.LABEL_DEPLOYMENT}={self._deployment}"
        cluster = f"{identifiers.LABEL_CLUSTER}={identifiers.cluster_label(self._cluster)}"
        labels = f"{identifiers.LABEL_WARM},{whose},{cluster}"
        found: list[Json] = []
        for namespace in self._namespaces:
            more = ""
            while True:
                page = await self._pods.list_page(
                    namespace, labels=labels, limit=_PAGE, continuation=more, partial=True
                )
                found += [pod for pod in page.items if is_unused(pod, time.time())]
                more = page.continuation
                if not more:
                    break
        return found

    async def _send(self, call: Callable[[], Awaitable[_Answer]]) -> _Answer:
        before_send.set(self._check)
        async with self._concurrency.slot("cleanup"):
            self._check()
            began_s = time.monotonic()
            try:
                answer = await call()
            except ApiError as error:
                if classify_error(error, 0).slower:
                    self._concurrency.failed(began_s, time.monotonic(), refused=isinstance(error, Throttled))
                raise
            self._concurrency.succeeded("cleanup", began_s, time.monotonic())
            return answer

    def _check(self) -> None:
        if self._stopped() or self._throttle.cleanups.remaining_s:
            raise SendBlocked


# Pure.
def namespace_of_shape(shape: WarmShape) -> str:
    return str(shape.skeleton["metadata"].get("namespace") or "default")


def image_of_shape(shape: WarmShape) -> str:
    containers = shape.skeleton["spec"]["containers"]
    return str(containers[base_container_index(containers)].get("image") or "")
