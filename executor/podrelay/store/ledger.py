"""What Redis knows of launches: compared with the executor's own belief, and read for some launches.

The ledger is written by scripts only (`podrelay/lua`, `podrelay_workers/lua`), each of which changes it in one step
together with the queue or the stream that it speaks of.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import redis
from redis.exceptions import ResponseError

from podrelay.protocol import redis_keys
from podrelay.protocol.messages import number_of
from podrelay.protocol.redis_keys import RedisKeys
from podrelay.store.circuit_breaker import CircuitBreaker
from podrelay.store.liveness import without_launcher

What = Literal["missing", "lost", "finished", "withdrawn", "ahead"]


@dataclass(frozen=True, slots=True)
class Finding:
    """A launch on which the executor and the ledger disagree. `sealed_result` is empty unless there is one.

    missing: no entry for this attempt. lost: it waits, but its RQ job is gone. finished: its result is there.
    withdrawn: it was taken back. ahead: the ledger is at a later attempt, after so many relaunches.
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

        :return: the epoch, an id that changes when Redis lost its data; and what needs attention, nothing else.
        """
        args: list[str | int] = [self._keys.launch_prefix, redis_keys.RQ_JOB_PREFIX, uuid.uuid4().hex]
        for launch_id, attempt in launches:
            args += (launch_id, attempt)
        answer = [_text(item) for item in self._breaker.run("survey", [self._keys.epoch], args)]
        rows = zip(*(answer[field::5] for field in range(1, 6)), strict=True)
        return answer[0], [
            # Each relaunch was an attempt, whatever the field says.
            Finding(launch_id, what, int(attempt or -1), result, min(_count(relaunches), int(attempt or 0)))
            for launch_id, what, attempt, result, relaunches in rows
        ]

    def entries(self, launch_ids: Sequence[str]) -> list[dict[str, str]]:
        """The ledger of some launches, whole; an empty dict for one that is unknown, or whose key is not of our making."""

        def read(client: redis.Redis) -> list[dict[bytes, bytes]]:
            pipeline = client.pipeline(transaction=False)
            for launch_id in launch_ids:
                pipeline.hgetall(self._keys.launch(launch_id))
            found = pipeline.execute(raise_on_error=False)
            return [_unless_of_another_type(entry) for entry in found]

        return [{_text(k): _text(v) for k, v in entry.items()} for entry in self._breaker.call(read)]

    def without_launcher(self, cluster: str, launch_ids: Sequence[str], now_s: float) -> list[str]:
        """The launches among these that wait to be claimed while no launcher is alive."""
        return without_launcher(self._breaker, self._keys, cluster, launch_ids, now_s)

    def unacknowledged(self, before_s: float, first: int, most: int) -> list[str]:
        """LaunchRegistry whose end, or whose waiting pod after a withdrawal, nobody has cared for since this time: perhaps who
        would is dead. In the order of time, without the `first` ones.
        """
        key = self._keys.unacknowledged
        found = self._breaker.call(lambda client: client.zrangebyscore(key, "-inf", before_s, first, most))
        return [_text(item) for item in found]

    def live(self, cluster: str, cursor: int, before_s: float, count: int) -> tuple[int, list[str]]:
        """Some of the launches that have a pod made before this time (wall clock), and the cursor for the next ones."""
        key = self._keys.live(cluster)
        cursor, found = self._breaker.call(lambda client: client.zscan(key, cursor, count=count))
        return int(cursor), [_text(launch_id) for launch_id, created_s in found if created_s < before_s]


def _unless_of_another_type(entry: Any) -> Any:
    """:raises ResponseError: any other refusal, for instance of a Redis that may not be read now."""
    if isinstance(entry, ResponseError):
        if str(entry).startswith("WRONGTYPE"):
            return {}
        raise entry
    return entry


def _count(text: str) -> int:
    return max(0, int(number_of(text)))


def _text(value: bytes | str) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
