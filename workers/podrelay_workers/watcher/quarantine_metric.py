"""Counts what any process quarantined, as the metric `podrelay.quarantined`. Used by `watcher`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import Any, get_args

from podrelay.errors import RedisUnavailable
from podrelay.metrics_table import OTHER, QUARANTINED
from podrelay.protocol.redis_keys import RedisKeys
from podrelay.protocol.redis_values import fields_of, text
from podrelay.store.async_scripts import AsyncScripts
from podrelay.store.bounded_reads import read_stream
from podrelay.store.quarantine import Source
from podrelay_workers.runtime.metrics import Metrics

INTERVAL_S = 5.0
_BATCH = 100


class QuarantineMetric:
    """Follows the quarantine stream. Only the leading watcher counts, so that each entry counts once; the others keep up."""

    def __init__(self, runner: AsyncScripts, keys: RedisKeys, metrics: Metrics) -> None:
        self._runner = runner
        self._keys = keys
        self._metrics = metrics
        metrics.prepare(QUARANTINED)
        self._cursor = ""

    async def keep(self, leads: Callable[[], bool]) -> None:
        """Count until cancelled. What was quarantined before is not counted."""
        while True:
            with contextlib.suppress(RedisUnavailable):
                await self.count(emit=leads())
            await asyncio.sleep(INTERVAL_S)

    async def count(self, *, emit: bool) -> None:
        """Count the entries since the last call.

        :raises RedisUnavailable: they are counted by the next call.
        """
        if not self._cursor:
            (last,) = await self._runner.run(read_stream(self._keys, self._keys.quarantine, "$"))
            self._cursor = text(last)
        while True:
            reply = await self._runner.run(read_stream(self._keys, self._keys.quarantine, self._cursor, _BATCH))
            position, entries = text(reply[0]), reply[1]
            for _, flat in entries if emit else ():
                self._metrics.count(QUARANTINED, *labels(fields_of(flat)))
            if position == self._cursor:
                return
            self._cursor = position


def labels(entry: Mapping[str, Any]) -> tuple[str, str]:
    """Pure: what was quarantined, and why. Anybody with access to Redis may have written the entry: `Metrics` counts texts
    that are not podrelay's as "other".
    """
    source = next((name for name in get_args(Source) if name in entry), OTHER)
    return source, str(entry.get("kind", ""))
