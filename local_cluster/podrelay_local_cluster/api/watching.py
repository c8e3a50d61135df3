"""Watches: one stream of events per request, from a version on or from the present, with bookmarks and a clean end.

After "API concepts" (Efficient detection of changes, Watch bookmarks, Streaming lists): a version that is no longer known is
answered with HTTP 200 and one ERROR event that holds a `Status` of code 410, as the API server's watch cache does.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from podrelay_local_cluster.api.listing import integer
from podrelay_local_cluster.api.representation import Form, empty_object, object_json
from podrelay_local_cluster.api.request_info import RequestInfo, is_true
from podrelay_local_cluster.control.faults import Faults
from podrelay_local_cluster.objects import selectors
from podrelay_local_cluster.objects.errors import ApiError, bad_request, expired, forbidden_value, invalid
from podrelay_local_cluster.objects.selectors import Selector
from podrelay_local_cluster.storage.event_log import ADDED, DELETED, MODIFIED, Event
from podrelay_local_cluster.storage.record import Record, to_json
from podrelay_local_cluster.storage.store import ObjectStore

Json = dict[str, Any]

_SHORTEST_LIFE_S = 1800.0
"""A watch without timeoutSeconds lives this long, and up to twice as long by chance, as on a real API server."""


@dataclass(frozen=True)
class WatchRequest:
    """The parameters of a watch; `version` 0 stands for any present state."""

    info: RequestInfo
    selector: Selector
    version: int
    send_initial_events: bool | None
    bookmarks: bool
    timeout_s: float
    form: Form

    @classmethod
    def of_query(cls, info: RequestInfo, query: Mapping[str, str], form: Form) -> WatchRequest:
        """Raises `ApiError` 400 or 422."""
        selector = selectors.parse(info.resource, query.get("labelSelector", ""), query.get("fieldSelector", ""))
        version = query.get("resourceVersion", "") or "0"
        if not version.isdecimal():
            raise bad_request(f'Invalid value: "{version}": resourceVersion is no version of this server')
        initial = is_true(query["sendInitialEvents"]) if query.get("sendInitialEvents") else None
        version_match = query.get("resourceVersionMatch", "")
        if initial is not None and version_match != "NotOlderThan":
            why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
            raise invalid(info.resource, "", [forbidden_value("resourceVersionMatch", why)])
        if initial is None and version_match:
            why = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"
            raise invalid(info.resource, "", [forbidden_value("resourceVersionMatch", why)])
        seconds = integer(query, "timeoutSeconds")
        timeout_s = float(seconds) if seconds else _SHORTEST_LIFE_S * random.uniform(1, 2)
        bookmarks = is_true(query.get("allowWatchBookmarks"))
        return cls(info, selector, int(version), initial, bookmarks, timeout_s, form)


class Sink(Protocol):
    """Where the bytes of a stream go."""

    async def write(self, data: bytes) -> None: ...

    def cut(self) -> None:
        """Break the connection without an end of the stream."""


class Streams:
    """All open watches; `drop` ends them."""

    def __init__(self, store: ObjectStore, faults: Faults, bookmark_interval_s: float) -> None:
        self.store = store
        self.faults = faults
        self.bookmark_interval_s = bookmark_interval_s
        self.generation = 0

    def drop(self) -> None:
        """End every open watch now, cleanly; their clients see the end of the stream."""
        self.generation += 1
        self.store.wake_watchers()


class WatchStream:
    """One watch from its first event to its end."""

    def __init__(self, streams: Streams, request: WatchRequest, sink: Sink) -> None:
        self._streams = streams
        self._request = request
        self._sink = sink
        self._log = streams.store.logs[request.info.resource]
        self._cursor = 0
        self._began_at = 0  # the version
        self._opened = streams.faults.next_order()
        self._silencers: set[str] = set()
        self._generation = streams.generation

    async def run(self, gone: bool = False) -> None:
        """Write events until the watch ends; `gone` is the injected 410."""
        changed = self._log.subscribe()
        try:
            if gone:
                raise expired(f"too old resource version: {self._request.version} (injected by a fault rule)")
            while self._is_silent():
                await _next_change(changed)
            await self._begin()
            await self._follow(changed)
        except ApiError as exc:
            await self._sink.write(_line("ERROR", to_json(exc.status())))
        finally:
            self._log.unsubscribe(changed)

    async def _begin(self) -> None:
        """The present state, if it is wanted; then the cursor stands where the live events go on."""
        request, store = self._request, self._streams.store
        wants_present = request.version == 0 if request.send_initial_events is None else request.send_initial_events
        self._began_at = request.version or store.version
        if request.version and not wants_present:
            self._cursor = self._log.cursor_after(request.version)
            return
        self._cursor = self._log.end
        if not wants_present:
            return
        version = store.version
        present = [
            r for r in store.records(request.info.resource, request.info.namespace) if request.selector.matches(r.obj)
        ]
        lines = [_line(ADDED, object_json(record, request.form)) for record in present]
        if request.send_initial_events and request.bookmarks:
            lines.append(self._bookmark(version, initial_end=True))
        for start in range(0, len(lines), 500):
            await self._sink.write(b"".join(lines[start : start + 500]))

    async def _follow(self, changed: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        interval_s = self._streams.bookmark_interval_s
        end, next_bookmark = loop.time() + self._request.timeout_s, loop.time() + interval_s
        while self._generation == self._streams.generation:
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
        return self._streams.faults.silences(self._request.info, self._opened, self._silencers)

    async def _send_events(self) -> bool:
        """False when there is nothing new."""
        events = self._log.read(self._cursor)
        if not events:
            return False
        self._cursor += len(events)
        lines = [line for line in map(self._line_of, events) if line]
        if not lines:
            return True
        if self._streams.faults.truncates(self._request.info):
            await self._sink.write(lines[0][: len(lines[0]) // 2])
            self._sink.cut()
            raise ConnectionResetError("a fault rule cut the stream")
        await self._sink.write(b"".join(lines))
        return True

    async def _send_bookmark(self) -> None:
        """Only of a version beyond that where the watch began: a real watch cache is silent while nothing changes."""
        if self._request.bookmarks and self._streams.store.version > self._began_at:
            await self._sink.write(self._bookmark(self._streams.store.version))

    def _bookmark(self, version: int, initial_end: bool = False) -> bytes:
        obj = empty_object(self._request.info.resource, version, self._request.form, initial_end)
        return _line("BOOKMARK", to_json(obj))

    def _line_of(self, event: Event) -> bytes:
        """Empty for an event that this watch does not show."""
        request = self._request
        if event.version <= request.version or (
            request.info.namespace and event.record.namespace != request.info.namespace
        ):
            return b""
        shown = translate(event, request.selector)
        return _line(shown[0], object_json(shown[1], request.form)) if shown else b""


def translate(event: Event, selector: Selector) -> tuple[str, Record] | None:
    """Pure: how an event looks through a selector. Leaving the selection is DELETED, entering it is ADDED."""
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
