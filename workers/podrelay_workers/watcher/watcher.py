"""One watcher: stands by until it leads, leads until it must not any more. Made by `watcher.process`."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from podrelay import health
from podrelay.errors import RedisUnavailable
from podrelay.protocol.encryption import PayloadCipher
from podrelay.protocol.redis_keys import RedisKeys
from podrelay.settings import Settings
from podrelay.store.async_scripts import AsyncScripts
from podrelay_workers.kube.client import PodClient
from podrelay_workers.runtime.backoff import Backoff
from podrelay_workers.runtime.shutdown import Shutdown, ShutdownRequested
from podrelay_workers.runtime.tasks import cancel_and_wait
from podrelay_workers.watcher.leader import DataLost, Leader, Scope
from podrelay_workers.watcher.leader_election import LeaderElection, Term
from podrelay_workers.watcher.outbox import NotLeader, Outbox
from podrelay_workers.watcher.pod_state import Rules

log = logging.getLogger(__name__)

STANDBY_S = 1.0  # a lease that ran out is taken after at most this
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
            await cancel_and_wait(saying)
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


def _metrics_wanted() -> bool:
    """Does Airflow send metrics anywhere?"""
    from airflow.configuration import conf

    backends = ("statsd_on", "statsd_datadog_enabled", "otel_on")
    return any(conf.getboolean("metrics", backend, fallback=False) for backend in backends)
