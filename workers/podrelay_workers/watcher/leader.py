"""One term of the watcher that leads: pod_watch -> pod_table (verdict) -> publisher. Used by the watcher.

Nothing here outlives the term: the next leader, here or elsewhere, lists the pods and compares them with the ledger.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any

from podrelay.errors import RedisUnavailable
from podrelay.protocol.messages import PodReport
from podrelay.settings import Settings
from podrelay_workers.kube.client import PodClient
from podrelay_workers.kube.errors import ApiError, NotFound
from podrelay_workers.runtime.backoff import Backoff
from podrelay_workers.runtime.tasks import cancel_and_wait
from podrelay_workers.watcher.leader_election import LeaderElection, Term
from podrelay_workers.watcher.outbox import NotLeader, Outbox
from podrelay_workers.watcher.pod_state import DeferredReport, Rules, add_event_reason
from podrelay_workers.watcher.pod_table import PodEntry, PodNews, PodTable, of_others, same_launch
from podrelay_workers.watcher.reflector import LONGEST_PAUSE_S, ListComplete, PodEvent, Reflector

log = logging.getLogger(__name__)

TICK_S = 1.0  # how exactly grace periods are kept
COMPARE_S = 60.0  # pods that vanish without an event, from outside of our watch, are found after at most this
ELSEWHERE_S = 5.0  # so often the pods of namespaces that are not watched are asked for, one by one
# Clocks of launchers and of this process differ: a pod younger than this may be missing from a list.
SLACK_S = 5.0
GATHER_LISTS_S = 0.2
LOG_TAIL_S = 3.0  # a result waits no longer than this for the last lines of its log
LOG_TAIL_BYTES = 8192
ASKING = 16  # requests for single pods at once, beside the watch


class DataLost(Exception):  # noqa: N818 - not an error of ours: it is dealt with by starting over
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
        leadership: LeaderElection,
        publisher: Outbox,
        term: Term,
    ) -> None:
        self._settings = settings
        self._api = api
        self._rules = rules
        self._scope = scope
        self._leadership = leadership
        self._publisher = publisher
        self._term = term
        self._table = PodTable(rules)
        self._watches = [
            Reflector(api, namespace, scope.selector, settings.watch_silence_s) for namespace in scope.namespaces
        ]
        self._listed = asyncio.Event()
        self._elsewhere: set[str] = set()
        self._asking = asyncio.Semaphore(ASKING)
        self._errands: set[asyncio.Task[None]] = set()
        self._doubted: set[tuple[str, str]] = set()
        self._broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        """Until any task ends, which only an error makes them do.

        :raises NotLeader: or DataLost, or whatever ended a task: half of a watcher is worse than none.
        """
        work: list[Coroutine[Any, Any, None]] = [self._keep_lead(), self._keep_time(), self._compare_often()]
        work += [self._publisher.forever(self._term), *(self._follow(watch) for watch in self._watches)]
        tasks = [asyncio.ensure_future(item) for item in work]
        try:
            done, _ = await asyncio.wait([*tasks, self._broken], return_when=asyncio.FIRST_COMPLETED)
            for item in done:
                item.result()
        finally:
            await cancel_and_wait(*tasks, *self._errands)
            self._broken.cancel()

    # --- tasks ----------------------------------------------------------------------------------------------------

    async def _keep_lead(self) -> None:
        waits = Backoff(first_s=0.1, most_s=1.0)
        while True:
            try:
                term = await self._leadership.claim(self._progress())
            except RedisUnavailable:  # the publisher tells about it; publishing is fenced, so watching goes on
                await asyncio.sleep(waits.failed())
                continue
            waits.worked()
            if term is None or term.fence != self._term.fence:
                # A fence that changed under us means that somebody else led meanwhile, or that the data is gone.
                raise DataLost if term is not None and term.epoch != self._term.epoch else NotLeader
            if term.epoch != self._term.epoch:
                raise DataLost
            await asyncio.sleep(self._settings.watch_lease_s / 3)

    async def _follow(self, watch: Reflector) -> None:
        async with contextlib.aclosing(watch.forever()) as items:
            async for item in items:
                if isinstance(item, PodEvent):
                    self._take(item.event, item.pod)
                else:
                    self._complete(watch.namespace, item)

    async def _keep_time(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            for row, due in self._table.due(time.monotonic()):
                if due.ask:
                    self._errand(self._tell_with_events(row, due))
                else:
                    self._tell(row, due.result)

    async def _compare_often(self) -> None:
        """Look for launches whose pod is gone, after lists (several namespaces' at once) and then every minute."""
        while True:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._listed.wait(), ELSEWHERE_S if self._elsewhere else COMPARE_S)
                await asyncio.sleep(GATHER_LISTS_S)
            self._listed.clear()
            healthy = [watch.namespace for watch in self._watches if watch.position.known(COMPARE_S)]
            if healthy:
                await self._compare(healthy, time.time() - SLACK_S)

    # --- events ---------------------------------------------------------------------------------------------------

    def _take(self, event: str, pod: Any) -> None:
        taken = self._table.take(event, pod, time.time(), time.monotonic())
        if taken.news is not None:
            self._publish(taken.news)
        if taken.confirm is not None:
            self._doubt(taken.confirm)
        if taken.skipped:
            log.warning("Skipping pod %s", taken.skipped)

    def _complete(self, namespace: str | None, listed: ListComplete) -> None:
        for row in self._table.missing(namespace, listed.pods):
            self._doubt(row)
        self._listed.set()
        waiting = self._table.waiting()
        if waiting:
            self._errand(self._recall(waiting))

    async def _recall(self, rows: list[PodEntry]) -> None:
        """A wait that may become the end began under another leader: its grace goes on."""
        waits = Backoff(first_s=0.2, most_s=5.0)
        while True:
            try:
                found = await self._publisher.waits(rows)
                break
            except RedisUnavailable:  # the publisher tells about it
                await asyncio.sleep(waits.failed())
        for row, ledger in zip(rows, found, strict=True):
            self._table.recall(row, ledger, time.time(), time.monotonic())

    async def _compare(self, namespaces: Sequence[str | None], before_s: float) -> None:
        with contextlib.suppress(RedisUnavailable):  # the next comparison is never far
            async with contextlib.aclosing(self._publisher.believed_live(before_s)) as rows:
                async for row in rows:
                    place = self._table.place_of(row.name)
                    if place and (place != row.namespace or place not in self._elsewhere):
                        continue
                    if None in namespaces or row.namespace in namespaces or self._is_elsewhere(row.namespace):
                        self._doubt(row)

    def _is_elsewhere(self, namespace: str) -> bool:
        """Is this namespace not watched at all? Then its pods are asked for one by one, again and again."""
        if None in self._scope.namespaces or namespace in self._scope.namespaces:
            return False
        if namespace not in self._elsewhere:
            self._elsewhere.add(namespace)
            log.warning(
                "Pods run in namespace %s, which is not watched: their ends are noticed seconds late. Add it to "
                "[kubernetes_executor] multi_namespace_mode_namespace_list.", namespace,
            )  # fmt: skip
        return True

    # --- single pods ----------------------------------------------------------------------------------------------

    def _doubt(self, row: PodEntry) -> None:
        key = (row.namespace, row.name)
        if key not in self._doubted:
            self._doubted.add(key)
            self._errand(self._confirm(row))

    async def _confirm(self, row: PodEntry) -> None:
        """Ask for one pod that seems to be gone, until there is a clear answer."""
        pod, waits = None, Backoff(first_s=0.5, most_s=10.0)
        while True:
            try:
                async with self._asking:
                    pod = await self._api.get_pod(row.namespace, row.name)
                break
            except NotFound:
                break
            except ApiError as error:
                if not waits.failures:
                    log.info("Whether pod %s/%s is gone stays open for now: %s", row.namespace, row.name, error)
                await asyncio.sleep(min(waits.failed("", error.retry_after_s), LONGEST_PAUSE_S))
        self._doubted.discard((row.namespace, row.name))
        if pod is not None and of_others(pod, self._settings.deployment, self._rules.cluster):
            return
        if pod is not None and same_launch(pod, row):
            self._take("MODIFIED", pod)
            # Our watch does not tell of it (its labels were changed), so the next comparison has to ask again. Where
            # nothing is watched it asks anyway, and what was said of the pod, and how long it waits, is kept.
            if row.namespace not in self._elsewhere or pod.get("status", {}).get("phase") in ("Succeeded", "Failed"):
                self._table.forget((row.namespace, row.name))
            return
        news = self._table.gone(row, time.time(), time.monotonic())
        if news is not None:
            self._publish(news)

    def _tell(self, row: PodEntry, result: PodReport) -> None:
        news = self._table.tell(row, result, time.time(), time.monotonic())
        if news is not None:
            self._publish(news)

    async def _tell_with_events(self, row: PodEntry, due: DeferredReport) -> None:
        """Why a pod does not start stands in Kubernetes' events only: a missing secret or volume, a full network."""
        try:
            async with self._asking:
                events = await self._api.list_events(row.namespace, name=row.name, uid=row.uid)
        except ApiError as error:
            log.debug("The events of pod %s/%s cannot be read: %s", row.namespace, row.name, error)
            events = []
        explained = add_event_reason(due.result, events)
        if due.bare or explained is not due.result:
            self._tell(row, explained)

    def _publish(self, news: PodNews) -> None:
        result = news.result
        if result is None or result.outcome != "failed" or not self._settings.failure_log_lines:
            self._publisher.put(news)
        elif result.exit_code:
            self._errand(self._publish_with_log(news))
        elif result.reason in ("PodDeleted", "PodVanished"):
            gone = replace(result, log_tail=("(the log cannot be read: the pod is gone)",))
            self._publisher.put(replace(news, result=gone))
        else:
            self._publisher.put(news)

    async def _publish_with_log(self, news: PodNews) -> None:
        """Attach the last lines of the container that failed, before anybody can clean the pod up."""
        result = news.result
        assert result is not None
        try:
            lines = await asyncio.wait_for(self._log_tail(news), LOG_TAIL_S)
        except (ApiError, asyncio.TimeoutError) as error:
            lines = [f"(the log cannot be read: {error or 'no answer in time'})"]
        except asyncio.CancelledError:
            self._publisher.put(news)
            raise
        self._publisher.put(replace(news, result=replace(result, log_tail=tuple(lines))))

    async def _log_tail(self, news: PodNews) -> list[str]:
        result = news.result
        assert result is not None
        async with self._asking:
            return await self._api.read_log_tail(
                result.namespace,
                result.pod,
                container=result.container,
                tail_lines=self._settings.failure_log_lines,
                limit_bytes=LOG_TAIL_BYTES,
            )

    # --- helpers --------------------------------------------------------------------------------------------------

    def _errand(self, work: Coroutine[Any, Any, None]) -> None:
        """Run beside the rest; an unexpected error ends the term with it."""
        task = asyncio.ensure_future(work)
        self._errands.add(task)
        task.add_done_callback(self._errand_done)

    def _errand_done(self, task: asyncio.Task[None]) -> None:
        self._errands.discard(task)
        if not task.cancelled() and task.exception() is not None and not self._broken.done():
            self._broken.set_exception(task.exception() or RuntimeError("lost"))

    @property
    def trouble(self) -> str:
        """Why this leader is deaf to some of its pods; empty if it is not."""
        if any(not watch.position.listed_s for watch in self._watches):
            return self._troubles() or "has not listed the pods yet"
        return self._troubles()

    def _troubles(self) -> str:
        return "; ".join(
            f"{watch.position.trouble} ({watch.namespace or 'all namespaces'})"
            for watch in self._watches if watch.position.trouble
        )[:500]  # fmt: skip

    def _progress(self) -> dict[str, str]:
        """For `status` and liveness: how far the least advanced namespace is, and what is wrong."""
        places = [watch.position for watch in self._watches]
        said = {
            "pods": str(len(self._table)),
            "unsent": str(len(self._publisher)),
            "trouble": self._troubles(),
        }
        healthy = [place for place in places if place.listed_s and not place.trouble]
        if healthy:
            said["version"] = max((place.version for place in healthy), key=lambda text: (len(text), text))
            said["t_listed"] = f"{min(place.listed_s for place in healthy):.3f}"
            said["t_event"] = f"{min(place.last_event_s for place in healthy):.3f}"
        return said
