"""Wall-clock time as Kubernetes writes it (RFC 3339). For fields of objects only, never for durations."""

from __future__ import annotations

import time
from datetime import datetime, timezone
from functools import lru_cache

EPOCH = "1970-01-01T00:00:00Z"
"""The zero time, e.g. `startedAt` of a container that never started."""


def text(moment: datetime) -> str:
    return moment.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def now() -> datetime:
    return datetime.now(timezone.utc)


def now_text() -> str:
    """Now, at the resolution of `metav1.Time`: one second."""
    return _text_of_second(int(time.time()))


@lru_cache(maxsize=4)
def _text_of_second(second: int) -> str:
    return text(datetime.fromtimestamp(second, timezone.utc))


def text_fine(moment: datetime) -> str:
    """With microseconds, for container logs; such texts sort by time."""
    return moment.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def now_text_fine() -> str:
    return text_fine(now())


def parse(value: str) -> datetime:
    """Raises ValueError for text that is not an RFC 3339 time."""
    return datetime.fromisoformat(value.replace("Z", "+00:00"))
