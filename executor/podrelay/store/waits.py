"""What waits in the queues of one cluster, and why. Used by `overview`.

A launch that waits for quota or for the API server says why in its ledger entry. There may be very many: of a long
registry, a sample at equal distances is read, and its counts are scaled up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import redis

from podrelay.protocol import identifiers, redis_keys
from podrelay.protocol.messages import Json
from podrelay.protocol.redis_keys import RedisKeys
from podrelay.protocol.redis_values import number_of, rows, text
from podrelay.store.bounded_reads import read_short
from podrelay.store.connection import unless_of_another_type

# The most ledger entries of waiting launches that are read, and how many neighbours at a time.
_READ_MOST, _SLICE = 2000, 50
# Bytes in Redis of what a queue may hold beside its ids, and of one id.
_SIZE_MOST, _SIZE_OF_ID = 4 << 20, 500
# Fair queues that are read: one per scheduler and level.
_FAIR_QUEUES_MOST = 200
_REASON_MAX, _MESSAGE_MAX = 100, 500
# podrelay writes fewer reasons; what is beyond counts as one.
_REASONS_MOST = 50


@dataclass(frozen=True)
class Wait:
    """What waits for the same reason. `example` is the launch that has waited longest, `message` its message."""

    reason: str
    count: int
    oldest_s: float | None
    example: str
    message: str


@dataclass(frozen=True)
class Queue:
    """One RQ queue, a level's fair queues included as queues of their own. `first` is the launch at its head. One that is not
    readable holds ids that are longer than those of podrelay: it is only counted.
    """

    name: str
    kind: str
    priority: str
    queued: int
    started: int
    waiting: int
    failed: int
    first: str = ""
    oldest_s: float | None = None
    is_readable: bool = True

    @property
    def holds_any(self) -> bool:
        return bool(self.queued or self.started or self.waiting or self.failed)

    def as_json(self) -> Json:
        """For `--json`."""
        return {
            "kind": self.kind,
            "priority": self.priority,
            "queued": self.queued,
            "started": self.started,
            "waiting": self.waiting,
            "failed": self.failed,
            "oldest_s": self.oldest_s,
        }


# --- queues -------------------------------------------------------------------------------------------------------
def read_queues(
    client: redis.Redis, keys: RedisKeys, cluster: str, fair_queues: Mapping[str, str], now_s: float
) -> list[Queue]:
    """Every queue of a cluster, the most urgent first, each level before its fair queues; the clean-up queue last."""
    names = list(_names(keys, cluster, fair_queues))
    pipeline = client.pipeline(transaction=False)
    for name, _, _ in names:
        pipeline.llen(redis_keys.rq_queue(name))
        pipeline.zcard(redis_keys.rq_started(name))
        pipeline.zcard(redis_keys.rq_scheduled(name))
        pipeline.zcard(redis_keys.rq_failed(name))
        pipeline.memory_usage(redis_keys.rq_queue(name), samples=0)
        pipeline.memory_usage(redis_keys.rq_scheduled(name), samples=0)
    replies = list(unless_of_another_type(pipeline.execute(raise_on_error=False), None))
    found = []
    for (name, kind, priority), row in zip(names, rows(replies, 6), strict=True):
        queued, started, waiting, failed, list_size, set_size = (count or 0 for count in row)
        found.append(
            Queue(name, kind, priority, queued, started, waiting, failed,
                  is_readable=list_size <= _size_most(queued) and set_size <= _size_most(waiting))
        )  # fmt: skip
    return _with_ages(client, keys, _with_heads(client, found), now_s)


def _size_most(members: int) -> int:
    """Bytes in Redis of so many ids of jobs; more is not read, because somebody else has written some of them."""
    return _SIZE_MOST + _SIZE_OF_ID * members


def _with_heads(client: redis.Redis, queues: Sequence[Queue]) -> list[Queue]:
    pipeline = client.pipeline(transaction=False)
    held = [queue for queue in queues if queue.queued and queue.is_readable]
    for queue in held:
        pipeline.lindex(redis_keys.rq_queue(queue.name), 0)
    firsts = unless_of_another_type(pipeline.execute(raise_on_error=False) if held else (), None)
    launches = {
        queue.name: identifiers.launch_of_job(text(first)[:200]) for queue, first in zip(held, firsts, strict=True)
    }
    return [replace(queue, first=launches.get(queue.name, "")) for queue in queues]


def _names(keys: RedisKeys, cluster: str, fair_queues: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """Name, kind and priority."""
    of_level: dict[str, list[str]] = {}
    for name, level_queue in sorted(fair_queues.items())[:_FAIR_QUEUES_MOST]:
        if name.startswith(f"{level_queue}."):
            of_level.setdefault(level_queue, []).append(name)
    for level in reversed(range(redis_keys.PRIORITY_LEVELS)):
        level_queue = keys.launch_queue(cluster, level)
        for name in (level_queue, *of_level.get(level_queue, ())):
            yield name, "launch", f"p{1 << level}"
    yield keys.cleanup_queue(cluster), "cleanup", ""


def _with_ages(client: redis.Redis, keys: RedisKeys, queues: Sequence[Queue], now_s: float) -> list[Queue]:
    """The head of a queue is its oldest, apart from what was put back: since its offer, or since the order of a clean-up."""
    entries = read_short(client, [keys.launch(queue.first) for queue in queues], ("t_offered", "t_acknowledged"))
    return [
        replace(queue, oldest_s=_ago(entry.get("t_offered" if queue.kind == "launch" else "t_acknowledged"), now_s))
        for queue, entry in zip(queues, entries, strict=True)
    ]


def queued_waits(queues: Sequence[Queue], obstacle: tuple[str, str]) -> list[Wait]:
    """The launches that no launcher has claimed yet, as one wait.

    :param obstacle: why none of them is claimed, as reason and message; empty where they are.
    """
    held = [queue for queue in queues if queue.kind == "launch" and queue.queued]
    if not held:
        return []
    count = sum(queue.queued for queue in held)
    oldest = max(held, key=lambda queue: queue.oldest_s or 0.0)
    reason, message = obstacle if obstacle[0] else ("Queued", f"up to {count - 1} launches are ahead")
    return [Wait(reason, count, oldest.oldest_s, oldest.first, message)]


# --- launches that wait for quota or the API server ---------------------------------------------------------------
def read_waits(client: redis.Redis, keys: RedisKeys, queues: Sequence[Queue], now_s: float) -> tuple[list[Wait], int]:
    """The launches that wait until the time of their next try, by reason; and how many of them were read. If not all of them
    were read, the counts are estimates.
    """
    waiting = sum(queue.waiting for queue in queues)
    launches = _sample(client, queues)
    entries = read_short(client, [keys.launch(launch) for launch in launches], ("reason", "message", "t_offered"))
    read = [_wait(launch, entry, now_s) for launch, entry in zip(launches, entries, strict=True)]
    scale = max(1.0, waiting / len(read)) if read else 1.0
    return [replace(wait, count=round(wait.count * scale)) for wait in merged(read)], len(read)


def _wait(launch: str, entry: Mapping[str, str], now_s: float) -> Wait:
    reason, message = entry.get("reason", "")[:_REASON_MAX] or "unknown", entry.get("message", "")[:_MESSAGE_MAX]
    return Wait(reason, 1, _ago(entry.get("t_offered"), now_s), launch, message)


def merged(waits: Sequence[Wait]) -> list[Wait]:
    """Pure: one wait for each reason, the most frequent first; the rarest of very many together as "other"."""
    reasons: dict[str, list[Wait]] = {}
    for wait in waits:
        reasons.setdefault(wait.reason, []).append(wait)
    found = sorted(map(_together, reasons.values()), key=lambda wait: -wait.count)
    if len(found) <= _REASONS_MOST:
        return found
    return [*found[: _REASONS_MOST - 1], replace(_together(found[_REASONS_MOST - 1 :]), reason="other")]


def _together(waits: Sequence[Wait]) -> Wait:
    oldest = max(waits, key=lambda wait: wait.oldest_s or 0.0)
    return replace(oldest, count=sum(wait.count for wait in waits))


def _sample(client: redis.Redis, queues: Sequence[Queue]) -> list[str]:
    """Ids of waiting launches, from every registry in proportion to its length."""
    waiting = sum(queue.waiting for queue in queues)
    pipeline = client.pipeline(transaction=False)
    for queue in (queue for queue in queues if queue.is_readable):
        for first, last in slices(queue.waiting, max(1, _READ_MOST * queue.waiting // max(_READ_MOST, waiting))):
            pipeline.zrange(redis_keys.rq_scheduled(queue.name), first, last)
    found = unless_of_another_type(pipeline.execute(raise_on_error=False), ()) if len(pipeline) else ()
    jobs = (text(job)[:200] for members in found for job in members)
    return [launch for job in jobs if (launch := identifiers.launch_of_job(job))][:_READ_MOST]


def slices(length: int, most: int) -> list[tuple[int, int]]:
    """Pure: first and last index of pieces of a row, at most `most` indexes in all, at equal distances."""
    if length <= most:
        return [(0, length - 1)] if length else []
    pieces = -(-most // _SLICE)
    size = most // pieces
    return [(start, start + size - 1) for start in (piece * length // pieces for piece in range(pieces))]


def _ago(at: str | None, now_s: float) -> float | None:
    since_s = number_of(at)
    return max(0.0, now_s - since_s) if since_s else None
