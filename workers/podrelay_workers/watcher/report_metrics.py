"""Counts the reports that were published, and times and logs the launches that ended. Used by `outbox` and `watcher`.

The times are in the ledger, which is read beside the publication: no report waits for a metric or a log line.
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
from podrelay_workers.watcher.report_log import log_end

INTERVAL_S = 1.0
# Ledger entries read at once, and launches remembered while Redis does not answer; the latest count.
_BATCH, _ENDED_MAX = 200, 10_000


class ReportMetrics:
    """Of one process. Only what this process published counts, so that each report counts once."""

    def __init__(self, runner: AsyncScripts, keys: RedisKeys, metrics: Metrics) -> None:
        self._runner = runner
        self._keys = keys
        self._metrics = metrics
        self._ended: deque[PodReport] = deque(maxlen=_ENDED_MAX)

    def published(self, report: PodReport) -> None:
        """Count a report that Redis has accepted as new."""
        self._metrics.count(REPORTS, report.outcome, report.failure_class or "none")
        if report.terminal:
            long = report.message or report.log_tail
            self._ended.append(report.replaced(message="", log_tail=()) if long else report)

    async def keep(self) -> None:
        """Time and log what ended, until cancelled; the log then says the rest without times."""
        try:
            while True:
                await asyncio.sleep(INTERVAL_S)
                with contextlib.suppress(RedisUnavailable):
                    await self.time_steps()
        finally:
            for report in self._ended:
                log_end(report, {})

    async def time_steps(self) -> None:
        """:raises RedisUnavailable: the rest is timed by the next call."""
        while self._ended:
            reports = [self._ended[place] for place in range(min(_BATCH, len(self._ended)))]
            replies = await self._runner.run(read_entries(self._keys, [report.launch_id for report in reports]))
            for _ in reports:
                self._ended.popleft()
            for report, entry in zip(reports, map(fields_of, replies), strict=True):
                log_end(report, entry)
                for step, seconds in lifecycle.durations_s(entry):
                    self._metrics.observe(LIFECYCLE, seconds, step)
