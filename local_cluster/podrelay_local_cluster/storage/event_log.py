"""The last N changes of one resource, in order. Watches read it, and it decides between resuming and 410 Expired."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from dataclasses import dataclass

from podrelay_local_cluster.objects.errors import version_too_old
from podrelay_local_cluster.objects.record import Record

ADDED, MODIFIED, DELETED = "ADDED", "MODIFIED", "DELETED"


@dataclass(frozen=True)
class ObjectEvent:
    """A change: `record` is the object after it (for DELETED: its last state), `previous` the object before it."""

    type: str
    record: Record
    previous: Record | None

    @property
    def version(self) -> int:
        return self.record.version


class EventLog:
    """A bounded log with cursors. A cursor counts events since the start of the server, so trimming does not move it."""

    def __init__(self, window: int, floor: int) -> None:
        self._window = max(1, window)
        self._events: list[ObjectEvent] = []
        self._first = 0  # cursor of self._events[0]
        self._floor = floor  # the oldest version from which the kept events continue without a gap
        self._waiting: set[asyncio.Event] = set()

    def __len__(self) -> int:
        return min(len(self._events), self._window)

    @property
    def oldest_version(self) -> int:
        """The oldest version from which a watch can resume without a gap."""
        dropped = len(self._events) - self._window
        return self._events[dropped - 1].version if dropped > 0 else self._floor

    @property
    def end(self) -> int:
        return self._first + len(self._events)

    def append(self, event: ObjectEvent) -> None:
        self._events.append(event)
        if len(self._events) >= 2 * self._window:
            self._trim(len(self._events) - self._window)
        self.wake()

    def compact(self, version: int) -> None:
        """Drop all events: every version before `version` becomes 410 Expired. Open watches that are up to date continue."""
        self._trim(len(self._events))
        self._floor = version

    def cursor_after(self, version: int) -> int:
        """The cursor of the first event newer than `version`. Raises `StatusError` 410 when such events were dropped."""
        if version < self.oldest_version:
            raise version_too_old(version, self.oldest_version)
        return self._first + bisect_right(self._events, version, key=lambda event: event.version)

    def read(self, cursor: int, limit: int = 500) -> list[ObjectEvent]:
        """Up to `limit` events from `cursor` on. Raises `StatusError` 410 for a cursor outside the window."""
        start = cursor - self._first
        if start < 0 or start < len(self._events) - self._window:
            raise version_too_old(0, self.oldest_version)
        return self._events[start : start + limit]

    def wake(self) -> None:
        """Wake every waiting reader, after a new event or for another reason."""
        for waiter in self._waiting:
            waiter.set()

    def subscribe(self) -> asyncio.Event:
        """An asyncio event that each change sets; pass it to `unsubscribe` afterwards."""
        waiter = asyncio.Event()
        self._waiting.add(waiter)
        return waiter

    def unsubscribe(self, waiter: asyncio.Event) -> None:
        self._waiting.discard(waiter)

    @property
    def watchers(self) -> int:
        return len(self._waiting)

    def _trim(self, count: int) -> None:
        if count:
            self._floor = self._events[count - 1].version
            del self._events[:count]
            self._first += count
