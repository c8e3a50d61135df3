"""The pool of warm pods of one cluster, as launchers share it in Redis: gives pods to launches and delivers workloads.

Everything that is read here may have been written by others: what is forged, damaged, too long or in another one's place is
quarantined and removed, and counts as absent. Redis' clock counts.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from podrelay.errors import ForeignMessage, MessageError, QuarantineKind, UnknownFormat
from podrelay.protocol import identifiers
from podrelay.protocol.encryption import PayloadCipher
from podrelay.protocol.mailbox import MAILBOX_TTL_S, MailboxKey
from podrelay.protocol.messages import Json, WarmPod, WarmShape
from podrelay.protocol.redis_keys import RedisKeys
from podrelay.protocol.redis_values import chunks, count_of, number_of, rows, text
from podrelay.protocol.sizes import WARM_SHAPE_MAX
from podrelay.store import warm_scripts
from podrelay.store.async_scripts import AsyncScripts
from podrelay.store.quarantine import Quarantined, quarantine
from podrelay.store.scripts import HeldJob
from podrelay.store.warm_scripts import PoolChange

log = logging.getLogger(__name__)

# What `assign` answers. assigned: the launch has a pod now. again: it has one already, perhaps from another launcher.
# condemned: it had one that will never get the workload: retire that pod, then create one as usual. cold: create one.
# unreadable: it has one with its workload, but the record is forged, damaged or of other keys: look for it by its labels.
# lost: another launcher holds the job, or Redis lost the launch. unwanted: the launch is withdrawn or superseded.
# over: the attempt has a pod on record, or has ended.
AssignmentWord = Literal["assigned", "again", "condemned", "cold", "unreadable", "lost", "unwanted", "over"]
DeliveryWord = Literal["delivered", "condemned", "lost", "unwanted", "over"]
TakeBackWord = Literal["taken_back", "taken", "unknown", "lost", "over"]
# A pod that waited longer than its idle time, less this margin, may end itself before the workload arrives.
END_MARGIN_S = 5.0
# Pods per script run.
_PODS_AT_ONCE = 500
_COUNT_MOST = 10**9


@dataclass(frozen=True, slots=True)
class Assignment:
    """What became of a launch's request for a pod.

    pod: of assigned and again; of condemned too, unless its record cannot be read. delivered: of again: its workload is or
    was in the mailbox. why: of cold, as the ledger records it.
    """

    word: AssignmentWord
    pod: WarmPod | None = None
    delivered: bool = False
    why: str = ""


@dataclass(frozen=True, slots=True)
class PoolPod:
    """A pod that no launch has.

    age_s: since it was added. idle_s: since it was seen ready first, None: not yet. alive: it waits for a workload now.
    """

    warm_id: str
    shape: str
    age_s: float
    idle_s: float | None
    alive: bool


@dataclass(frozen=True, slots=True)
class ShapeState:
    """What the launches of one shape need.

    arrivals: seconds since each of those of the last five minutes, the oldest first. seen_s: since the last one.
    hits, misses: how many got a pod, and how many did not. ready_s: how long a pod takes until it is ready; 0: unknown.
    off_s: for how long its pool stays switched off, and why.
    """

    arrivals: tuple[float, ...]
    seen_s: float
    hits: int
    misses: int
    ready_s: float
    off_s: float
    off_why: str


@dataclass(frozen=True, slots=True)
class PoolState:
    """The pool as its keeper sees it.

    acquired: the lease is new: another launcher kept the pool before, or Redis lost its data.
    """

    acquired: bool
    pods: tuple[PoolPod, ...]
    shapes: dict[str, ShapeState]


class WarmPool:
    """:raises RedisUnavailable: from every method. Whether the call took effect is then unknown; each may be repeated."""

    def __init__(self, runner: AsyncScripts, keys: RedisKeys, cipher: PayloadCipher, cluster: str, worker: str) -> None:
        self._runner = runner
        self._keys = keys
        self._cipher = cipher
        self._cluster = cluster
        self._worker = worker

    # --- one launch ---------------------------------------------------------------------------------------------------
    async def assign(self, job: HeldJob, shape: str, *, idle_s: float, why: str = "") -> Assignment:
        """Give the launch of a leased job the oldest idle pod of its shape, or find the one that it has.

        :param idle_s: how long an idle pod waits before it ends itself.
        :param why: give it none, and record this as `start`; the shape may be empty then.
        """
        given_for_s = max(0.0, idle_s - END_MARGIN_S)
        call = warm_scripts.assign(
            self._keys, cluster=self._cluster, job=job, shape=shape, why=why, given_for_s=given_for_s
        )
        word, *found = map(text, await self._runner.run(call))
        if word == "cold":
            return Assignment("cold", why=found[0])
        if word not in ("assigned", "again", "condemned"):
            return Assignment(cast(AssignmentWord, word))
        name = f"the warm pod of launch {job.job_id}"
        pod = await self._open_pod(found[0], name)
        if word == "condemned":
            return Assignment("condemned", pod)
        if pod is not None and ([pod.pod, pod.warm_id] != found[1:3] or (word == "assigned" and pod.shape != shape)):
            await self._quarantine(name, "foreign", "the record of another warm pod")
            pod = None
        if pod is None:
            return await self._give_up(job, found[1])
        return Assignment(cast(AssignmentWord, word), pod, delivered=found[3] == "1")

    async def _give_up(self, job: HeldJob, pod: str) -> Assignment:
        """The record of the launch's pod cannot be used, so another pod is created: condemn it, or a launcher with other keys
        would deliver to it meanwhile. Its mailbox is unknown, so this fails where that has the workload.
        """
        call = warm_scripts.take_back(self._keys, job=job, warm_id="", mailbox="", pod=pod)
        word = text(await self._runner.run(call))
        if word == "taken_back":
            return Assignment("condemned")
        return Assignment("unreadable" if word in ("taken", "unknown") else cast(AssignmentWord, word))

    async def deliver(self, job: HeldJob, pod: WarmPod, sealed: str) -> DeliveryWord:
        """Put the sealed workload into the mailbox of the pod that the launch has: once, whoever calls this how often."""
        mailbox = MailboxKey.from_text(pod.key).name
        call = warm_scripts.deliver(self._keys, job=job, warm_id=pod.warm_id, mailbox=mailbox, sealed=sealed)
        return cast(DeliveryWord, text(await self._runner.run(call)))

    async def take_back(self, job: HeldJob, pod: WarmPod, *, certain: bool = False) -> TakeBackWord:
        """Condemn the pod that the launch has, unless it has taken its workload. Also where the launch is unwanted.

        :param certain: not only the ledger, which is not encrypted, says that it had no workload before: record this for
            other launchers.
        :return: taken_back: it will never get the workload. unknown: it may have it.
        """
        mailbox = MailboxKey.from_text(pod.key).name
        record = self._cipher.pool.encrypt(pod.replaced(condemned_by=job.job_id).encode()) if certain else ""
        call = warm_scripts.take_back(
            self._keys, job=job, warm_id=pod.warm_id, mailbox=mailbox, pod=pod.pod, record=record
        )
        return cast(TakeBackWord, text(await self._runner.run(call)))

    async def taken(self, pods: Sequence[WarmPod]) -> list[bool]:
        """Which of these pods have taken their workload, in one round trip."""
        pipeline = self._runner.client.pipeline(transaction=False)
        for pod in pods:
            # Its answer says whether the list exists; and should the pod die before it does the same, nothing stays behind.
            pipeline.expire(self._keys.mailbox_taken(MailboxKey.from_text(pod.key).name), MAILBOX_TTL_S)
        return [bool(exists) for exists in await self._runner.call(lambda _: pipeline.execute())] if pods else []

    # --- the keeper ---------------------------------------------------------------------------------------------------
    async def keep(self, lease_s: float, most: int) -> PoolState | None:
        """Acquire or renew the lease of the pool's keeper, and read the pool; None: another launcher keeps it.

        Pods that became ready are idle from now on: no launch gets one before this call.

        :param most: how many pods the keeper keeps at most, for `status`.
        """
        call = warm_scripts.keep_warm(
            self._keys, cluster=self._cluster, keeper=self._worker, lease_s=lease_s, most=most
        )
        reply = await self._runner.run(call)
        if reply == 0:
            return None
        lease, pods, shapes, arrivals = reply
        since: dict[str, list[float]] = {}
        for shape, ago in rows(arrivals, 2):
            since.setdefault(text(shape), []).append(number_of(ago))
        return PoolState(
            acquired=lease == 1,
            pods=tuple(_pool_pod(*row) for row in rows(pods, 5)),
            shapes={text(shape): _shape_state(since.get(text(shape), []), *row) for shape, *row in rows(shapes, 7)},
        )

    async def resign(self) -> None:
        """Give up the lease."""
        await self._change("leave", self._worker)

    async def add(self, pod: WarmPod) -> bool:
        """Add a pod that exists; False: the pool has more pods than can be configured, delete this one."""
        sealed = self._cipher.pool.encrypt(pod.encode())
        mailbox = MailboxKey.from_text(pod.key).name
        return bool(await self._change("add", pod.warm_id, pod.shape, mailbox, pod.pod, sealed))

    async def pods(self, warm_ids: Sequence[str]) -> list[WarmPod | None]:
        """These pods of the pool; None: it is not in the pool, or its record cannot be read."""
        return await self._records("read", warm_ids)

    async def remove(self, warm_ids: Sequence[str]) -> list[WarmPod | None]:
        """Remove pods from the pool, so that no launch gets them.

        :return: those that may now be deleted in the cluster. None: a launch has got this one meanwhile; or it was not in the
            pool, or its record cannot be read.
        """
        return await self._records("remove", warm_ids)

    async def save_shape(self, shape: str, skeleton: Json) -> bool:
        """Save the pod of a shape; where there are too many, the one goes that was not seen for longest.

        :return: False: it is too long to be kept, so its launches stay cold.
        """
        encoded = WarmShape(shape, skeleton, self._cluster).encode()
        if len(encoded) > WARM_SHAPE_MAX:
            return False
        await self._change("save", shape, self._cipher.pool.encrypt(encoded))
        return True

    async def skeleton(self, shape: str) -> Json | None:
        """The pod of a shape; None: it is unknown, or cannot be read and was removed."""
        sealed = text(await self._change("load", shape))
        if not sealed:
            return None
        try:
            found = WarmShape.decode(self._cipher.pool.decrypt(sealed))
            if (found.shape, found.cluster) != (shape, self._cluster):
                raise ForeignMessage("the pod of another shape")
        except UnknownFormat:
            return None  # a newer launcher reads it
        except MessageError as error:
            await self._change("forget", shape)
            await self._quarantine(f"warm_shapes:{self._cluster} {shape}", error.kind, str(error))
            return None
        return found.skeleton

    async def switch_off(self, shape: str, seconds: float, why: str) -> bool:
        """Let the launches of a shape get no pod for a while; True: its pool was on before."""
        return bool(await self._change("off", shape, f"{seconds:.3f}", why[:1000]))

    # --- records ------------------------------------------------------------------------------------------------------
    async def _change(self, what: PoolChange, *args: str) -> Any:
        return await self._runner.run(
            warm_scripts.warm_pool(self._keys, cluster=self._cluster, what=what, args=list(args))
        )

    async def _records(self, what: PoolChange, warm_ids: Sequence[str]) -> list[WarmPod | None]:
        found: list[WarmPod | None] = []
        for part in chunks(warm_ids, _PODS_AT_ONCE):
            for warm_id, sealed in zip(part, map(text, await self._change(what, *part)), strict=True):
                pod = await self._open_pod(sealed, f"warm_pods:{self._cluster} {warm_id}") if sealed else None
                if pod is not None and pod.warm_id != warm_id:
                    await self._quarantine(f"warm_pods:{self._cluster} {warm_id}", "foreign", "another warm pod")
                    pod = None
                found.append(pod)
        return found

    async def _open_pod(self, sealed: str, name: str) -> WarmPod | None:
        """The pod of a record; None for one that no launcher of this cluster wrote."""
        try:
            pod = WarmPod.decode(self._cipher.pool.decrypt(sealed))
            MailboxKey.from_text(pod.key)
            if pod.cluster != self._cluster or identifiers.warm_id_of_pod(pod.pod) != pod.warm_id:
                raise ForeignMessage("a warm pod of another cluster")
        except UnknownFormat:
            return None  # a newer launcher reads it
        except MessageError as error:
            await self._quarantine(name, error.kind, str(error))
            return None
        return pod

    async def _quarantine(self, name: str, kind: QuarantineKind, why: str) -> None:
        log.warning("Quarantined %s: %s", name, why)
        await self._runner.run(quarantine(self._keys, [Quarantined("key", name, kind, why)]))


def _pool_pod(warm_id: bytes, shape: bytes, age: bytes, idle: bytes, alive: int) -> PoolPod:
    return PoolPod(text(warm_id), text(shape), number_of(age), number_of(idle) if idle else None, alive == 1)


def _shape_state(arrivals: Sequence[float], *row: bytes) -> ShapeState:
    seen, hits, misses, ready, off, why = row
    return ShapeState(
        arrivals=tuple(arrivals),
        seen_s=number_of(seen),
        hits=count_of(hits, _COUNT_MOST),
        misses=count_of(misses, _COUNT_MOST),
        ready_s=number_of(ready),
        off_s=number_of(off),
        off_why=text(why),
    )
