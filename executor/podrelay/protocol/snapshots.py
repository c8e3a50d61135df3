"""Pure: what launchers, the leading watcher and schedulers write about themselves for `status`, and how it is read.

Anybody with access to Redis may have written it, and so may a process of another version: what is missing, too long or of
another type reads as None, which means unknown.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeVar

from podrelay.protocol.messages import Json
from podrelay.protocol.redis_values import number_of, storable, text

# The field of a launcher's registration, and of `watch:<cluster>`, that holds a snapshot.
SNAPSHOT_FIELD = "podrelay"
# The longest snapshot, in characters; what is longer was not written by podrelay. Within VALUE_MAX of prelude.lua.
SNAPSHOT_MAX = 16_000
# The reasons for which pods wait in one snapshot, and the characters of a text in it.
REASONS_MOST, _TEXT_MAX = 15, 300

_Snapshot = TypeVar("_Snapshot")


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) <= 2.0**53 else None


def _count(value: Any) -> int | None:
    number = _number(value)
    return int(number) if number is not None and number >= 0 else None


def _flag(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def _text(value: Any) -> str | None:
    return storable(value[:_TEXT_MAX]) if isinstance(value, str) else None


def _read(reader: Callable[[Any], Any]) -> Any:
    return field(default=None, metadata={"read": reader})


@dataclass(frozen=True)
class LauncherSnapshot:
    """What a launcher does. `created_per_s` and `creation_p50_s` are of the last minute; `throttled_until_s` is wall clock,
    0 where nothing is paused.
    """

    version: str | None = _read(_text)
    in_flight: int | None = _read(_count)
    limit: int | None = _read(_count)
    created_per_s: float | None = _read(_number)
    creation_p50_s: float | None = _read(_number)
    throttled_until_s: float | None = _read(_number)
    throttled_why: str | None = _read(_text)
    draining: bool | None = _read(_flag)


@dataclass(frozen=True)
class WaitingPods:
    """Pods that wait for the same reason. `since_s` (wall clock) is when the first of them, that of `example` (a launch id),
    began to wait; `message` is its message.
    """

    reason: str
    count: int
    since_s: float
    example: str
    message: str


def _waits(value: Any) -> tuple[WaitingPods, ...] | None:
    if not isinstance(value, list):
        return None
    return tuple(wait for item in value[:REASONS_MOST] if (wait := _wait(item)) is not None)


def _wait(item: Any) -> WaitingPods | None:
    if not isinstance(item, dict):
        return None
    reason, count, since_s = _text(item.get("reason")), _count(item.get("count")), _number(item.get("since_s"))
    if not reason or not count or since_s is None:
        return None
    return WaitingPods(reason, count, since_s, _text(item.get("example")) or "", _text(item.get("message")) or "")


@dataclass(frozen=True)
class WatcherSnapshot:
    """What the leading watcher sees. It counts only while `leader` leads: another leader may have an older version.

    starting, running, ending: pods that have not started, that run, and that have ended or are being deleted. bookmark_s:
    wall-clock time of the last bookmark of the slowest watch. lag_s: the median of how long ago a container had started or
    ended when the watch said so, over the last minute; Kubernetes counts whole seconds, and clocks differ.
    """

    leader: str | None = _read(_text)
    version: str | None = _read(_text)
    starting: int | None = _read(_count)
    running: int | None = _read(_count)
    ending: int | None = _read(_count)
    bookmark_s: float | None = _read(_number)
    lag_s: float | None = _read(_number)
    waits: tuple[WaitingPods, ...] | None = _read(_waits)


@dataclass(frozen=True)
class SchedulerSnapshot:
    """What a scheduler announces. `unread`: the reports after its cursor, which `announce_scheduler.lua` counts to a limit,
    `at_s`: the time of the announcement by Redis' clock.
    """

    version: str | None = None
    launches: int | None = None
    unread: int | None = None
    at_s: float = 0.0


def encode_snapshot(snapshot: LauncherSnapshot | WatcherSnapshot) -> str:
    """As JSON of at most SNAPSHOT_MAX characters: the last of many waits are left out."""
    found = asdict(snapshot)
    while len(encoded := json.dumps(found)) > SNAPSHOT_MAX and found.get("waits"):
        found["waits"] = found["waits"][:-1]
    return encoded


def decode_snapshot(kind: type[_Snapshot], value: bytes | str | None) -> _Snapshot:
    """:param kind: LauncherSnapshot or WatcherSnapshot."""
    found = _json_object(text(value))
    return kind(**{item.name: item.metadata["read"](found.get(item.name)) for item in fields(kind)})  # type: ignore[arg-type]


def decode_schedulers(announced: Mapping[str, str]) -> dict[tuple[str, str], SchedulerSnapshot]:
    """The announcements in `schedulers`, by cluster and job id."""
    found = {}
    for name, announcement in announced.items():
        cluster, _, owner = name[:_TEXT_MAX].partition(" ")
        at_s, unread, launches, version = (*announcement[:_TEXT_MAX].split(" "), "", "", "", "")[:4]
        if owner and number_of(at_s) > 0:
            found[cluster, owner] = SchedulerSnapshot(
                version or None, _count(number_of(launches)), _count(number_of(unread)), number_of(at_s)
            )
    return found


def _json_object(encoded: str) -> Json:
    try:
        found = json.loads(encoded) if len(encoded) <= SNAPSHOT_MAX else None
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
