"""An endless stream of pods: list, watch from the list's version, resume, list again. Used by `leader`, one per namespace.

Four layers, each of which handles the failures it knows and passes the rest up:
`events` never ends; `_list` is one complete list; `_watch` resumes until only a new list helps; `PodClient.list_page` and
`PodClient.watch_stream` are one request each.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, NamedTuple

from podrelay.protocol.messages import Json
from podrelay_workers.kube.client import Page, PodClient
from podrelay_workers.kube.encoding import is_plain, metadata_of
from podrelay_workers.kube.errors import ApiError, Gone, Refused, Silent, Unauthorized, error_of_event
from podrelay_workers.runtime.backoff import Backoff

log = logging.getLogger(__name__)

LIST_PAGE = 500  # pods of about 10 KB each: a page stays at a few MB
# The server ends a watch after this time, spread so that many watches do not reconnect together.
WATCH_S = 300.0
WATCH_SPREAD_S = 60.0
# A watch that ends sooner, without an event, counts as a failure even if it ended properly: a proxy may have cut it.
TOO_SHORT_S = 1.0
# Events come thousands a second, one by one: together they cost a third less. One after a silence is not delayed.
GATHER_EVENTS_S = 0.015
TROUBLE_LOG_S = 60.0
# A server refuses, or is silent about, a version that it does not know yet: its storage was restored from a backup, or it
# lags behind another server. After this many failures in a row only a new list helps.
FAILURES_MAX = 3
SILENCES_MAX = 2
# After this many lists whose continuation expired before the last page, pods are listed without pages.
EXPIRED_LISTS_MAX = 2
# The longest pause after rejected credentials.
UNAUTHORIZED_S = 3.0
# A server may ask for a longer pause; pods would end unobserved meanwhile.
LONGEST_PAUSE_S = 30.0


class PodEvent(NamedTuple):
    """A pod at the time of the event. `event` is LISTED, ADDED, MODIFIED or DELETED."""

    event: str
    pod: Json


class ListComplete(NamedTuple):
    """A list is complete and holds these (namespace, name). A pod created before `began_s` that is not among them is gone."""

    began_s: float
    pods: frozenset[tuple[str, str]]


@dataclass
class Position:
    """How far a reflector has come, for `status` and readiness. Times are wall clock, 0 for never."""

    version: str = ""
    listed_s: float = 0.0
    last_event_s: float = 0.0
    bookmark_s: float = 0.0
    trouble: str = ""

    def is_current(self, listed_within_s: float) -> bool:
        """Are all pods known: by a working watch, or, where only lists work, by a list within this time?"""
        if not self.trouble:
            return bool(self.listed_s)
        return self.trouble.startswith("watch") and time.time() - self.listed_s < listed_within_s


class Reflector:
    """The pods of one namespace (None: of all) that a label selector picks."""

    def __init__(
        self,
        api: PodClient,
        namespace: str | None,
        selector: str,
        silence_s: float,
        retries: Backoff | None = None,
        longest_pause_s: float = LONGEST_PAUSE_S,
    ) -> None:
        """:param silence_s: a watch that receives no byte for this time is considered broken."""
        self.position = Position()
        self.namespace = namespace
        self._api = api
        self._selector = selector
        self._silence_s = silence_s
        self._retries = retries or Backoff(first_s=0.2, most_s=10.0)
        self._longest_pause_s = longest_pause_s
        self._trouble_logged_at = 0.0
        self._expired_lists = 0
        # Watches in a row that failed, and that were silent, since the last list or event.
        self._failures = self._silences = 0

    @property
    def where(self) -> str:
        """What this reflector follows, for people."""
        return f"namespace {self.namespace}" if self.namespace else "all namespaces"

    async def events(self) -> AsyncGenerator[PodEvent | ListComplete, None]:
        """Every pod listed, then `ListComplete`, then every change; again from the list after each gap. Never ends."""
        while True:
            try:
                async with aclosing(self._list()) as items:
                    async for item in items:
                        yield item
            except ApiError as error:
                await self._pause("list", error)
                continue
            self._recovered("list")
            async with aclosing(self._watch()) as changes:
                async for change in changes:
                    yield change
            # The list succeeded, so that its back-off was reset; that of the watch that ended is separate.
            await asyncio.sleep(self._retries.failed("gone"))

    # --- list -------------------------------------------------------------------------------------------------------

    async def _list(self) -> AsyncGenerator[PodEvent | ListComplete, None]:
        """One list, page by page: complete, or an ApiError. A pod may come twice (its name was reused), which is harmless."""
        began_s, continuation, names = time.time(), "", set()
        while True:
            page = await self._page(continuation)
            for pod in page.items:
                names.add(_key_of(pod))
                yield PodEvent("LISTED", pod)
            continuation = page.continuation
            if not continuation:
                break
        self._expired_lists = 0
        self.position.version = page.version
        self.position.listed_s = self.position.last_event_s = time.time()
        log.info("Listed %d pods in %s at version %s", len(names), self.where, page.version)
        yield ListComplete(began_s, frozenset(names))

    async def _page(self, continuation: str) -> Page:
        """One page. A later page that fails is retried, which the server allows for minutes, until its list has expired."""
        limit = LIST_PAGE if self._expired_lists < EXPIRED_LISTS_MAX else 0
        while True:
            try:
                return await self._api.list_page(
                    self.namespace, labels=self._selector, limit=limit, continuation=continuation, partial=True
                )
            except Gone:
                self._expired_lists += 1
                raise
            except ApiError as error:
                if not continuation:
                    raise
                await self._pause("list", error)

    # --- watch ------------------------------------------------------------------------------------------------------

    async def _watch(self) -> AsyncGenerator[PodEvent, None]:
        """Watch, and resume at the version reached, until only a new list helps: the server no longer knows that version,
        does not know it yet, or has been silent about it too often.
        """
        self._failures = self._silences = 0
        while self._failures < FAILURES_MAX and self._silences < SILENCES_MAX:
            began = time.monotonic()
            any_event = False
            try:
                async with aclosing(self._stream()) as events:
                    async for event in events:
                        any_event = True
                        change = self._advance(event)
                        if change is not None:
                            yield change
            except Gone as error:
                log.info("Version %s of %s is too old; listing again: %s", self.position.version, self.where, error)
                return
            except Silent:
                self._silences += 1
                log.info("No data from the watch of %s for %g s; reconnecting", self.where, self._silence_s)
            except ApiError as error:
                self._failures += 1 if error.status != 400 else FAILURES_MAX
                await self._pause("watch", error)
            else:
                if not any_event and time.monotonic() - began < TOO_SHORT_S:
                    await asyncio.sleep(self._retries.failed("watch"))
        log.info("Cannot resume the watch of %s at version %s; listing again", self.where, self.position.version)

    def _stream(self) -> AsyncGenerator[Json, None]:
        return self._api.watch_stream(
            self.namespace,
            version=self.position.version,
            labels=self._selector,
            silence_s=self._silence_s,
            pause_s=GATHER_EVENTS_S,
            partial=True,
            opened=self._opened,
            timeout_s=WATCH_S + random.random() * WATCH_SPREAD_S,
        )

    def _advance(self, event: Json) -> PodEvent | None:
        """Advance the position by this event; None for a bookmark."""
        kind, pod = event.get("type"), event.get("object")
        if kind == "ERROR":
            raise error_of_event(pod)
        self._recovered("watch")
        self._retries.worked("gone")
        self._failures = self._silences = 0
        self.position.last_event_s = time.time()
        if not isinstance(pod, dict):
            return None
        version = metadata_of(pod).get("resourceVersion")
        if version and is_plain(version):
            self.position.version = version
        if kind == "BOOKMARK":
            self.position.bookmark_s = self.position.last_event_s
        return PodEvent(kind, pod) if kind in ("ADDED", "MODIFIED", "DELETED") else None

    # --- trouble ----------------------------------------------------------------------------------------------------

    def _opened(self) -> None:
        """The server accepted a watch. Only its events show that it works, and the first may come after a minute."""
        self.position.trouble = ""

    def _recovered(self, kind: str) -> None:
        self._retries.worked(kind)
        trouble = self.position.trouble
        # A list that succeeds does not mean that the watch works.
        if trouble.startswith(kind) or (kind == "watch" and not trouble and self._trouble_logged_at):
            log.info("Access to pods in %s restored", self.where)
            self.position.trouble = ""
            self._trouble_logged_at = 0.0

    async def _pause(self, kind: str, error: ApiError) -> None:
        pause_s = min(self._retries.failed(kind, error.retry_after_s), self._longest_pause_s)
        if isinstance(error, Unauthorized):  # the credentials are loaded again meanwhile
            pause_s = min(pause_s, UNAUTHORIZED_S)
        self.position.trouble = f"{kind}: {error}"
        if time.monotonic() - self._trouble_logged_at >= TROUBLE_LOG_S or not self._trouble_logged_at:
            self._trouble_logged_at = time.monotonic()
            log.warning("Cannot %s pods in %s; will retry: %s%s", kind, self.where, error, _advice(error))
        await asyncio.sleep(pause_s)


def _advice(error: ApiError) -> str:
    if isinstance(error, Refused) and error.status == 403:
        return " (grant get, list and watch on pods there: docker/ holds a Role)"
    if isinstance(error, Unauthorized):
        return " (reloading the credentials did not help: see [kubernetes_executor] config_file)"
    return ""


def _key_of(pod: Any) -> tuple[str, str]:
    metadata = metadata_of(pod)
    return str(metadata.get("namespace")), str(metadata.get("name"))
