"""Sums up what happens to launches, in buckets of five minutes, and writes it to Redis. Used by the leading watcher.

The results stream is counted, with what the ledger holds of each attempt: what launchers publish counts as well, and nothing
is decrypted. The id of the last counted entry is written together with the counts, so that each entry counts once whichever
watcher leads. Only after a loss of Redis' data do the ends of the last seconds before it, which are published again, count
twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Sequence

import redis.asyncio

from podrelay.errors import RedisUnavailable
from podrelay.protocol.redis_keys import RedisKeys
from podrelay.protocol.redis_values import number_of
from podrelay.protocol.rollups import KEPT_S, ReportedStep, Rollup, bucket_of, bucket_starts, counts_of, encode
from podrelay.store import rollups
from podrelay.store.async_scripts import AsyncScripts
from podrelay.store.scripts import Fence
from podrelay_workers.watcher.leader_election import Term

log = logging.getLogger(__name__)

SAMPLE_S = 2.0  # how often is looked whether the API server throttles launches
WRITE_S = 10.0
# As in prelude.lua: no launcher writes a longer pause. Nor a longer number.
_PAUSE_MOST_S, _NUMBER_MAX = 600.0, 40
# Entries of the stream read at once, some milliseconds of Redis' time; and reads between two writes.
_BATCH, _BATCHES_MOST = 200, 200


class RollupWriter:
    """One for the life of the process: what it counted survives a loss of Redis' data."""

    def __init__(self, runner: AsyncScripts, keys: RedisKeys, cluster: str) -> None:
        self._runner = runner
        self._keys = keys
        self._cluster = cluster
        self._buckets: dict[int, Rollup] = {}
        self._changed: set[int] = set()
        self._cursor = ""

    async def run(self, term: Term) -> None:
        """Count while this process leads, until cancelled. While Redis fails, nothing is lost: the entries are read later."""
        loaded, written_s = False, time.monotonic()
        while True:
            await asyncio.sleep(SAMPLE_S)
            with contextlib.suppress(RedisUnavailable):
                if not loaded:
                    await self.load()
                    loaded = True
                await self.sample_throttle()
                if time.monotonic() - written_s >= WRITE_S:
                    written_s = time.monotonic()
                    await self.sum_up(term)

    async def load(self) -> None:
        """Continue what the former leader wrote. What Redis has lost is written again from memory.

        :raises RedisUnavailable: nothing is loaded.
        """
        now_s = time.time()
        call = rollups.load_rollups(self._keys, cluster=self._cluster, now_s=now_s)
        cursor, found = rollups.loaded(call, await self._runner.run(call))
        self._changed = set(self._buckets) - set(found)
        self._buckets |= found
        self._cursor = cursor or f"{int((now_s - KEPT_S) * 1000)}-0"

    async def sample_throttle(self) -> None:
        """Count the time since the last sample as throttled if launches are throttled now: right on average.

        :raises RedisUnavailable: there is no sample.
        """
        until, now_s = await self._runner.call(self._read_pause), time.time()
        if 0.0 < number_of(until) - now_s <= _PAUSE_MOST_S:
            self._count(now_s, "throttled_ms", int(SAMPLE_S * 1000))

    async def _read_pause(self, client: redis.asyncio.Redis) -> bytes | None:
        """Until when launches are throttled; None for a text that is longer than a number."""
        key = self._keys.throttle(self._cluster)
        length = await client.hstrlen(key, "until")
        until: bytes | None = await client.hget(key, "until") if length <= _NUMBER_MAX else None
        return until

    async def sum_up(self, term: Term) -> None:
        """Count what was published since the last call, and write what has changed.

        :raises RedisUnavailable: it is read, or written, by the next call.
        """
        before = self._cursor
        for _ in range(_BATCHES_MOST):
            call = rollups.read_steps(self._keys, cluster=self._cluster, after=self._cursor, most=_BATCH)
            position, steps = rollups.steps_in(await self._runner.run(call))
            self._add(steps)
            if position == self._cursor:
                break
            self._cursor = position
        if self._changed or self._cursor != before:
            await self._write(term)

    def _add(self, steps: Sequence[ReportedStep]) -> None:
        now_s = time.time()
        for step in steps:
            for name in counts_of(step):
                self._count(bucket_of(step.at_s, now_s), name)

    def _count(self, at_s: float, name: str, by: int = 1) -> None:
        bucket = bucket_of(at_s, time.time())
        self._buckets.setdefault(bucket, Rollup())[name] += by
        self._changed.add(bucket)

    async def _write(self, term: Term) -> None:
        oldest = bucket_starts(time.time())[0]
        self._buckets = {bucket: rollup for bucket, rollup in self._buckets.items() if bucket >= oldest}
        changed = {bucket: encode(self._buckets[bucket]) for bucket in self._changed & set(self._buckets)}
        call = rollups.write_rollups(
            self._keys, cluster=self._cluster, fence=Fence(term.leader, term.fence), oldest=oldest, cursor=self._cursor,
            changed=changed,
        )  # fmt: skip
        fields = await self._runner.run(call)
        if fields == -2:
            log.debug("Rollups not written: another watcher leads")
            return
        # Somebody has deleted the key, or fields of it: all are written again.
        self._changed = set() if fields > len(self._buckets) else set(self._buckets)
