"""One term of the leading watcher: reflectors feed the pod table, what is new goes to the outbox. Used by `watcher`.

Nothing here outlives the term: the next leader lists the pods and compares them with the ledger.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import podrelay
from podrelay.errors import RedisUnavailable
from podrelay.protocol import identifiers
from podrelay.protocol.messages import PodReport
from podrelay.protocol.snapshots import SNAPSHOT_FIELD, WatcherSnapshot, encode_snapshot
from podrelay.settings import Settings
from podrelay_workers.kube.client import PodClient
from podrelay_workers.runtime.backoff import Backoff
from podrelay_workers.runtime.recent import Recent
from podrelay_workers.runtime.tasks import TaskSupervisor
from podrelay_workers.watcher.leader_election import LeaderElection, Term
from podrelay_workers.watcher.outbox import NotLeader, Outbox
from podrelay_workers.watcher.pod_lookups import PodLookups
from podrelay_workers.watcher.pod_state import DeferredReport, Rules
from podrelay_workers.watcher.pod_summary import summarize
from podrelay_workers.watcher.pod_table import PodEntry, PodTable, Publication
from podrelay_workers.watcher.pod_view import read_pod
from podrelay_workers.watcher.reflector import ListComplete, PodEvent, Position, Reflector
from podrelay_workers.watcher.rollup_writer import RollupWriter

log = logging.getLogger(__name__)

TICK_S = 1.0  # the precision of grace periods
LOG_REQUESTS_S = 0.5  # an executor waits 3 s for a log
COMPARE_S = 60.0  # a pod that vanishes without an event is found within this time
COMPARE_UNWATCHED_S = 5.0  # the same, once pods run in namespaces that are not watched: each is looked up
# Clocks of launchers and of this process differ: a pod younger than this may be missing from a list.
CLOCK_SKEW_S = 5.0
GATHER_LISTS_S = 0.2  # lists of several namespaces end within this time: one comparison serves them all
TROUBLE_MAX = 500


class DataLost(Exception):  # noqa: N818 - not an error: the next term starts over
    """Redis lost its data, or was replaced by an empty one."""


@dataclass(frozen=True)
class Scope:
    """Which pods: the selector, and the namespaces (None: all of them)."""

    selector: str
    namespaces: tuple[str | None, ...]


class Leader:
    """One term: the tasks that run while this process leads, and what they share."""

    def __init__(
        self,
        settings: Settings,
        api: PodClient,
        scope: Scope,
        rules: Rules,
        election: LeaderElection,
        outbox: Outbox,
        rollups: RollupWriter,
        term: Term,
    ) -> None:
        self._settings = settings
        self._rules = rules
        self._scope = scope
        self._election = election
        self._outbox = outbox
        self._rollups = rollups
        self._term = term
        self._table = PodTable(rules)
        self._lookups = PodLookups(api, settings.failure_log_lines)
        self._reflectors = [
            Reflector(api, namespace, scope.selector, settings.watch_silence_s) for namespace in scope.namespaces
        ]
        self._lags = Recent()
        self._listed = asyncio.Event()
        self._unwatched: set[str] = set()
        self._in_doubt: set[tuple[str, str]] = set()
        self._tasks = TaskSupervisor(NotLeader, DataLost)

    async def run(self) -> None:
        """Run until a task ends, which happens only because of an error.

        :raises NotLeader: or DataLost, or the error that ended a task: an incomplete watcher is worse than none.
        """
        async with self._tasks as tasks:
            tasks.start("renew leadership", self._renew_leadership())
            tasks.start("publish reports", self._outbox.run(self._term))
            tasks.start("publish due reports", self._publish_due())
            tasks.start("read requested logs", self._read_requested_logs())
            tasks.start("compare with ledger", self._compare_repeatedly())
            tasks.start("sum up what happened", self._rollups.run(self._term))
            for reflector in self._reflectors:
                tasks.start(f"follow {reflector.where}", self._follow(reflector))
            await tasks.wait()

    # --- tasks ----------------------------------------------------------------------------------------------------

    async def _renew_leadership(self) -> None:
        retries = Backoff(first_s=0.1, most_s=1.0)
        while True:
            try:
                term = await self._election.claim(self._progress())
            except (
                RedisUnavailable
            ):  # the script runner logs it; Redis checks the fence of reports, so the watch goes on
                await asyncio.sleep(retries.failed())
                continue
            retries.worked()
            self._check_term(term)
            await asyncio.sleep(self._settings.watch_lease_s / 3)

    def _check_term(self, term: Term | None) -> None:
        """:raises NotLeader: another watcher led meanwhile.
        :raises DataLost: Redis began a new epoch.
        """
        if term is not None and term.epoch != self._term.epoch:
            raise DataLost
        if term is None or term.fence != self._term.fence:
            raise NotLeader

    async def _follow(self, reflector: Reflector) -> None:
        async with contextlib.aclosing(reflector.events()) as events:
            async for event in events:
                if isinstance(event, PodEvent):
                    self._observe(event.event, event.pod)
                else:
                    self._list_completed(reflector.namespace, event)

    async def _publish_due(self) -> None:
        """Publish what falls due by the clock alone."""
        while True:
            await asyncio.sleep(TICK_S)
            for entry, due in self._table.pop_due(time.monotonic()):
                if due.with_events:
                    self._tasks.start_background(f"explain pod {entry.name}", self._explain(entry, due))
                else:
                    self._record(entry, due.report)

    async def _compare_repeatedly(self) -> None:
        """Look for launches whose pod is gone: after lists (those of several namespaces at once) and periodically."""
        while True:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._listed.wait(), COMPARE_UNWATCHED_S if self._unwatched else COMPARE_S)
                await asyncio.sleep(GATHER_LISTS_S)
            self._listed.clear()
            healthy = [item.namespace for item in self._reflectors if item.position.is_current(COMPARE_S)]
            if healthy:
                await self._compare(healthy, time.time() - CLOCK_SKEW_S)

    async def _read_requested_logs(self) -> None:
        """Executors request the log of a pod that ended well although its task's row still says running."""
        while True:
            await asyncio.sleep(LOG_REQUESTS_S)
            with contextlib.suppress(RedisUnavailable):
                for report in await self._outbox.log_requests():
                    self._tasks.start_background(f"read log of pod {report.pod}", self._publish_log(report))

    # --- events ---------------------------------------------------------------------------------------------------

    def _observe(self, event: str, pod: Any) -> None:
        seen = self._table.observe(event, pod, time.time(), time.monotonic())
        if seen.publication is not None:
            self._measure_lag(event, seen.publication.report)
            self._publish(seen.publication)
        if seen.doubtful is not None:
            self._doubt(seen.doubtful)
        if seen.skipped:
            log.warning("Skipping pod %s", seen.skipped)

    def _measure_lag(self, event: str, report: PodReport | None) -> None:
        """How long after the start or the end of its container this event came. A list finds old ones, and the container of
        a warm pod had started before.
        """
        if event == "LISTED" or report is None:
            return
        if report.terminal or (report.outcome == "started" and not identifiers.warm_id_of_pod(report.pod)):
            self._lags.add(max(0.0, time.time() - report.seen_at_s), time.monotonic())

    def _list_completed(self, namespace: str | None, listed: ListComplete) -> None:
        for entry in self._table.missing(namespace, listed.pods):
            self._doubt(entry)
        self._listed.set()
        waiting = self._table.fatal_waits()
        if waiting:
            self._tasks.start_background("continue waits", self._continue_waits(waiting))

    async def _continue_waits(self, entries: list[PodEntry]) -> None:
        """A wait that may become the end began under another leader: its grace period goes on."""
        retries = Backoff(first_s=0.2, most_s=5.0)
        while True:
            try:
                found = await self._outbox.waits(entries)
                break
            except RedisUnavailable:  # the script runner logs it
                await asyncio.sleep(retries.failed())
        for entry, ledger in zip(entries, found, strict=True):
            self._table.continue_wait(entry, ledger, time.time(), time.monotonic())

    # --- pods that may be gone ------------------------------------------------------------------------------------

    async def _compare(self, namespaces: Sequence[str | None], before_s: float) -> None:
        with contextlib.suppress(RedisUnavailable):  # the next comparison is soon
            async with contextlib.aclosing(self._outbox.believed_live(before_s)) as entries:
                async for entry in entries:
                    if not self._is_followed(entry) and self._is_expected(entry.namespace, namespaces):
                        self._doubt(entry)

    def _is_followed(self, entry: PodEntry) -> bool:
        """Does a reflector see the live pod of this attempt or name? Then the ledger cannot know better."""
        namespace = self._table.namespace_of(entry)
        return bool(namespace) and (namespace != entry.namespace or namespace not in self._unwatched)

    def _is_expected(self, namespace: str, healthy: Sequence[str | None]) -> bool:
        """Would this process know of a pod there, because it watches the namespace, or must it look the pod up?"""
        return None in healthy or namespace in healthy or self._is_unwatched(namespace)

    def _is_unwatched(self, namespace: str) -> bool:
        """Does no reflector follow this namespace? Then its pods are looked up one by one, at every comparison."""
        if None in self._scope.namespaces or namespace in self._scope.namespaces:
            return False
        if namespace not in self._unwatched:
            self._unwatched.add(namespace)
            log.warning(
                "Pods run in namespace %s, which is not watched; their ends are detected seconds late. Add it to "
                "[kubernetes_executor] multi_namespace_mode_namespace_list.", namespace,
            )  # fmt: skip
        return True

    def _doubt(self, entry: PodEntry) -> None:
        """Look up a pod that seems to be gone, once at a time."""
        if entry.key not in self._in_doubt:
            self._in_doubt.add(entry.key)
            self._tasks.start_background(f"look up pod {entry.name}", self._resolve(entry))

    async def _resolve(self, entry: PodEntry) -> None:
        pod = await self._lookups.find(entry)
        self._in_doubt.discard(entry.key)
        view = read_pod(pod)
        if pod is not None and view.belongs_to_others(self._settings.deployment, self._rules.cluster):
            return
        if pod is not None and (view.launch_id, view.attempt) == (entry.launch_id, entry.attempt):
            self._observe("MODIFIED", pod)
            # No watch reports this pod (its labels were changed), so that the next comparison has to look it up again.
            # In an unwatched namespace it does so anyway, and the entry is kept: what was published, how long it waits.
            if entry.namespace not in self._unwatched or view.phase in ("Succeeded", "Failed"):
                self._table.forget(entry.key)
            return
        publication = self._table.record_gone(entry, time.time(), time.monotonic())
        if publication is not None:
            self._publish(publication)

    # --- publishing -----------------------------------------------------------------------------------------------

    async def _explain(self, entry: PodEntry, due: DeferredReport) -> None:
        report = await self._lookups.with_event_reason(entry, due.report)
        if due.without_reason or report is not due.report:
            self._record(entry, report)

    def _record(self, entry: PodEntry, report: PodReport) -> None:
        publication = self._table.record(entry, report, time.time(), time.monotonic())
        if publication is not None:
            self._publish(publication)

    def _publish(self, publication: Publication) -> None:
        report = publication.report
        if report is None:
            self._outbox.put(publication)
        elif self._lookups.needs_log(report):
            self._tasks.start_background(f"read log of pod {report.pod}", self._publish_with_log(publication, report))
        else:
            noted = self._lookups.with_log_notice(report)
            self._outbox.put(publication if noted is report else replace(publication, report=noted))

    async def _publish_with_log(self, publication: Publication, report: PodReport) -> None:
        """Attach the end of the failed container's log before a clean-up can delete the pod."""
        try:
            report = await self._lookups.with_log_tail(report)
        finally:  # cancelled at the end of the term: better without a log than not at all
            self._outbox.put(replace(publication, report=report))

    async def _publish_log(self, ended: PodReport) -> None:
        report = await self._lookups.with_log_tail(ended.replaced(outcome="log"))
        self._outbox.put(Publication(report.launch_id, report.attempt, report))

    # --- status ---------------------------------------------------------------------------------------------------

    @property
    def known(self) -> int:
        """The number of pods that this watcher knows."""
        return len(self._table)

    @property
    def trouble(self) -> str:
        """Why this leader does not follow some of its pods; empty if it follows all of them."""
        if any(not item.position.listed_s for item in self._reflectors):
            return self._troubles() or "has not listed the pods yet"
        return self._troubles()

    def _troubles(self) -> str:
        return "; ".join(
            f"{item.position.trouble} ({item.namespace or 'all namespaces'})"
            for item in self._reflectors
            if item.position.trouble
        )[:TROUBLE_MAX]

    def _progress(self) -> dict[str, str]:
        """For `status` and readiness: the position of the least advanced healthy namespace, and what is wrong."""
        found = {"pods": str(len(self._table)), "unsent": str(len(self._outbox)), "trouble": self._troubles()}
        positions = [item.position for item in self._reflectors]
        healthy = [position for position in positions if position.listed_s and not position.trouble]
        if healthy:
            found["version"] = max((position.version for position in healthy), key=lambda text: (len(text), text))
            found["t_listed"] = f"{min(position.listed_s for position in healthy):.3f}"
            found["t_event"] = f"{min(position.last_event_s for position in healthy):.3f}"
        found[SNAPSHOT_FIELD] = encode_snapshot(self._snapshot(healthy))
        return found

    def _snapshot(self, healthy: Sequence[Position]) -> WatcherSnapshot:
        clock_s = time.monotonic()
        pods = summarize(self._table, time.time(), clock_s)
        return WatcherSnapshot(
            leader=self._term.leader,
            version=podrelay.__version__,
            starting=pods.starting,
            running=pods.running,
            ending=pods.ending,
            bookmark_s=min((position.bookmark_s for position in healthy), default=0.0),
            lag_s=self._lags.median(clock_s),
            waits=pods.waits,
        )
