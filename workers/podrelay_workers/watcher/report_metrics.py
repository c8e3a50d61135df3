"""Counts the reports that were published, and times the steps of the launches that ended. Used by `outbox` and `watcher`.

The times are in the ledger, which is read beside the publication: no report waits for a metric.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque

from podrelay.errors import RedisUnavailable
from podrelay.metrics_table import LIFECYCLE, REPORTS
from podrelay.protocol import lifecycle
from podrelay.protocol.messages import PodReport
from podrelay.protocol.redis_keys import RedisKeys
from podrelay.protocol.redis_values import fields_of
from podrelay.store.async_scripts import AsyncScripts
from podrelay.store.bounded_reads import read_entries
from podrelay_workers.runtime.metrics import Metrics

INTERVAL_S = 1.0
# Ledger entries read at once, and launches remembered while Redis does not answer; the latest count.
_BATCH, _ENDED_MAX = 200, 10_000


class ReportMetrics:
    """Of one process. Only what this process published counts, so that each report counts once."""

    def __init__(self, runner: AsyncScripts, keys: RedisKeys, metrics: Metrics) -> None:
        self._runner = runner
        self._keys = keys
        self._metrics = metrics
        self._ended: deque[str] = deque(maxlen=_ENDED_MAX)

    def published(self, report: PodReport) -> None:
        """Count a report that Redis has accepted as new."""
        self._metrics.count(REPORTS, report.outcome, report.failure_class or "none")
        if report.terminal:
            self._ended.append(report.launch_id)

    async def keep(self) -> None:
        """Time the steps of what ended, until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL_S)
            with contextlib.suppress(RedisUnavailable):
                await self.time_steps()

    async def time_steps(self) -> None:
        """:raises RedisUnavailable: the rest is timed by the next call."""
        while self._ended:
            launches = [self._ended[place] for place in range(min(_BATCH, len(self._ended)))]
            entries = await self._runner.run(read_entries(self._keys, launches))
            for _ in launches:
                self._ended.popleft()
            for entry in map(fields_of, entries):
                for step, seconds in lifecycle.durations_s(entry):
                    self._metrics.observe(LIFECYCLE, seconds, step)
