"""Watches: one stream of events per request, from a version or from the current state, with bookmarks and a clean end.

Follows "API concepts" (Efficient detection of changes, Watch bookmarks, Streaming lists). For a version that is no longer
kept, the response is HTTP 200 with one ERROR event that holds a `Status` of code 410, as from the API server's watch cache.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from podrelay_local_cluster.api.representation import Form, empty_object, object_json
from podrelay_local_cluster.control.faults import Faults
from podrelay_local_cluster.http.query import integer, is_true, version
from podrelay_local_cluster.http.request_info import RequestInfo
from podrelay_local_cluster.objects import selectors
from podrelay_local_cluster.objects.errors import StatusError, expired, forbidden_value, invalid
from podrelay_local_cluster.objects.json_text import to_json
from podrelay_local_cluster.objects.record import Record
from podrelay_local_cluster.objects.selectors import Selector
from podrelay_local_cluster.storage.event_log import ADDED, DELETED, MODIFIED, ObjectEvent
from podrelay_local_cluster.storage.store import ObjectStore

_MIN_LIFE_S = 1800.0
"""A watch without timeoutSeconds lasts a random time between this and twice this, as on a real API server."""
_LINES_PER_WRITE = 500


@dataclass(frozen=True)
class WatchRequest:
    """The parameters of a watch. `version` 0: start with the current state."""

    info: RequestInfo
    selector: Selector
    version: int
    send_initial_events: bool | None
    bookmarks: bool
    timeout_s: float
    form: Form

    @classmethod
    def from_query(cls, info: RequestInfo, query: Mapping[str, str], form: Form) -> WatchRequest:
        """Raises `StatusError` 400 or 422."""
        selector = selectors.parse(info.resource, query.get("labelSelector", ""), query.get("fieldSelector", ""))
        start = version(query) or 0
        initial = is_true(query["sendInitialEvents"]) if query.get("sendInitialEvents") else None
        version_match = query.get("resourceVersionMatch", "")
        if initial is not None and version_match != "NotOlderThan":
            reason = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
            raise invalid(info.resource, "", [forbidden_value("resourceVersionMatch", reason)])
        if initial is None and version_match:
            reason = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"
            raise invalid(info.resource, "", [forbidden_value("resourceVersionMatch", reason)])
        seconds = integer(query, "timeoutSeconds")
        timeout_s = float(seconds) if seconds else _MIN_LIFE_S * random.uniform(1, 2)
        bookmarks = is_true(query.get("allowWatchBookmarks"))
        return cls(info, selector, start, initial, bookmarks, timeout_s, form)


class StreamSink(Protocol):
    """Where the bytes of a stream go."""

    async def write(self, data: bytes) -> None: ...

    def cut(self) -> None:
        """Close the connection without ending the stream."""


class OpenWatches:
    """What all watches share. `end_all` ends those that are open."""

    def __init__(self, store: ObjectStore, faults: Faults, bookmark_interval_s: float) -> None:
        self.store = store
        self.faults = faults
        self.bookmark_interval_s = bookmark_interval_s
        self.generation = 0
        """A watch ends when this number changes."""

    def end_all(self) -> None:
        """End every open watch cleanly: clients see the end of the stream."""
        self.generation += 1
        self.store.wake_watchers()


class WatchStream:
    """One watch from its first event to its end."""

    def __init__(self, watches: OpenWatches, request: WatchRequest, sink: StreamSink) -> None:
        self._watches = watches
        self._request = request
        self._sink = sink
        self._log = watches.store.logs[request.info.resource]
        self._cursor = 0
        self._start_version = 0
        self._order = watches.faults.next_order()
        self._silencers: set[str] = set()
        self._generation = watches.generation

    async def run(self, gone: bool = False) -> None:
        """Write events until the watch ends. `gone`: a fault makes the watch start with 410."""
        changed = self._log.subscribe()
        try:
            if gone:
                raise expired(f"too old resource version: {self._request.version} (injected by a fault rule)")
            while self._is_silent():
                await _next_change(changed)
            await self._begin()
            await self._follow(changed)
        except StatusError as exc:
            await self._sink.write(_line("ERROR", to_json(exc.status())))
        finally:
            self._log.unsubscribe(changed)

    async def _begin(self) -> None:
        """Send the current state if the watch starts with it, and set the cursor to the first event after it."""
        request, store = self._request, self._watches.store
        with_state = request.version == 0 if request.send_initial_events is None else request.send_initial_events
        self._start_version = request.version or store.version
        if request.version and not with_state:
            self._cursor = self._log.cursor_after(request.version)
            return
        self._cursor = self._log.end
        if with_state:
            lines = self._state_lines()
            for start in range(0, len(lines), _LINES_PER_WRITE):
                await self._sink.write(b"".join(lines[start : start + _LINES_PER_WRITE]))

    def _state_lines(self) -> list[bytes]:
        request, store = self._request, self._watches.store
        records = store.records(request.info.resource, request.info.namespace)
        lines = [
            _line(ADDED, object_json(record, request.form))
            for record in records
            if request.selector.matches(record.obj)
        ]
        if request.send_initial_events and request.bookmarks:
            lines.append(self._bookmark(store.version, initial_end=True))
        return lines

    async def _follow(self, changed: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        interval_s = self._watches.bookmark_interval_s
        end, next_bookmark = loop.time() + self._request.timeout_s, loop.time() + interval_s
        while self._generation == self._watches.generation:
            changed.clear()
            if self._is_silent():
                await _next_change(changed)
                continue
            if await self._send_events():
                continue
            now = loop.time()
            if now >= end:
                await self._send_bookmark()
                return
            if now >= next_bookmark:
                await self._send_bookmark()
                next_bookmark = now + interval_s
            await _wait(changed, min(end, next_bookmark) - now)

    def _is_silent(self) -> bool:
        return self._watches.faults.silences(self._request.info, self._order, self._silencers)

    async def _send_events(self) -> bool:
        """False when there are no new events."""
        events = self._log.read(self._cursor)
        if not events:
            return False
        self._cursor += len(events)
        lines = [line for line in map(self._line_of, events) if line]
        if not lines:
            return True
        if self._watches.faults.truncates(self._request.info):
            await self._sink.write(lines[0][: len(lines[0]) // 2])
            self._sink.cut()
            raise ConnectionResetError("a fault rule cut the stream")
        await self._sink.write(b"".join(lines))
        return True

    async def _send_bookmark(self) -> None:
        """Skipped until the version passes that of the start: a real watch cache is silent while nothing changes."""
        if self._request.bookmarks and self._watches.store.version > self._start_version:
            await self._sink.write(self._bookmark(self._watches.store.version))

    def _bookmark(self, version: int, initial_end: bool = False) -> bytes:
        obj = empty_object(self._request.info.resource, version, self._request.form, initial_end)
        return _line("BOOKMARK", to_json(obj))

    def _line_of(self, event: ObjectEvent) -> bytes:
        """Empty for an event that the request does not select."""
        request = self._request
        if event.version <= request.version or (
            request.info.namespace and event.record.namespace != request.info.namespace
        ):
            return b""
        shown = translate(event, request.selector)
        return _line(shown[0], object_json(shown[1], request.form)) if shown else b""


def translate(event: ObjectEvent, selector: Selector) -> tuple[str, Record] | None:
    """Pure: an event as seen through a selector. Leaving the selection is DELETED, entering it is ADDED."""
    if not selector:
        return event.type, event.record
    before = event.previous is not None and selector.matches(event.previous.obj)
    now = event.type != DELETED and selector.matches(event.record.obj)
    if now:
        return (MODIFIED if before else ADDED), event.record
    if not before or event.previous is None:
        return None
    if event.type == DELETED:
        return DELETED, event.record
    old = event.previous.obj
    metadata = {**old["metadata"], "resourceVersion": str(event.version)}
    return DELETED, Record(event.record.resource, {**old, "metadata": metadata}, event.version, event.previous)


def _line(kind: str, obj: bytes) -> bytes:
    return b'{"type":"%s","object":%s}\n' % (kind.encode("ascii"), obj)


async def _next_change(changed: asyncio.Event) -> None:
    changed.clear()
    await changed.wait()


async def _wait(changed: asyncio.Event, seconds: float) -> None:
    handle = asyncio.get_running_loop().call_later(max(0.0, seconds), changed.set)
    try:
        await changed.wait()
    finally:
        handle.cancel()
