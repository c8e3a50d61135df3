"""One watcher: stands by until it leads, and leads until its term ends. Created by `watcher.process`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator

from podrelay import metrics_table
from podrelay.errors import RedisUnavailable
from podrelay.protocol.encryption import PayloadCipher
from podrelay.protocol.identifiers import DEFAULT_CLUSTER
from podrelay.protocol.redis_keys import RedisKeys
from podrelay.settings import Settings
from podrelay.store.async_scripts import AsyncScripts
from podrelay.store.key_rings import key_ring
from podrelay_workers.kube.client import PodClient
from podrelay_workers.runtime.backoff import Backoff
from podrelay_workers.runtime.key_announcer import KeyAnnouncer
from podrelay_workers.runtime.monitor import Monitor
from podrelay_workers.runtime.shutdown import Shutdown, ShutdownRequested
from podrelay_workers.runtime.tasks import cancel_and_wait
from podrelay_workers.watcher.leader import DataLost, Leader, Scope
from podrelay_workers.watcher.leader_election import LeaderElection, Term
from podrelay_workers.watcher.outbox import NotLeader, Outbox
from podrelay_workers.watcher.overview_metrics import OverviewMetrics
from podrelay_workers.watcher.pod_state import Rules
from podrelay_workers.watcher.quarantine_metric import QuarantineMetric
from podrelay_workers.watcher.report_metrics import ReportMetrics
from podrelay_workers.watcher.rollup_writer import RollupWriter

log = logging.getLogger(__name__)

STANDBY_S = 1.0  # a standby takes over an expired lease within this time
FLUSH_AT_END_S = 2.0


class Watcher:
    """One watcher of a cluster. Any number may run; one leads.

    A watcher that is killed at any moment loses nothing: the next leader lists the pods and compares them with the ledger.
    """

    def __init__(
        self,
        settings: Settings,
        api: PodClient,
        scripts: AsyncScripts,
        scope: Scope,
        rules: Rules,
        shutdown: Shutdown,
        monitor: Monitor,
    ) -> None:
        self._settings = settings
        self._api = api
        self._scripts = scripts
        self._scope = scope
        self._rules = rules
        self._shutdown = shutdown
        self._monitor = monitor
        self._leader: Leader | None = None
        keys = RedisKeys(settings.deployment)
        self._election = LeaderElection(scripts, keys, rules.cluster, settings.watch_lease_s)
        cipher = PayloadCipher(settings.fernet_key, settings.deployment)
        self._announcer = KeyAnnouncer(scripts, keys, key_ring(f"watcher {self._election.me}", cipher))
        self._quarantine_metric = QuarantineMetric(scripts, keys, monitor.metrics)
        self._overview_metrics = OverviewMetrics(
            settings, rules.cluster, monitor.metrics, lambda: self._leader is not None
        )
        self._rollups = RollupWriter(scripts, keys, rules.cluster)
        self._report_metrics = ReportMetrics(scripts, keys, monitor.metrics)
        self._outbox = Outbox(
            scripts,
            keys,
            cipher,
            rules.cluster,
            settings.results_max_length,
            self._report_metrics,
        )
        monitor.metrics.gauge(metrics_table.LEADING, lambda: float(self._leader is not None))
        monitor.metrics.gauge(metrics_table.UNSENT, lambda: len(self._outbox))

    async def run(self) -> None:
        """Run until a shutdown is requested; then publish what is queued, and resign only after that, so that the next leader
        does not publish it again.
        """
        self._shutdown.describe = self._describe
        readiness = self._monitor.readiness
        readiness.follow(lambda: self._scripts.last_reply_s, lambda: self._trouble)
        beside = [
            asyncio.create_task(readiness.write_forever(), name="write health"),
            asyncio.create_task(self._announcer.keep(), name="announce the keys"),
            asyncio.create_task(self._quarantine_metric.keep(self._counts), name="count the quarantine"),
            asyncio.create_task(self._report_metrics.keep(), name="time the steps of launches"),
            asyncio.create_task(self._overview_metrics.keep(), name="read the overview"),
        ]
        try:
            await self._run_terms()
        finally:
            await cancel_and_wait(*beside)
            await self._announcer.end()
            readiness.remove()

    def _describe(self) -> Iterator[str]:
        """What SIGUSR1 logs."""
        if self._leader is None:
            yield f"watcher, standing by; leader: {self._election.leader or 'none yet'}"
        else:
            yield f"watcher, leading; {self._leader.known} pods known; {self._leader.trouble or 'no trouble'}"
        yield f"reports not yet in Redis: {len(self._outbox)}"
        replied_s = self._scripts.last_reply_s
        yield f"last reply from Redis: {time.time() - replied_s:.0f} s ago" if replied_s else "no reply from Redis yet"

    def _counts(self) -> bool:
        """Teams share one quarantine: the leader of the default cluster counts."""
        return self._leader is not None and self._rules.cluster == DEFAULT_CLUSTER

    @property
    def _trouble(self) -> str:
        """A standby needs only Redis; a leader is not ready while any of its watches fails."""
        return (self._api.trouble or self._leader.trouble) if self._leader is not None else ""

    async def _run_terms(self) -> None:
        epoch = ""
        with contextlib.suppress(ShutdownRequested):
            while True:
                term = await self._shutdown.race(self._stand_by())
                if epoch not in ("", term.epoch):
                    log.warning("Redis lost its data; listing all pods and publishing recent results again")
                    self._outbox.requeue_recent()
                epoch = term.epoch
                await self._lead(term)

    async def _lead(self, term: Term) -> None:
        """:raises ShutdownRequested: what was queued is published and another watcher may lead."""
        log.info("Leading as %s with fence %s", term.leader, term.fence)
        self._leader = Leader(
            self._settings, self._api, self._scope, self._rules, self._election, self._outbox, self._rollups, term
        )
        try:
            await self._shutdown.race(self._leader.run())
        except NotLeader:
            log.warning("Term ended: another watcher leads")
        except DataLost:
            log.warning("Term ended: Redis lost its data")
        except ShutdownRequested:
            await self._resign(term)
            raise
        finally:
            self._leader = None

    async def _stand_by(self) -> Term:
        """Wait until this watcher is elected."""
        retries, logged = Backoff(first_s=0.2, most_s=2.0), None
        while True:
            try:
                term = await self._election.claim()
            except RedisUnavailable:
                await asyncio.sleep(retries.failed())
                continue
            retries.worked()
            if term is not None:
                return term
            if logged != self._election.leader:
                logged = self._election.leader
                log.info("Standing by; leader: %s", logged or "none yet")
            if logged:  # the leader observes the pods itself; what is queued here would only be out of date
                self._outbox.forget()
            await asyncio.sleep(STANDBY_S)

    async def _resign(self, term: Term) -> None:
        with contextlib.suppress(asyncio.TimeoutError, RedisUnavailable, NotLeader):
            await asyncio.wait_for(self._outbox.flush(term), FLUSH_AT_END_S)
        with contextlib.suppress(asyncio.TimeoutError, RedisUnavailable):
            await asyncio.wait_for(self._election.leave(), FLUSH_AT_END_S)
