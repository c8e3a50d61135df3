"""Announces this scheduler and its keys, and warns of processes whose messages it cannot read, or that cannot read its own.

Called by the executor's `sync`, one round trip every few seconds.
"""

from __future__ import annotations

import logging
import time
from typing import Any

import podrelay
from podrelay.errors import RedisRefused
from podrelay.scheduling.context import HeartbeatContext
from podrelay.store.key_rings import ANNOUNCE_S, REMEDY, announce, mismatches, read_rings
from podrelay.store.scripts import announce_scheduler

log = logging.getLogger(__name__)

_REMIND_S = 60.0


class KeyCheck:
    """:raises RedisUnavailable: from `run_once`."""

    def __init__(self, context: HeartbeatContext) -> None:
        self._breaker = context.breaker
        self._keys = context.keys
        self._ring = context.key_ring
        self._context = context
        self._next_run_s = 0.0
        # Sentence to the time when it was last logged (monotonic).
        self._logged: dict[str, float] = {}

    def run_once(self) -> None:
        """Compare if it is time. A mismatch is logged when it is found, and again every minute."""
        now_s = time.monotonic()
        if now_s < self._next_run_s:
            return
        self._next_run_s = now_s + ANNOUNCE_S
        found = mismatches(read_rings(self._announce()), self._ring)
        if self._logged and not found:
            log.info("All processes have the same keys again")
        self._logged = {sentence: at_s for sentence, at_s in self._logged.items() if sentence in found}
        due = [item for item in found if now_s - self._logged.get(item, float("-inf")) >= _REMIND_S]
        if due:
            log.error("Fernet keys differ: %s. %s", "; ".join(due[:5]), REMEDY)
            self._logged.update(dict.fromkeys(due, now_s))

    def _announce(self) -> list[Any]:
        """The key rings of all, as the script returns them. In the same round trip, this scheduler says how far it is."""
        context = self._context
        state = announce_scheduler(
            self._keys,
            cluster=context.identity.cluster,
            owner=context.identity.owner,
            cursor=context.results.cursor,
            launches=len(context.launches),
            version=podrelay.__version__,
        )
        own = announce(self._keys, self._ring)
        rings: list[Any]
        try:
            rings, _ = self._breaker.run_many([own, state])
        except RedisRefused:  # one of them, it does not say which: the keys matter more
            rings = self._breaker.run(own)
        return rings
