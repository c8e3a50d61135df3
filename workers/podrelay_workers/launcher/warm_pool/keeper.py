"""Keeps the pool of warm pods of one cluster: creates idle pods, and removes those that nobody needs. Used by `launcher`.

One launcher of a cluster keeps the pool at a time, by a lease in Redis. Nothing depends on that: two at once only make more
pods than needed. An idle pod that the pool does not know ends by itself, and a keeper deletes it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence

from podrelay import metrics_table
from podrelay.errors import RedisUnavailable
from podrelay.protocol import identifiers
from podrelay.protocol.messages import WarmPod, WarmShape
from podrelay.store.warm_pool import PoolState, WarmPool
from podrelay_workers.kube.errors import ApiError, NotFound, Overloaded, QuotaExceeded, Refused, Unreachable
from podrelay_workers.kube.send_guard import SendBlocked
from podrelay_workers.launcher.warm_pool.idle_pods import Forbidden, IdlePods, namespace_of_shape
from podrelay_workers.launcher.warm_pool.pool_switch import OFF_S, switch_off
from podrelay_workers.launcher.warm_pool.trouble import has_ended, trouble_of
from podrelay_workers.launcher.warm_pool.upkeep import Upkeep, upkeep
from podrelay_workers.runtime.backoff import Backoff
from podrelay_workers.runtime.metrics import Metrics
from podrelay_workers.runtime.shutdown import Shutdown
from podrelay_workers.runtime.tasks import cancel_and_wait

log = logging.getLogger(__name__)

# How often the pool is looked at: while pods are awaited, and else; and which share of Redis' time this may take at most.
BUSY_S, CALM_S, SHARE = 0.25, 1.0, 0.05
# At least this much apart: a burst of launches calls for one look.
APART_S = 0.05
# For how long a namespace gets no warm pods after its quota refused one.
QUOTA_S = 60.0
# So many pods of a shape may be lost in a row.
LOST_MAX = 5
# How often idle pods that the pool does not know are looked for: killed keepers leave them.
UNKNOWN_EVERY_S = 600.0
# For how long such a pod is suspected first.
SUSPECT_S = 10.0
# So many pods are created, and deleted, at a time.
AT_ONCE = 20
_LIST_REMEDY = "grant list on pods, as in docker/kubernetes/components/warm_pods/access.yaml"


class PoolKeeper:
    """Runs in every launcher with warm pods on."""

    def __init__(
        self,
        pool: WarmPool,
        idle_pods: IdlePods,
        shutdown: Shutdown,
        metrics: Metrics,
        *,
        cluster: str,
        least: int,
        most: int,
        idle_s: float,
        lease_s: float,
        held: Callable[[], bool],
        waits_for_quota: Callable[[str], bool],
    ) -> None:
        """:param held: while it returns True, this launcher takes no work, and does not keep the pool either.
        :param waits_for_quota: whether launches wait for the quota of this namespace.
        """
        self._pool = pool
        self._idle_pods = idle_pods
        self._shutdown = shutdown
        self._cluster = cluster
        self._least = least
        self._most = most
        self._idle_s = idle_s
        self._lease_s = lease_s
        self._held = held
        self._waits_for_quota = waits_for_quota
        self._notified = asyncio.Event()
        self._shapes: dict[str, WarmShape] = {}
        # By warm id, monotonic: since when a ready pod gives no sign of life.
        self._silent_since_s: dict[str, float] = {}
        # By shape, monotonic: since when it has more pods than it needs.
        self._surplus_since_s: dict[str, float] = {}
        # By warm id: its age when it was looked at last.
        self._looked_s: dict[str, float] = {}
        # By shape: pods in a row that were lost before they were ready.
        self._lost: dict[str, int] = {}
        # By namespace, monotonic: until when tasks have its quota for themselves; until when no further warm pod fits in.
        self._full_until_s: dict[str, float] = {}
        self._no_room_until_s: dict[str, float] = {}
        # No longer in the pool, with the time (monotonic) from which on they are deleted.
        self._to_delete: list[tuple[WarmPod, float]] = []
        # Monotonic: until when the API server is left alone; when idle pods that the pool does not know are looked for.
        self._paused_until_s = self._unknown_at_s = float("-inf")
        self._suspects: set[str] = set()
        self._keeping = False
        self._took_s = 0.0
        self._api_waits = Backoff(1.0, 30.0)
        self._numbers: dict[tuple[str, ...], float] = {}
        metrics.gauge(metrics_table.WARM_PODS, lambda: self._numbers)

    def notify(self) -> None:
        """Look at the pool soon: a launch has got a pod, or found none."""
        if self._keeping:
            self._notified.set()

    async def run(self) -> None:
        """Keep the pool until shutdown, whenever no other launcher does."""
        backoff = Backoff(0.2, 2.0)
        while not self._shutdown.requested:
            try:
                pause_s = await self._turn()
                backoff.worked()
            except RedisUnavailable:
                pause_s = backoff.failed()
            await self._wait(pause_s)

    async def end(self) -> None:
        """Give up the lease, so that another launcher keeps the pool at once. After `run` has ended."""
        with contextlib.suppress(RedisUnavailable):
            if self._keeping:
                await self._pool.resign()

    async def _wait(self, seconds: float) -> None:
        """Until then or `notify`; at least a moment, because many launches notify at once and Redis reads the whole pool."""
        await self._shutdown.wait(max(APART_S, self._took_s / SHARE))
        waiting = asyncio.create_task(self._notified.wait(), name="wait until the pool is needed")
        stopping = asyncio.create_task(self._shutdown.wait(), name="wait for shutdown")
        try:
            await asyncio.wait({waiting, stopping}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await cancel_and_wait(waiting, stopping)
        self._notified.clear()

    async def _turn(self) -> float:
        """Do what the pool needs now; the seconds until the next look.

        :raises RedisUnavailable: the next turn continues.
        """
        began_s = time.monotonic()
        state = None if self._held() else await self._pool.keep(self._lease_s, self._most)
        self._took_s = time.monotonic() - began_s
        self._keeping = state is not None
        if state is None:
            self._numbers = {}
            return self._lease_s / 3
        if state.acquired:
            self._suspects, self._surplus_since_s, self._unknown_at_s = set(), {}, time.monotonic()
        self._observe(state)
        plan = await self._plan(state)
        await self._remove(plan.remove)
        if time.monotonic() >= self._paused_until_s:
            await self._act(state, plan)
        return BUSY_S if plan.create or any(pod.idle_s is None for pod in state.pods) else CALM_S

    async def _act(self, state: PoolState, plan: Upkeep) -> None:
        """Everything that needs the API server. While it fails, it is left alone; launches find out on their own."""
        try:
            if time.monotonic() >= self._unknown_at_s:
                await self._find_unknown()
            ages = {pod.warm_id: pod.age_s for pod in state.pods}
            for warm_id in plan.look[:AT_ONCE]:
                await self._look(warm_id, ages[warm_id])
            await self._create_all([name for name, number in plan.create.items() for _ in range(number)][:AT_ONCE])
            await self._delete_due()
            self._api_waits.worked()
        except SendBlocked:
            pass
        except ApiError as error:
            pause_s = self._api_waits.failed(at_least_s=error.retry_after_s)
            self._paused_until_s = time.monotonic() + pause_s
            log.debug("Warm pods wait %.1f s: %s", pause_s, error)

    def _observe(self, state: PoolState) -> None:
        ready = {pod.warm_id for pod in state.pods if pod.idle_s is not None}
        silent = {pod.warm_id for pod in state.pods if pod.idle_s is not None and not pod.alive}
        now_s = time.monotonic()
        self._silent_since_s = {warm_id: self._silent_since_s.get(warm_id, now_s) for warm_id in silent}
        starting = {pod.warm_id for pod in state.pods if pod.idle_s is None}
        self._looked_s = {warm_id: age_s for warm_id, age_s in self._looked_s.items() if warm_id in starting}
        self._shapes = {name: shape for name, shape in self._shapes.items() if name in state.shapes}
        self._lost = {name: number for name, number in self._lost.items() if name in state.shapes}
        for pod in state.pods:
            if pod.alive:
                self._lost.pop(pod.shape, None)
        self._numbers = {("idle",): len(ready - silent), ("starting",): len(starting)}

    async def _plan(self, state: PoolState) -> Upkeep:
        now_s = time.monotonic()
        full = set()
        for name in state.shapes:
            shape = await self._shape(name)
            if shape is None:
                full.add(name)
                continue
            namespace = namespace_of_shape(shape)
            if self._waits_for_quota(namespace):
                self._full_until_s[namespace] = now_s + QUOTA_S
            if self._full_until_s.get(namespace, 0.0) > now_s:
                full.add(name)
        plan = upkeep(
            state, least=self._least, most=self._most, idle_s=self._idle_s, full=full, looked_s=self._looked_s,
            silent_s={warm_id: now_s - since_s for warm_id, since_s in self._silent_since_s.items()},
            surplus_s={shape: now_s - since_s for shape, since_s in self._surplus_since_s.items()},
        )  # fmt: skip
        self._surplus_since_s = {shape: self._surplus_since_s.get(shape, now_s) for shape in plan.surplus}
        return plan

    async def _shape(self, name: str) -> WarmShape | None:
        """The pod of a shape. It never changes: the shape is its hash."""
        if name not in self._shapes:
            skeleton = await self._pool.skeleton(name)
            if skeleton is None:
                return None
            self._shapes[name] = WarmShape(name, skeleton, self._cluster)
        return self._shapes[name]

    # --- pods ---------------------------------------------------------------------------------------------------------
    async def _create_all(self, names: Sequence[str]) -> None:
        """:raises ApiError: of one of them, after all have ended."""
        results = await asyncio.gather(*map(self._create, names), return_exceptions=True)
        for error in (item for item in results if isinstance(item, BaseException)):
            raise error

    async def _create(self, name: str) -> None:
        shape = await self._shape(name)
        if shape is None:
            return
        namespace = namespace_of_shape(shape)
        if self._no_room_until_s.get(namespace, 0.0) > time.monotonic():
            return
        try:
            pod = await self._idle_pods.create(shape)
        except QuotaExceeded:
            self._no_room_until_s[namespace] = time.monotonic() + QUOTA_S
        except (Forbidden, NotFound, Refused) as error:
            await self._switch_off(shape, f"the pod is refused: {error}")
        except (Unreachable, Overloaded):  # it may exist
            self._expect_unknown()
            raise
        else:
            await self._add(pod)

    async def _add(self, pod: WarmPod) -> None:
        """Let launches have the pod. Where Redis does not answer they may have it already: only an unknown one is deleted."""
        try:
            added = await self._pool.add(pod)
        except RedisUnavailable:
            self._expect_unknown()
            raise
        if not added:
            self._to_delete.append((pod, time.monotonic()))

    def _expect_unknown(self) -> None:
        self._unknown_at_s = min(self._unknown_at_s, time.monotonic() + SUSPECT_S)

    async def _look(self, warm_id: str, age_s: float) -> None:
        """Find out why a pod is not ready, and what follows for its shape."""
        (pod,) = await self._pool.pods([warm_id])
        if pod is None:
            return
        self._looked_s[warm_id] = age_s
        found = await self._idle_pods.read(pod)
        kind, why = trouble_of(found, age_s)
        if kind == "waiting":
            return
        if kind == "lost":
            lost = self._lost[pod.shape] = self._lost.get(pod.shape, 0) + 1
            if lost < LOST_MAX:
                await self._remove([warm_id])
                return
            why = f"{lost} pods in a row were lost: {why}"
        shape = await self._shape(pod.shape)
        if shape is not None:
            await self._switch_off(shape, f"pod {pod.namespace}/{pod.pod}: {why}")
        # An ended pod stays for that time, so that its log can be read.
        await self._remove([warm_id], OFF_S if found is not None and has_ended(found) else 0.0)

    async def _switch_off(self, shape: WarmShape, why: str) -> None:
        self._lost.pop(shape.shape, None)
        await switch_off(self._pool, shape, why)

    async def _remove(self, warm_ids: Sequence[str], later_s: float = 0.0) -> None:
        """Delete those that no launch has got meanwhile."""
        if warm_ids:
            removed = await self._pool.remove(warm_ids)
            due_s = time.monotonic() + later_s
            self._to_delete += [(pod, due_s) for pod in removed if pod is not None]

    async def _delete_due(self) -> None:
        """:raises ApiError: of one of them; those that failed are deleted later."""
        now_s = time.monotonic()
        due = [item for item in self._to_delete if item[1] <= now_s][:AT_ONCE]
        results = await asyncio.gather(*(self._idle_pods.delete_idle(pod) for pod, _ in due), return_exceptions=True)
        gone = {id(item) for item, error in zip(due, results, strict=True) if error is None}
        self._to_delete = [item for item in self._to_delete if id(item) not in gone]
        for error in (item for item in results if isinstance(item, BaseException)):
            raise error

    async def _find_unknown(self) -> None:
        """Delete idle pods that the pool does not know, if it did not know them some seconds ago either: those that a launch
        has just got are no longer in the pool, and idle in Kubernetes until their labels are those of the launch.
        """
        try:
            found = await self._idle_pods.list_unused()
        except Refused as error:
            self._unknown_at_s = time.monotonic() + UNKNOWN_EVERY_S
            log.error("Cannot look for warm pods that nobody knows any more: %s; %s", error, _LIST_REMEDY)
            return
        names = [identifiers.warm_id_of_pod(item["metadata"]["name"]) or "" for item in found]
        known = await self._pool.pods(names)
        kept = {pod.uid for pod, _ in self._to_delete}
        unknown = [item["metadata"] for item, pod in zip(found, known, strict=True) if pod is None]
        unknown = [metadata for metadata in unknown if metadata["uid"] not in kept]
        for metadata in unknown:
            if metadata["uid"] in self._suspects:
                where = (metadata["namespace"], metadata["name"], metadata["uid"])
                await self._idle_pods.delete(*where, version=metadata["resourceVersion"])
        later = [metadata["uid"] for metadata in unknown if metadata["uid"] not in self._suspects]
        self._suspects = set(later)
        self._unknown_at_s = time.monotonic() + (SUSPECT_S if later else UNKNOWN_EVERY_S)
