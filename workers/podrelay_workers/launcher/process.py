"""The launcher: claims launches and clean-ups and makes Kubernetes follow. Run as many as you like.

`run` is called by `airflow podrelay launcher`; `python -m podrelay_workers.launcher.process` does the same. Nothing here matters
after a crash: leases end within seconds and another launcher goes on.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import logging
import os
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import redis.asyncio
from redis.exceptions import RedisError

from podrelay import health
from podrelay.errors import ConfigError, RedisUnavailable
from podrelay.protocol import identifiers
from podrelay.protocol.encryption import PayloadCipher
from podrelay.protocol.redis_keys import RedisKeys
from podrelay.settings import Settings, load_settings
from podrelay.store.connection import check, connect, connect_async
from podrelay.teams import cluster_of, kube_config_of
from podrelay_workers.kube.client import PodClient
from podrelay_workers.launcher.cleanup_job import CleanupHandler, FixedSlots
from podrelay_workers.launcher.error_policy import Concurrency
from podrelay_workers.launcher.job_loop import JobLoop
from podrelay_workers.launcher.job_queue import Job, JobQueue
from podrelay_workers.launcher.launch_job import LaunchHandler, WaitLimit
from podrelay_workers.launcher.leases import Leases
from podrelay_workers.launcher.pod_manifest import ManifestError, ManifestRenderer
from podrelay_workers.launcher.registration import Registration, unique_name
from podrelay_workers.launcher.throttle import Throttle, remind_forever
from podrelay_workers.runtime.backoff import Backoff
from podrelay_workers.runtime.shutdown import Shutdown

log = logging.getLogger(__name__)

USAGE_ERROR = 2
# A launcher may wait longer for Redis than a scheduler's heartbeat may: a claim whose answer is given up is held until its
# lease ends.
REDIS_TIMEOUT_S = 2.0
# What is in flight when the stop comes may finish for so long; Kubernetes allows a pod 30 s in all.
GRACE_S = 10.0


class Launcher:
    """The parts of one launcher and their loops. Make it inside the running loop."""

    def __init__(
        self,
        settings: Settings,
        client: redis.asyncio.Redis,
        pods: PodClient,
        manifests: ManifestRenderer,
        patience: WaitLimit,
        shutdown: Shutdown,
        *,
        cluster: str = identifiers.DEFAULT_CLUSTER,
        team: str | None = None,
    ) -> None:
        self._client = client
        self._shutdown = shutdown
        self._team = team
        self._wake = RedisKeys(settings.deployment).wake(cluster)
        self.name = unique_name()
        cipher = PayloadCipher(settings.fernet_key)
        launches, cleanups = (
            JobQueue(client, settings, cipher, kind, self.name, cluster) for kind in ("launch", "cleanup")
        )
        self._intakes = {"launch": launches, "cleanup": cleanups}
        self._pauses = Throttle()
        concurrency = Concurrency(settings.launcher_concurrency)
        held = Leases(launches, settings.launch_lease_s, lambda outcome: self._launching.unwanted(outcome))
        cleaned = Leases(cleanups, settings.launch_lease_s)
        self._holdings = (held, cleaned)
        self._launching = LaunchHandler(
            launches, held, pods, manifests, concurrency, self._pauses, shutdown, patience,
            token_margin_s=settings.token_margin_s, team=team,
        )  # fmt: skip
        self._cleaning = CleanupHandler(cleanups, cleaned, pods, self._pauses, shutdown, settings.deployment, team)
        self._lanes = (
            JobLoop(launches, held, concurrency, self._pauses, self._launching.work,
                 patience_s=patience.wait_s, tell=self._launching.tell),
            JobLoop(cleanups, cleaned, FixedSlots(settings.cleanup_concurrency), self._pauses, self._cleaning.work),
        )  # fmt: skip
        self._reap_s = settings.launch_lease_s / 2
        self._presence = Registration(settings, self.name, [*launches.queues, *cleanups.queues], self._counts)

    async def serve(self) -> None:
        """Work until the stop; then finish what is in flight, put back the rest, and unregister."""
        log.info("Launcher %s serves %s", self.name, self._intakes["launch"].queues[-1])
        await self._until_stopped([
            *(lane.serve(self._shutdown) for lane in self._lanes),
            *(part.flush_forever() for part in self._holdings),
            *(part.renew_forever() for part in self._holdings),
            self._reap_forever(),
            self._listen_forever(),
            remind_forever(self._pauses, self._intakes["launch"]),
            self._presence.keep(),
            self._say_what_is_heard(),
        ])  # fmt: skip
        log.info("Launcher %s has stopped", self.name)

    async def _until_stopped(self, loops: list[Coroutine[Any, Any, None]]) -> None:
        """Run the loops; whichever of them ends unexpectedly ends the process (half-alive is worse than dead)."""
        tasks = [asyncio.ensure_future(loop) for loop in loops]
        stop = asyncio.ensure_future(self._shutdown.wait())
        try:
            done, _ = await asyncio.wait([stop, *tasks], return_when=asyncio.FIRST_COMPLETED)
            for task in done - {stop}:
                task.result()
            # Leases are renewed and outcomes written while the last creations end.
            await self._end_work()
        finally:
            await _cancel(stop, *tasks)
        await self._write_the_rest()
        await self._presence.end()
        health.remove("launcher")

    async def _end_work(self) -> None:
        for lane in self._lanes:
            lane.ring()
        tasks = [task for lane in self._lanes for task in lane.tasks]
        if not tasks:
            return
        log.info("Shutdown: %d jobs are in flight", len(tasks))
        _, late = await asyncio.wait(tasks, timeout=GRACE_S)
        if late:
            log.warning("Put back %d jobs that did not end within %.0f s", len(late), GRACE_S)
            await _cancel(*late)

    async def _write_the_rest(self) -> None:
        for part in self._holdings:
            try:
                await asyncio.wait_for(part.flush(), 2.0)
            except (RedisUnavailable, asyncio.TimeoutError):
                log.warning("Redis did not take the last outcomes: other launchers take over in a few seconds")

    def _counts(self) -> tuple[int, int, bool]:
        return (
            sum(part.finished for part in self._holdings),
            sum(part.failed for part in self._holdings),
            any(len(part) for part in self._holdings),
        )

    # --- side loops ---------------------------------------------------------------------------------------------------
    async def _reap_forever(self) -> None:
        """Take over from dead launchers; all of them look, each job is put back once.

        The first look is at the start: launchers that are killed again and again would not live to see a later one.
        """
        while True:
            with contextlib.suppress(RedisUnavailable):
                await self._reap(self._intakes["launch"], self._holdings[0], self._launching.crashed)
                await self._reap(self._intakes["cleanup"], self._holdings[1], self._cleaning.crashed)
            await asyncio.sleep(self._reap_s)

    @staticmethod
    async def _reap(intake: JobQueue, holdings: Leases, fail: Callable[[Job], Awaitable[None]]) -> None:
        back, crashed = await intake.reap()
        if back:
            log.warning("Put back %d jobs whose launcher was lost", back)
        holdings.take(crashed)
        for job in crashed:
            try:
                await fail(job)
            except RedisUnavailable:
                holdings.forget(job)  # its lease ends, and the next look finds it again
                raise

    async def _say_what_is_heard(self) -> None:
        """For the probe. The reaper's round trips are regular, whatever else there is to do."""
        while True:
            health.write("launcher", self._team, max(intake.last_reply_s for intake in self._intakes.values()))
            await asyncio.sleep(health.WRITE_INTERVAL_S)

    async def _listen_forever(self) -> None:
        """Wake up when there is work, and hear of pauses that other launchers were asked for."""
        backoff = Backoff(0.1, 2.0)
        while True:
            try:
                async with self._client.pubsub() as channel:
                    await channel.subscribe(self._wake)
                    self._ring()  # whatever was said before
                    while True:
                        message = await channel.get_message(ignore_subscribe_messages=True, timeout=10.0)
                        backoff.worked()
                        if message is not None:
                            self._heard(message["data"])
            except (RedisError, OSError) as error:
                log.debug("The wake-up channel is gone (%s)", error)
                await asyncio.sleep(backoff.failed())

    def _heard(self, data: bytes) -> None:
        word, _, seconds = data.partition(b" ")
        if word == b"pause":
            with contextlib.suppress(ValueError):
                self._pauses.pause(float(seconds))
        else:
            self._ring()

    def _ring(self) -> None:
        for lane in self._lanes:
            lane.ring()


