"""The figures of the whole deployment, as the leading watcher reads them from Redis. Used by `watcher`.

Only one process exports them: they are the same for all, and reading them costs Redis time.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial

import redis

from podrelay import metrics_table
from podrelay.errors import RedisUnavailable
from podrelay.metrics_table import Metric
from podrelay.protocol.messages import Json
from podrelay.protocol.redis_keys import RedisKeys
from podrelay.settings import Settings
from podrelay.store.connection import connect, redis_errors
from podrelay.store.overview import read_overview
from podrelay_workers.runtime.metrics import Metrics, Reading, Values

log = logging.getLogger(__name__)

READ_S = 10.0
# How often a standby looks whether it leads.
STANDBY_S = 1.0
# Older figures are not exported: missing ones do not look like good ones.
OBSOLETE_S = 60.0
_TIMEOUT_S = 2.0
# A scheduler that did not announce itself for this long does not count.
_SCHEDULER_SILENT_S = 30.0

Figures = Mapping[Metric, Reading]


class OverviewMetrics:
    """Reads the figures every few seconds while this watcher leads, in a thread and through a connection of their own."""

    def __init__(self, settings: Settings, cluster: str, metrics: Metrics, leads: Callable[[], bool]) -> None:
        """:param leads: does this watcher lead now?"""
        self._settings = settings
        self._keys = RedisKeys(settings.deployment)
        self._cluster = cluster
        self._leads = leads
        self._figures: Figures = {}
        self._read_at_s = float("-inf")
        self._client: redis.Redis | None = None
        for metric in EXPORTED:
            metrics.gauge(metric, partial(self._figure, metric))
        metrics.gauge(metrics_table.OVERVIEW_AGE, lambda: self._age_s if self._is_current else None)

    async def keep(self) -> None:
        """Read until cancelled."""
        try:
            while True:
                if self._leads():
                    await self._try()
                await asyncio.sleep(READ_S if self._leads() else STANDBY_S)
        finally:
            if self._client is not None:
                self._client.close()

    async def _try(self) -> None:
        try:
            await self.read()
        except RedisUnavailable as error:
            log.debug("Cannot read the figures of the deployment: %s", error)
        except Exception:  # an error of ours: missing figures raise an alert, and the watcher's work goes on
            log.exception("Cannot read the figures of the deployment; trying again in %.0f s", READ_S)

    async def read(self) -> None:
        """:raises RedisUnavailable: the figures read before stay until they are obsolete."""
        overview = await asyncio.to_thread(self._read)
        self._figures, self._read_at_s = figures_of(overview), time.monotonic()

    def _read(self) -> Json:
        self._client = self._client or connect(self._settings, timeout_s=_TIMEOUT_S)
        with redis_errors(self._client):
            return read_overview(self._client, self._keys, self._cluster, time.time())

    def _figure(self, metric: Metric) -> Reading:
        return self._figures.get(metric) if self._is_current else None

    @property
    def _age_s(self) -> float:
        return time.monotonic() - self._read_at_s

    @property
    def _is_current(self) -> bool:
        return self._leads() and self._age_s < OBSOLETE_S


def figures_of(overview: Json) -> Figures:
    """Pure: the gauges that an overview holds."""
    watcher, launchers = overview["watcher"], overview["launchers"]
    alive = [launcher for launcher in launchers if launcher["alive"]]
    schedulers = [each for each in overview["schedulers"] if each["last_update_s_ago"] < _SCHEDULER_SILENT_S]
    return {
        **_queues(overview["queues"]),
        **_waits(overview["waits"]),
        metrics_table.LAUNCHERS: {
            ("alive",): len(alive),
            ("silent",): len(launchers) - len(alive),
            ("throttled",): sum(bool(launcher["throttled_s"]) for launcher in alive),
            ("draining",): sum(bool(launcher["draining"]) for launcher in alive),
        },
        metrics_table.SCHEDULERS: len(schedulers),
        metrics_table.UNREAD: max((each["unread"] or 0 for each in schedulers), default=None),
        metrics_table.PODS: {(state,): count for state, count in overview["pods"].items() if count is not None},
        metrics_table.LIST_AGE: watcher["listed_s_ago"],
        metrics_table.EVENT_AGE: watcher["event_s_ago"],
        metrics_table.BOOKMARK_AGE: watcher["bookmark_s_ago"],
        metrics_table.WATCH_LAG: watcher["lag_s"],
        metrics_table.WATCH_TROUBLE: float(bool(watcher["trouble"])),
        metrics_table.UNACKNOWLEDGED: overview["unacknowledged"],
        metrics_table.RESULTS: overview["results"],
        metrics_table.QUARANTINE: overview["quarantine"],
        metrics_table.KEY_MISMATCHES: len(overview["key_mismatches"]),
        metrics_table.SUSPENDED: float(overview["suspended"]),
        metrics_table.REFUSED_CLEANUPS: len(overview["refused_cleanups"]),
        metrics_table.WARM_POOLS_OFF: _pools_off(overview.get("warm")),
    }


# Every gauge of `figures_of`.
EXPORTED = (
    metrics_table.QUEUE, metrics_table.OLDEST_QUEUED, metrics_table.WAITING, metrics_table.OLDEST_WAIT,
    metrics_table.LAUNCHERS, metrics_table.SCHEDULERS, metrics_table.UNREAD, metrics_table.PODS, metrics_table.LIST_AGE,
    metrics_table.EVENT_AGE, metrics_table.BOOKMARK_AGE, metrics_table.WATCH_LAG, metrics_table.WATCH_TROUBLE,
    metrics_table.UNACKNOWLEDGED, metrics_table.RESULTS, metrics_table.QUARANTINE, metrics_table.KEY_MISMATCHES,
    metrics_table.SUSPENDED, metrics_table.REFUSED_CLEANUPS, metrics_table.WARM_POOLS_OFF,
)  # fmt: skip


def _pools_off(warm: Json | None) -> Reading:
    return None if warm is None else sum(bool(shape["off_s"]) for shape in warm["shapes"])


def _waits(waits: Iterable[Json]) -> Figures:
    """How many wait for each reason, and how long the oldest does. A reason may come twice: of launches, and of pods."""
    counts: dict[Values, float] = {}
    oldest_s: dict[Values, float] = {}
    for wait in waits:
        reason = (metrics_table.WAIT_REASON.known(wait["reason"]),)
        counts[reason] = counts.get(reason, 0) + wait["count"]
        oldest_s[reason] = max(oldest_s.get(reason, 0.0), wait["oldest_s"] or 0.0)
    return {metrics_table.WAITING: counts, metrics_table.OLDEST_WAIT: oldest_s}


def _queues(queues: Mapping[str, Json]) -> Figures:
    """The counts and the oldest of each priority; the queue of its level and the fair queues beside it together."""
    counts: dict[Values, float] = {}
    oldest_s: dict[Values, float] = {}
    for queue in queues.values():
        priority = queue["priority"] if queue["kind"] == "launch" else "cleanup"
        for state in ("queued", "started", "waiting", "failed"):
            counts[priority, state] = counts.get((priority, state), 0) + queue[state]
        if queue["oldest_s"] is not None:
            oldest_s[(priority,)] = max(oldest_s.get((priority,), 0.0), queue["oldest_s"])
    return {metrics_table.QUEUE: counts, metrics_table.OLDEST_QUEUED: oldest_s}
