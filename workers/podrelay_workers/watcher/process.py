"""The watcher: follows the pods of one cluster and publishes what becomes of them. `airflow podrelay watcher` runs it.

One watcher of a cluster leads, the others stand by. What it does while it leads: leading.
Killed at any moment it loses nothing: the next leader lists the pods and compares them with the ledger.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import logging
import sys
from collections.abc import AsyncGenerator, Sequence

from podrelay import health
from podrelay.errors import PodrelayError, RedisUnavailable
from podrelay.protocol import identifiers
from podrelay.protocol.encryption import PayloadCipher
from podrelay.protocol.redis_keys import RedisKeys
from podrelay.settings import Settings, load_settings
from podrelay.store.async_scripts import AsyncScripts
from podrelay.store.connection import check, connect, connect_async
from podrelay.teams import cluster_of, kube_config_of, watched_namespaces
from podrelay_workers.kube.client import PodClient
from podrelay_workers.runtime.backoff import Backoff
from podrelay_workers.runtime.shutdown import Shutdown, ShutdownRequested, end
from podrelay_workers.watcher.leader import ASKING, DataLost, Leader, Scope
from podrelay_workers.watcher.leader_election import LeaderElection, Term
from podrelay_workers.watcher.outbox import NotLeader, Outbox
from podrelay_workers.watcher.pod_state import Rules

log = logging.getLogger(__name__)

STANDBY_S = 1.0  # a lease that ran out is taken after at most this
REDIS_TIMEOUT_S = 2.0  # nobody waits for a watcher's round trip, and a busy Redis is better waited for
FLUSH_AT_END_S = 2.0


class Watcher:
    """One watcher process: stands by until it leads, leads until it must not any more."""

    def __init__(
        self,
        settings: Settings,
        api: PodClient,
        scripts: AsyncScripts,
        scope: Scope,
        rules: Rules,
        shutdown: Shutdown,
        team: str | None = None,
    ) -> None:
        self._scripts = scripts
        self._team = team
        self._lead: Leader | None = None
        self._settings = settings
        self._api = api
        self._scope = scope
        self._rules = rules
        self._shutdown = shutdown
        keys = RedisKeys(settings.deployment)
        self._leadership = LeaderElection(scripts, keys, rules.cluster, settings.watch_lease_s)
        self._publisher = Outbox(
            scripts,
            keys,
            PayloadCipher(settings.fernet_key),
            rules.cluster,
            settings.results_max_length,
            _metrics_wanted(),
        )

    async def run(self) -> None:
        """Until the stop. Then: say what is known, and only then leave the lead, so that nothing is said twice."""
        saying = asyncio.ensure_future(self._say_what_is_heard())
        try:
            await self._run()
        finally:
            await end(saying)
            health.remove("watcher")

    async def _say_what_is_heard(self) -> None:
        """For the probe: a standby only needs Redis; the leader is deaf while any of its watches is."""
        while True:
            trouble = self._lead.trouble if self._lead is not None else ""
            health.write("watcher", self._team, self._scripts.last_reply_s, trouble)
            await asyncio.sleep(health.WRITE_INTERVAL_S)

    async def _run(self) -> None:
        epoch = ""
        with contextlib.suppress(ShutdownRequested):
            while True:
                term = await self._shutdown.race(self._stand_by())
                if epoch not in ("", term.epoch):
                    log.warning("Redis lost its data: listing all pods and publishing again.")
                    self._publisher.say_again()
                epoch = term.epoch
                log.info("Leading as %s, fence %s.", term.leader, term.fence)
                self._lead = Leader(
                    self._settings, self._api, self._scope, self._rules, self._leadership, self._publisher, term
                )
                try:
                    await self._shutdown.race(self._lead.run())
                except (NotLeader, DataLost) as over:
                    log.warning("The term is over (%s).", type(over).__name__)
                except ShutdownRequested:
                    await self._say_goodbye(term)
                    raise
                finally:
                    self._lead = None

    async def _stand_by(self) -> Term:
        waits, told = Backoff(first_s=0.2, most_s=2.0), None
        while True:
            try:
                term = await self._leadership.claim()
            except RedisUnavailable as error:
                if not waits.failures:
                    log.warning("%s", error)
                await asyncio.sleep(waits.failed())
                continue
            waits.worked()
            if term is not None:
                return term
            if told != self._leadership.leader:
                told = self._leadership.leader
                log.info("Standing by; %s leads.", told or "nobody yet")
            if told:  # it finds out everything for itself; what is queued here would only be old
                self._publisher.forget()
            await asyncio.sleep(STANDBY_S)

    async def _say_goodbye(self, term: Term) -> None:
        with contextlib.suppress(asyncio.TimeoutError, RedisUnavailable, NotLeader):
            await asyncio.wait_for(self._publisher.flush(term), FLUSH_AT_END_S)
        with contextlib.suppress(asyncio.TimeoutError, RedisUnavailable):
            await asyncio.wait_for(self._leadership.leave(), FLUSH_AT_END_S)


# --- the process ----------------------------------------------------------------------------------------------------


async def run_watcher(
    settings: Settings,
    *,
    team: str | None = None,
    cluster: str = identifiers.DEFAULT_CLUSTER,
    shutdown: Shutdown | None = None,
) -> int:
    """Run one watcher until SIGTERM, SIGINT or `stopping`. Exit code 0.

    :raises ConfigError: an option is wrong; the message names it.
    """
    shutdown = shutdown or Shutdown()
    with shutdown.on_signals():
        await _look_at_redis(settings)
        rules, scope = read_options(settings, team, cluster)
        async with (
            _redis(settings) as scripts,
            await PodClient.connect(team, len(scope.namespaces) + 2 * ASKING, "watcher") as api,
        ):
            # What was imported stays: the collector need not look through it again and again.
            gc.collect()
            gc.freeze()
            await Watcher(settings, api, scripts, scope, rules, shutdown, team).run()
    log.info("ShutdownRequested.")
    return 0


def run(team: str | None = None) -> int:
    """What the command line calls: settings from Airflow's configuration, one event loop.

    :raises PodrelayError: with one line that says what to change.
    """
    from airflow.configuration import conf

    settings = load_settings(conf, conf.get("core", "fernet_key", fallback=""))
    return asyncio.run(run_watcher(settings, team=team, cluster=cluster_of(team)))


def read_options(settings: Settings, team: str | None, cluster: str) -> tuple[Rules, Scope]:
    """What `[kubernetes_executor]` says that matters here."""
    kube = kube_config_of(team)
    fatal = (reason.strip() for reason in kube.worker_pod_pending_fatal_container_state_reasons)
    rules = Rules(frozenset(filter(None, fatal)), settings.pending_grace_s, cluster=cluster)
    label = identifiers.cluster_label(cluster)
    selector = f"{identifiers.LABEL_DEPLOYMENT}={settings.deployment},{identifiers.LABEL_CLUSTER}={label},{identifiers.LABEL_DONE}!=True"
    return rules, Scope(selector, watched_namespaces(kube))


def _metrics_wanted() -> bool:
    """Does Airflow send metrics anywhere?"""
    from airflow.configuration import conf

    backends = ("statsd_on", "statsd_datadog_enabled", "otel_on")
    return any(conf.getboolean("metrics", backend, fallback=False) for backend in backends)


async def _look_at_redis(settings: Settings) -> None:
    """Refuse at once what can never work; a Redis that is only away is waited for.

    :raises ConfigError: wrong password, a Redis Cluster, too old.
    """

    def look() -> list[str]:
        with connect(settings, timeout_s=REDIS_TIMEOUT_S) as client:
            return check(client)

    try:
        for warning in await asyncio.to_thread(look):
            log.warning("%s", warning)
    except RedisUnavailable as error:
        log.warning("%s", error)


@contextlib.asynccontextmanager
async def _redis(settings: Settings) -> AsyncGenerator[AsyncScripts, None]:
    client = connect_async(settings, timeout_s=REDIS_TIMEOUT_S)
    try:
        yield AsyncScripts(client)
    finally:
        await client.aclose()


def main(argv: Sequence[str] | None = None) -> int:
    """The process by itself, with its log on stderr."""
    parser = argparse.ArgumentParser(prog="podrelay-watcher", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--team", default=None, help="follow the pods of this team; default: those of no team")
    args = parser.parse_args(argv)
    import airflow.settings  # noqa: F401 - it sets up logging of its own, once

    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s", force=True
    )
    try:
        return run(args.team)
    except PodrelayError as error:
        print(f"podrelay: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