async def _cancel(*tasks: asyncio.Future[Any]) -> None:
    """End them. A client that is just connecting may take the cancellation for a timeout: then it is told again."""
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=0.2)


# --- process ----------------------------------------------------------------------------------------------------------
def run(team: str | None = None) -> int:
    """Run one launcher until SIGTERM or SIGINT; its exit code.

    :raises ConfigError: an option is wrong. The message says which, and what to write.
    """
    from airflow.configuration import conf

    settings = load_settings(conf, conf.get("core", "fernet_key", fallback=""))
    PayloadCipher(settings.fernet_key)
    manifests = ManifestRenderer(settings.deployment, team, kube_config=kube_config_of(team))
    try:
        manifests.check()
    except ManifestError as error:
        log.error("LaunchRegistry without a template of their own will fail: %s", error)
    code = 1
    try:
        code = asyncio.run(_serve(settings, manifests, load_wait_limit(conf, settings, team), team))
    finally:
        manifests.close()
        if manifests.hung:  # the interpreter would wait for the hook's thread for ever
            logging.shutdown()
            os._exit(code)
    return code


def load_wait_limit(conf: Any, settings: Settings, team: str | None = None) -> WaitLimit:
    """How long and how often to try: task_publish_max_retries counts only where the user wrote it.

    Its default, 0, makes the stock executor fail a task at the first throttled request.
    """
    wait_s = settings.capacity_wait_s or conf.getfloat("scheduler", "task_queued_timeout", fallback=600.0)
    section, option = "kubernetes_executor", "task_publish_max_retries"
    known = conf.as_dict(display_source=True)
    if team is None:
        written = "default" not in str((known.get(section, {}).get(option) or ("", "default"))[1])
    else:  # no option of a team falls back to the one without its prefix
        name = f"AIRFLOW__{team}___{section}__{option}".upper()
        written = name in os.environ or option in known.get(f"{team}={section}", {})
    if not written:
        return WaitLimit(wait_s)
    tries_max = conf.getint(section, option, **({"team_name": team} if team else {}))
    return WaitLimit(wait_s, tries_max if tries_max >= 0 else None)


