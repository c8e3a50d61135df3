"""One launcher: its parts, the loops that keep them running, and its shutdown. Created by `launcher.process`.

A launcher holds nothing that a crash could lose: its leases end within seconds and another launcher continues (invariant
I6, docs/architecture.md).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence

import redis.asyncio
from redis.exceptions import RedisError

import podrelay
from podrelay.errors import RedisUnavailable
from podrelay.metrics_table import JOBS_IN_FLIGHT, LAUNCH_FAILURES, REQUEST_LIMIT, REQUESTS_IN_FLIGHT, THROTTLED
from podrelay.protocol import identifiers
from podrelay.protocol.encryption import PayloadCipher
from podrelay.protocol.orders import ANNOUNCEMENT
from podrelay.protocol.redis_keys import RedisKeys
from podrelay.protocol.snapshots import LauncherSnapshot
from podrelay.settings import Settings
from podrelay.store.async_scripts import AsyncScripts
from podrelay.store.key_rings import key_ring
from podrelay.store.outage_log import OutageLog
from podrelay_workers.kube.client import PodClient
from podrelay_workers.launcher.cleanup_job import CleanupHandler
from podrelay_workers.launcher.concurrency import Concurrency, JobSlots
from podrelay_workers.launcher.drain import Drain
from podrelay_workers.launcher.job_loop import JobLoop
from podrelay_workers.launcher.job_queue import JobQueue
from podrelay_workers.launcher.launch_job import LaunchHandler
from podrelay_workers.launcher.leased_job import Job
from podrelay_workers.launcher.leases import Leases
from podrelay_workers.launcher.pod_manifest import ManifestRenderer
from podrelay_workers.launcher.registration import Registration, unique_name
from podrelay_workers.launcher.throttle import Throttle
from podrelay_workers.launcher.unreadable_job import UnreadableJobs
from podrelay_workers.launcher.wait_limit import WaitLimit
from podrelay_workers.launcher.warm_pool.parts import WarmPods
from podrelay_workers.runtime.backoff import Backoff
from podrelay_workers.runtime.key_announcer import KeyAnnouncer
from podrelay_workers.runtime.metrics import Metrics
from podrelay_workers.runtime.monitor import Monitor
from podrelay_workers.runtime.shutdown import Shutdown
from podrelay_workers.runtime.tasks import TaskSupervisor, cancel_and_wait

log = logging.getLogger(__name__)

# How long jobs in flight may take to finish after a shutdown request; Kubernetes allows a pod 30 s in all.
GRACE_S = 10.0
# How long each kind of job may take to write its last outcomes.
_LAST_FLUSH_S = 2.0
# How long one read of the wake-up channel waits for a message.
_CHANNEL_READ_S = 10.0


class Launcher:
    """The parts of one launcher and their loops. Create it inside the running event loop."""

    def __init__(
        self,
        settings: Settings,
        client: redis.asyncio.Redis,
        pods: PodClient,
        manifests: ManifestRenderer,
        wait_limit: WaitLimit,
        shutdown: Shutdown,
        monitor: Monitor | None = None,
        *,
        cluster: str = identifiers.DEFAULT_CLUSTER,
        team: str | None = None,
        namespaces: Sequence[str | None] = ("default",),
    ) -> None:
        """:param monitor: what the process serves; None where nobody asks.
        :param namespaces: those of warm pods; None among them stands for all.
        """
        self._monitor = monitor = monitor or Monitor.of("launcher", settings, team)
        self._client = client
        self._pods = pods
        self._shutdown = shutdown
        self._wake_channel = RedisKeys(settings.deployment).wake(cluster)
        self.name = unique_name()
        self._outages = OutageLog(log, "Jobs and their outcomes are kept and retried.")
        cipher = PayloadCipher(settings.fernet_key, settings.deployment)
        self._launch_queue = JobQueue(client, settings, cipher, "launch", self.name, cluster, self._outages)
        self._cleanup_queue = JobQueue(client, settings, cipher, "cleanup", self.name, cluster, self._outages)
        self._throttle = Throttle()
        self._drain = Drain(
            AsyncScripts(client, self._outages), RedisKeys(settings.deployment).drain(cluster, self.name), shutdown
        )
        self._announcer = KeyAnnouncer(
            AsyncScripts(client, self._outages),
            RedisKeys(settings.deployment),
            key_ring(f"launcher {self.name}", cipher),
        )
        self._launch_leases = Leases(
            self._launch_queue, settings.launch_lease_s, lambda disposition: self._launches.discard_pod(disposition)
        )
        self._cleanup_leases = Leases(self._cleanup_queue, settings.launch_lease_s)
        self._concurrency = concurrency = Concurrency(settings.launcher_concurrency, settings.cleanup_concurrency)
        self._warm_pods = WarmPods(
            settings, AsyncScripts(client, self._outages), cipher, pods, self._launch_queue, self._launch_leases, concurrency,
            self._throttle, shutdown, monitor.metrics, manifests.policy, worker=self.name, namespaces=namespaces,
            held=lambda: self._drain.held,
        )  # fmt: skip
        self._launches = LaunchHandler(
            self._launch_queue, self._launch_leases, pods, manifests, concurrency, self._throttle, shutdown, wait_limit,
            UnreadableJobs(self._launch_queue, self._announcer), monitor.metrics, self._warm_pods.starter,
            token_margin_s=settings.token_margin_s,
        )  # fmt: skip
        self._cleanups = CleanupHandler(
            self._cleanup_queue,
            self._cleanup_leases,
            pods,
            concurrency,
            self._throttle,
            shutdown,
            UnreadableJobs(self._cleanup_queue, self._announcer),
            monitor.metrics,
            settings.deployment,
        )
        self._launch_loop = JobLoop(
            self._launch_queue, self._launch_leases, JobSlots(concurrency, "launch"), self._throttle,
            self._throttle.launches, self._launches.handle, wait_limit_s=wait_limit.wait_s,
            report_waits=self._launches.report_quota_waits, held=lambda: self._drain.held,
        )  # fmt: skip
        self._cleanup_loop = JobLoop(
            self._cleanup_queue, self._cleanup_leases, JobSlots(concurrency, "cleanup"), self._throttle,
            self._throttle.cleanups, self._cleanups.handle, held=lambda: self._drain.held,
        )  # fmt: skip
        self._reap_interval_s = settings.launch_lease_s / 2
        queues = [*self._launch_queue.queues, *self._cleanup_queue.queues]
        self._registration = Registration(
            settings,
            RedisKeys(settings.deployment).worker_name(cluster, self.name),
            queues,
            self._counts,
            self._snapshot,
        )
        self._export(monitor.metrics)

    async def run(self) -> None:
        """Work until shutdown; then finish the jobs in flight, put back the rest, and unregister."""
        log.info("Launcher %s serves %s", self.name, self._launch_queue.queues[-1])
        self._shutdown.describe = self._describe
        self._monitor.readiness.follow(lambda: self._last_reply_s, lambda: self._pods.trouble)
        async with TaskSupervisor() as tasks:
            self._start_loops(tasks)
            await tasks.wait()
            # The loops still run: leases are renewed and outcomes written while the last jobs end.
            await self._finish_jobs()
        await self._flush_last_outcomes()
        if self._warm_pods.keeper is not None:
            await self._warm_pods.keeper.end()
        await self._announcer.end()
        await self._registration.end()
        self._monitor.readiness.remove()
        log.info("Launcher %s stopped", self.name)

    def _export(self, metrics: Metrics) -> None:
        metrics.prepare(LAUNCH_FAILURES)
        loops = {"launch": self._launch_loop, "cleanup": self._cleanup_loop}
        pauses = {"launches": self._throttle.launches, "cleanups": self._throttle.cleanups}
        metrics.gauge(JOBS_IN_FLIGHT, lambda: {(kind,): len(loop.tasks) for kind, loop in loops.items()})
        metrics.gauge(REQUESTS_IN_FLIGHT, lambda: self._concurrency.sending)
        metrics.gauge(REQUEST_LIMIT, lambda: self._concurrency.limit)
        metrics.gauge(THROTTLED, lambda: {(scope,): pause.remaining_s for scope, pause in pauses.items()})

    def _start_loops(self, tasks: TaskSupervisor) -> None:
        tasks.start("wait for shutdown", self._shutdown.wait())
        tasks.start("launch loop", self._launch_loop.run(self._shutdown))
        tasks.start("clean-up loop", self._cleanup_loop.run(self._shutdown))
        tasks.start("write launch outcomes", self._launch_leases.flush_forever())
        tasks.start("write clean-up outcomes", self._cleanup_leases.flush_forever())
        tasks.start("renew launch leases", self._launch_leases.renew_forever())
        tasks.start("renew clean-up leases", self._cleanup_leases.renew_forever())
        tasks.start("reap expired leases", self._reap_forever())
        tasks.start("listen on the wake-up channel", self._listen_forever())
        tasks.start("follow the orders to drain", self._drain.follow(self._notify_loops))
        tasks.start("republish the pause", self._throttle.republish_forever(self._launch_queue))
        tasks.start("keep the registration", self._registration.keep())
        tasks.start("announce the keys", self._announcer.keep())
        if self._warm_pods.keeper is not None:
            tasks.start("keep the warm pods", self._warm_pods.keeper.run())
        tasks.start("write the probe file", self._monitor.readiness.write_forever())

    def _describe(self) -> Iterator[str]:
        """What SIGUSR1 logs."""
        held = ", holding: takes nothing" if self._drain.held else ""
        yield f"launcher {self.name}, shutting down: {'yes' if self._shutdown.requested else 'no'}{held}"
        for kind, queue, loop, leases in (
            ("launches", self._launch_queue, self._launch_loop, self._launch_leases),
            ("clean-ups", self._cleanup_queue, self._cleanup_loop, self._cleanup_leases),
        ):
            yield f"{kind}: {len(loop.tasks)} in hand, {len(leases)} leases; queues: {', '.join(queue.queues)}"
        yield f"requests at once: {self._concurrency.sending} of {self._concurrency.limit}"
        yield from self._throttle.describe()
        replied_s = self._last_reply_s
        yield f"last reply from Redis: {time.time() - replied_s:.0f} s ago" if replied_s else "no reply from Redis yet"
        yield from sorted(task.get_name() for task in (*self._launch_loop.tasks, *self._cleanup_loop.tasks))

    # --- shutdown -----------------------------------------------------------------------------------------------------
    async def _finish_jobs(self) -> None:
        self._notify_loops()
        tasks = [*self._launch_loop.tasks, *self._cleanup_loop.tasks]
        if not tasks:
            return
        log.info("Shutting down; %d jobs in flight", len(tasks))
        _, late = await asyncio.wait(tasks, timeout=GRACE_S)
        if late:
            log.warning("%d jobs did not finish within %.0f s; putting them back", len(late), GRACE_S)
            await cancel_and_wait(*late)

    async def _flush_last_outcomes(self) -> None:
        for leases in (self._launch_leases, self._cleanup_leases):
            try:
                await asyncio.wait_for(leases.flush(), _LAST_FLUSH_S)
            except (RedisUnavailable, asyncio.TimeoutError):
                log.warning(
                    "Could not write the last outcomes to Redis; other launchers take over when the leases expire"
                )

    # --- loops --------------------------------------------------------------------------------------------------------
    async def _reap_forever(self) -> None:
        """Put back the jobs of dead launchers. Every launcher does so; each job is put back once.

        It runs at once, because launchers that are killed again and again would not live to see a later run.
        """
        while True:
            with contextlib.suppress(RedisUnavailable):
                await self._reap(self._launch_queue, self._launch_leases, self._launches.fail_crashed)
                await self._reap(self._cleanup_queue, self._cleanup_leases, self._cleanups.fail_crashed)
            await asyncio.sleep(self._reap_interval_s)

    @staticmethod
    async def _reap(queue: JobQueue, leases: Leases, fail: Callable[[Job], Awaitable[None]]) -> None:
        put_back, crashed = await queue.reap()
        if put_back:
            log.warning("Put back %d jobs whose launcher died", put_back)
        leases.hold(crashed)
        for job in crashed:
            try:
                await fail(job)
            except RedisUnavailable:
                leases.drop(job)  # its lease ends, and a later run finds it again
                raise

    @property
    def _last_reply_s(self) -> float:
        """The reaper's round trips are regular, however idle the queues are."""
        return max(self._launch_queue.last_reply_s, self._cleanup_queue.last_reply_s)

    async def _listen_forever(self) -> None:
        """Receive wake-ups for new jobs, and the pauses that other launchers were asked for."""
        backoff = Backoff(0.1, 2.0)
        while True:
            try:
                async with self._client.pubsub() as channel:
                    await channel.subscribe(self._wake_channel)
                    self._notify_loops()  # a message sent before the subscription is lost
                    while True:
                        message = await channel.get_message(ignore_subscribe_messages=True, timeout=_CHANNEL_READ_S)
                        backoff.worked()
                        if message is not None:
                            self._receive(message["data"])
            except (RedisError, OSError) as error:
                log.debug("Wake-up channel lost (%s); subscribing again", error)
                await asyncio.sleep(backoff.failed())

    def _receive(self, data: bytes) -> None:
        event, _, seconds = data.partition(b" ")
        pause = {b"pause": self._throttle.launches, b"cleanup_pause": self._throttle.cleanups}.get(event)
        if pause is not None:
            with contextlib.suppress(ValueError):
                pause.extend(float(seconds))
        elif event == ANNOUNCEMENT.encode():
            self._drain.announce()
        elif event == b"launch":
            self._launch_loop.notify()
        elif event == b"cleanup":
            self._cleanup_loop.notify()
        else:
            self._notify_loops()

    def _notify_loops(self) -> None:
        self._launch_loop.notify()
        self._cleanup_loop.notify()

    def _snapshot(self) -> LauncherSnapshot:
        """For `status`."""
        clock_s, creations, pause = time.monotonic(), self._launches.creations, self._throttle.launches
        remaining_s = pause.remaining_s
        return LauncherSnapshot(
            version=podrelay.__version__,
            in_flight=self._concurrency.sending,
            limit=self._concurrency.limit,
            created_per_s=creations.per_s(clock_s),
            creation_p50_s=creations.median(clock_s),
            throttled_until_s=time.time() + remaining_s if remaining_s else 0.0,
            throttled_why=pause.why,
            draining=self._shutdown.requested or self._drain.held,
        )

    def _counts(self) -> tuple[int, int, bool]:
        """Finished and failed jobs so far, and whether any are held."""
        return (
            self._launch_leases.finished + self._cleanup_leases.finished,
            self._launch_leases.failed + self._cleanup_leases.failed,
            len(self._launch_leases) + len(self._cleanup_leases) > 0,
        )
