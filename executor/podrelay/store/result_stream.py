"""Read outcomes from the results stream in bounded batches, with a cursor that lives in memory.

Every scheduler reads every entry; there is no consumer group that could vanish. What a scheduler misses (it started
later, the stream was trimmed or lost) stands in the ledger and is found by reconciliation.
"""

from __future__ import annotations

import logging
from typing import Any

import redis

from podrelay.errors import MessageError
from podrelay.protocol.encryption import PayloadCipher
from podrelay.protocol.messages import PodReport
from podrelay.protocol.redis_keys import RedisKeys
from podrelay.store.circuit_breaker import CircuitBreaker

log = logging.getLogger(__name__)


class ResultStream:
    """:raises RedisUnavailable: from `read` and `skip_to_end`; the position is then unchanged."""

    def __init__(self, breaker: CircuitBreaker, keys: RedisKeys, cipher: PayloadCipher) -> None:
        self._breaker = breaker
        self._key = keys.results
        self._quarantine = keys.quarantine
        self._cipher = cipher
        self._cursor: str | None = None

    def skip_to_end(self) -> None:
        """Begin behind what is there now: a scheduler that starts learns of older outcomes from the ledger."""
        last = self._breaker.call(lambda client: client.xrevrange(self._key, count=1))
        self._cursor = _text(last[0][0]) if last else "0-0"

    def rewind(self) -> None:
        """Begin at the first entry: the stream was lost and starts anew, perhaps with smaller ids."""
        self._cursor = "0-0"

    def read(self, most: int) -> list[PodReport]:
        """The next outcomes, at most `most`; an entry that cannot be trusted goes to quarantine and is passed over."""
        if self._cursor is None:
            self.skip_to_end()
        position: Any = {self._key: self._cursor}
        answer = self._breaker.call(lambda client: client.xread(position, count=most))
        entries = (
            answer[0][1] if isinstance(answer, list) and answer else next(iter(answer.values()))[0] if answer else []
        )
        results = []
        for entry_id, fields in entries:
            try:
                results.append(self.open(fields[b"result"]))
            except (MessageError, KeyError) as error:
                self._refuse(_text(entry_id), error)
        if entries:
            self._cursor = _text(entries[-1][0])
        return results

    def open(self, sealed: bytes | str) -> PodReport:
        """:raises MessageError: forged, damaged or of another version."""
        return PodReport.decode(self._cipher.decrypt(sealed))

    def _refuse(self, entry_id: str, error: Exception) -> None:
        why = str(error) or type(error).__name__
        log.warning("Quarantined entry %s of the results stream: %s", entry_id, why)

        def add(client: redis.Redis) -> None:
            client.xadd(self._quarantine, {"stream_entry": entry_id, "why": why}, maxlen=10_000, approximate=True)

        self._breaker.call(add)


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