async def _serve(settings: Settings, manifests: ManifestRenderer, patience: WaitLimit, team: str | None) -> int:
    shutdown = Shutdown()
    with shutdown.on_signals():
        limit = settings.launcher_concurrency + settings.cleanup_concurrency
        async with await PodClient.connect(team, limit, "launcher") as pods:
            await _await_redis(settings, shutdown)
            client = connect_async(settings, timeout_s=max(REDIS_TIMEOUT_S, settings.redis_timeout_s))
            cluster = cluster_of(team)
            launcher = Launcher(settings, client, pods, manifests, patience, shutdown, cluster=cluster, team=team)
            # Airflow's modules stay for ever: the garbage collector need not look at them again and again.
            gc.collect()
            gc.freeze()
            try:
                await launcher.serve()
            finally:
                await client.aclose()
    return 0


async def _await_redis(settings: Settings, shutdown: Shutdown) -> None:
    """Wait for Redis, however long.

    :raises ConfigError: it answers, and what it says can never work.
    """
    backoff = Backoff(0.2, 2.0)
    while not shutdown.requested:
        try:
            for warning in await asyncio.to_thread(_check_redis, settings):
                log.warning("%s", warning)
            return
        except RedisUnavailable as error:
            if not backoff.failures:
                log.warning("%s Waiting for it.", error)
            await shutdown.wait(backoff.failed())


def _check_redis(settings: Settings) -> list[str]:
    with connect(settings, timeout_s=2.0) as client:
        return check(client)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="podrelay-launcher", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--team", default=None, help="serve this team; default: the launches of no team")
    args = parser.parse_args(argv)
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s", force=True
    )
    try:
        return run(args.team)
    except ConfigError as error:
        print(f"podrelay: {error}", file=sys.stderr)
        return USAGE_ERROR


if __name__ == "__main__":
    sys.exit(main())
