"""The parts of a launcher that deal with warm pods. Created by `launcher`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from podrelay.protocol.encryption import PayloadCipher
from podrelay.protocol.redis_keys import RedisKeys
from podrelay.settings import Settings
from podrelay.store.async_scripts import AsyncScripts
from podrelay.store.warm_pool import WarmPool
from podrelay_workers.kube.client import PodClient
from podrelay_workers.launcher.concurrency import Concurrency
from podrelay_workers.launcher.job_queue import JobQueue
from podrelay_workers.launcher.leases import Leases
from podrelay_workers.launcher.pod_policy import PodPolicy
from podrelay_workers.launcher.throttle import Throttle
from podrelay_workers.launcher.warm_pool.assignment import WarmStarter
from podrelay_workers.launcher.warm_pool.idle_pods import IdlePods
from podrelay_workers.launcher.warm_pool.keeper import PoolKeeper
from podrelay_workers.runtime.metrics import Metrics
from podrelay_workers.runtime.shutdown import Shutdown


class WarmPods:
    """`starter` also continues what launchers with warm pods on began. `keeper` is None while warm pods are off here."""

    def __init__(
        self,
        settings: Settings,
        runner: AsyncScripts,
        cipher: PayloadCipher,
        pods: PodClient,
        queue: JobQueue,
        leases: Leases,
        concurrency: Concurrency,
        throttle: Throttle,
        shutdown: Shutdown,
        metrics: Metrics,
        policy: PodPolicy,
        *,
        worker: str,
        namespaces: Sequence[str | None],
        held: Callable[[], bool],
    ) -> None:
        pool = WarmPool(runner, RedisKeys(settings.deployment), cipher, queue.cluster, worker)
        self.starter = WarmStarter(
            pool, pods, queue, leases, throttle, concurrency, metrics, is_on=settings.warm_pods_max > 0,
            idle_s=settings.warm_pod_idle_s, timeout_s=settings.warm_assign_timeout_s, refill=self._refill,
        )  # fmt: skip
        self.keeper: PoolKeeper | None = None
        if settings.warm_pods_max > 0:
            idle_pods = IdlePods(
                pods, concurrency, throttle, policy, deployment=settings.deployment, cluster=queue.cluster,
                namespaces=namespaces, idle_s=settings.warm_pod_idle_s,
                in_secret=settings.workload_in_secret, stopped=lambda: shutdown.requested or held(),
            )  # fmt: skip
            self.keeper = PoolKeeper(
                pool, idle_pods, shutdown, metrics, cluster=queue.cluster, least=settings.warm_pods_min,
                most=settings.warm_pods_max, idle_s=settings.warm_pod_idle_s, lease_s=settings.launch_lease_s, held=held,
                waits_for_quota=lambda namespace: throttle.namespace_remaining_s(namespace) > 0.0,
            )  # fmt: skip

    def _refill(self) -> None:
        if self.keeper is not None:
            self.keeper.notify()
