"""The last N changes of one resource, in order: what a watch reads, and what decides between resuming and 410 Expired."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from dataclasses import dataclass

from podrelay_local_cluster.objects.errors import version_too_old
from podrelay_local_cluster.storage.record import Record

ADDED, MODIFIED, DELETED = "ADDED", "MODIFIED", "DELETED"


@dataclass(frozen=True)
class Event:
    """A change: `record` is the object after it (for DELETED: its last state), `previous` the object before it."""

    type: str
    record: Record
    previous: Record | None

    @property
    def version(self) -> int:
        return self.record.version


class EventLog:
    """A bounded log with cursors. A cursor counts the events since the start of the server, so it survives trimming."""

    def __init__(self, window: int, floor: int) -> None:
        self._window = max(1, window)
        self._events: list[Event] = []
        self._first = 0  # cursor of self._events[0]
        self._floor = floor  # nothing at or below this version needs to be known to resume from it
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

    def append(self, event: Event) -> None:
        self._events.append(event)
        if len(self._events) >= 2 * self._window:
            self._trim(len(self._events) - self._window)
        self.wake()

    def forget(self, version: int) -> None:
        """Compact: every version before `version` becomes 410 Expired. Open watches that are up to date go on."""
        self._trim(len(self._events))
        self._floor = version

    def cursor_after(self, version: int) -> int:
        """The place of the first event newer than `version`. Raises `ApiError` 410 when such events are forgotten."""
        if version < self.oldest_version:
            raise version_too_old(version, self.oldest_version)
        return self._first + bisect_right(self._events, version, key=lambda event: event.version)

    def read(self, cursor: int, limit: int = 500) -> list[Event]:
        """Up to `limit` events from `cursor` on. Raises `ApiError` 410 for a reader who fell out of the window."""
        start = cursor - self._first
        if start < 0 or start < len(self._events) - self._window:
            raise version_too_old(0, self.oldest_version)
        return self._events[start : start + limit]

    def wake(self) -> None:
        """Let every waiting reader look again, also for reasons other than a new event."""
        for waiter in self._waiting:
            waiter.set()

    def subscribe(self) -> asyncio.Event:
        """An event set by each change; hand it back to `unsubscribe`."""
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
