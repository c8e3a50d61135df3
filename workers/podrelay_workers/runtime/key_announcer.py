"""Announces a worker's keys in Redis, and knows whether others encrypt with a key that it lacks.

Used by launcher and watcher.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

from podrelay.errors import RedisUnavailable
from podrelay.protocol.redis_keys import RedisKeys
from podrelay.store.async_scripts import AsyncScripts
from podrelay.store.key_rings import ANNOUNCE_S, REMEDY, KeyRing, announce, mismatches, read_rings

log = logging.getLogger(__name__)


class KeyAnnouncer:
    """The keys of this process, compared with those of the others."""

    def __init__(self, runner: AsyncScripts, keys: RedisKeys, ring: KeyRing) -> None:
        self._runner = runner
        self._keys = keys
        self._ring = ring
        self._logged: list[str] = []

    async def keep(self) -> None:
        """Announce the keys every few seconds, and log what differs when it changes."""
        while True:
            with contextlib.suppress(RedisUnavailable):
                await self.compare()
            await asyncio.sleep(ANNOUNCE_S)

    async def end(self) -> None:
        """Take the announcement back: this process is about to exit."""
        with contextlib.suppress(RedisUnavailable):
            await self._runner.call(lambda client: client.hdel(self._keys.key_rings, self._ring.process))

    async def compare(self) -> list[str]:
        """Which other processes encrypt with a key that this one lacks, a sentence for each.

        :raises RedisUnavailable: unknown.
        """
        found = mismatches(read_rings(await self._runner.run(announce(self._keys, self._ring))), self._ring)
        if found and found != self._logged:
            log.error("Fernet keys differ: %s. %s", "; ".join(found[:5]), REMEDY)
        self._logged = found
        return [sentence for sentence in found if sentence.startswith(f"{self._ring.process} does not have")]
