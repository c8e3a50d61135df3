"""What Redis knows of launches, for the executor: a comparison with its own state, and the entries of single launches.

Used by the reconciler and the orphan collector. Only scripts write the ledger; each changes an entry in one step together
with the queue or the stream that the change concerns.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from podrelay.protocol.redis_keys import RedisKeys
from podrelay.protocol.redis_values import count_of, fields_of, text
from podrelay.store import liveness, scripts
from podrelay.store.bounded_reads import read_entries, read_launches
from podrelay.store.circuit_breaker import CircuitBreaker

What = Literal["missing", "lost", "rejected", "unreadable", "unknown_format", "finished", "withdrawn", "ahead"]


@dataclass(frozen=True, slots=True)
class Finding:
    """A launch on which the executor and the ledger disagree. `sealed_result` is empty unless there is one.

    missing: no entry for this attempt. lost: it waits, but its RQ job is gone. rejected: a launcher could not read the job.
    unreadable: it waits for a launcher that has its key. unknown_format: it waits for a launcher that reads its format.
    finished: its result is there.
    withdrawn: it was withdrawn. ahead: the ledger is at a later attempt, after this many relaunches.
    """

    launch_id: str
    what: What
    attempt: int
    sealed_result: str
    relaunches: int = 0


class Ledger:
    """:raises RedisUnavailable: from every method."""

    def __init__(self, breaker: CircuitBreaker, keys: RedisKeys) -> None:
        self._breaker = breaker
        self._keys = keys

    def survey(self, launches: Sequence[tuple[str, int]]) -> tuple[str, list[Finding]]:
        """Compare launches (id, attempt) in one round trip.

        :return: the epoch, an id that changes when Redis loses its data; and the launches that need attention.
        """
        reply = self._breaker.run(scripts.survey(self._keys, fresh_epoch=uuid.uuid4().hex, launches=launches))
        epoch, *flat = map(text, reply)
        found = zip(*(flat[field::5] for field in range(5)), strict=True)
        return epoch, [
            # Each relaunch was an attempt, whatever the unencrypted field holds.
            Finding(launch_id, what, int(attempt or -1), result, count_of(relaunches, int(attempt or 0)))
            for launch_id, what, attempt, result, relaunches in found
        ]

    def entries(self, launch_ids: Sequence[str]) -> list[dict[str, str]]:
        """The whole ledger entries of some launches; an empty dict for an unknown launch or a key of another type."""
        entries = self._breaker.run(read_entries(self._keys, launch_ids)) if launch_ids else []
        return [fields_of(flat) for flat in entries]

    def without_launcher(self, cluster: str, launch_ids: Sequence[str], now_s: float) -> list[str]:
        """The launches among these that wait to be claimed while no launcher is alive."""
        return liveness.without_launcher(self._breaker, self._keys, cluster, launch_ids, now_s)

    def unacknowledged(self, before_s: float, first: int, most: int) -> list[str]:
        """Launches whose result, or whose withdrawal with a pod that waits, is still unacknowledged since this time: their
        scheduler may be dead. The oldest come first; the `first` oldest are left out.
        """
        key = self._keys.unacknowledged
        call = read_launches(self._keys, key, before=before_s, most=most, left_out=first)
        _, *found = map(text, self._breaker.run(call))
        return found

    def live(self, cluster: str, cursor: int, before_s: float, count: int) -> tuple[int, list[str]]:
        """Some of the launches with a pod created before this wall-clock time, and the cursor for the next ones."""
        key = self._keys.live(cluster)
        call = read_launches(self._keys, key, before=before_s, most=count, cursor=str(cursor))
        following, *found = map(text, self._breaker.run(call))
        return int(following), found
