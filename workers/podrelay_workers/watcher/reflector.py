"""An endless stream of pods: list, then watch from the list's version, resume, list again. Used by the watcher.

Four layers, each of which handles the failures it has words for and passes the rest up:
`forever` never ends; `_listed` is one complete list; `_watched` resumes watching until only a new list helps;
`PodClient.list_page` and `watch_stream` are one request each.
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

from podrelay_workers.kube.client import Page, PodClient
from podrelay_workers.kube.errors import ApiError, Gone, Refused, Silent, Unauthorized, error_of_event
from podrelay_workers.runtime.backoff import Backoff

log = logging.getLogger(__name__)

Json = dict[str, Any]

LIST_PAGE = 500  # pods of about 10 KB each: a page stays at a few MB
# The server ends a watch after this time, spread so that many watches do not return together.
WATCH_S = 300.0
WATCH_SPREAD_S = 60.0
# A request that ended well but at once is a failure all the same: something in between cuts it.
TOO_SHORT_S = 1.0
TROUBLE_LOG_S = 60.0
# A version that the server does not know yet (its storage was restored from a backup, or it lags behind another server)
# is refused, or brings silence, for as long as we insist on it: after so many failures in a row only a new list helps.
FAILURES_MAX = 3
SILENCES_MAX = 2
# Lists whose continuation expired before the last page: then one without pages.
EXPIRED_LISTS_MAX = 2
# A server may ask for a longer pause; pods would end unseen meanwhile.
LONGEST_PAUSE_S = 30.0


class PodEvent(NamedTuple):
    """A pod as it was: `event` is LISTED, ADDED, MODIFIED or DELETED."""

    event: str
    pod: Json


class ListComplete(NamedTuple):
    """A list is complete: these (namespace, name) were there. What was made before `began_s` and is not, is gone."""

    began_s: float
    pods: frozenset[tuple[str, str]]


@dataclass
class Position:
    """How far the watch has come; `status` and liveness are told from it. Times are wall clock, 0 for never."""

    version: str = ""
    listed_s: float = 0.0
    last_event_s: float = 0.0
    trouble: str = ""

    def known(self, listed_within_s: float) -> bool:
        """Are the pods known by a watch that works, or, where only lists do, by a list of late?"""
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
        waits: Backoff | None = None,
        longest_pause_s: float = LONGEST_PAUSE_S,
    ) -> None:
        """:param silence_s: a watch that brings no byte for so long is taken for dead."""
        self.position = Position()
        self.namespace = namespace
        self._api = api
        self._selector = selector
        self._silence_s = silence_s
        self._waits = waits or Backoff(first_s=0.2, most_s=10.0)
        self._longest_pause_s = longest_pause_s
        self._told_at = 0.0
        self._expired_lists = 0
        # Watches in a row that failed, and that were silent, since the last list or the last word.
        self._failures = self._silences = 0

    async def forever(self) -> AsyncGenerator[PodEvent | ListComplete, None]:
        """Every pod listed, then `ListComplete`, then every change; and again from the list whenever there was a gap."""
        while True:
            try:
                async with aclosing(self._listed()) as items:
                    async for item in items:
                        yield item
            except ApiError as error:
                await self._pause("list", error)
                continue
            self._works("list")
            async with aclosing(self._watched()) as changes:
                async for change in changes:
                    yield change
            # A list that works says nothing of the watch that did not: its wait is counted for itself.
            await asyncio.sleep(self._waits.failed("gone"))

    async def _listed(self) -> AsyncGenerator[PodEvent | ListComplete, None]:
        """One list, page by page, complete or an ApiError. Pods seen twice (a name used again) do no harm."""
        began_s, continuation, names = time.time(), "", set()
        while True:
            page = await self._page(continuation)
            for pod in page.items:
                names.add(_name(pod))
                yield PodEvent("LISTED", pod)
            continuation = page.continuation
            if not continuation:
                break
        self._expired_lists = 0
        self.position.version = page.version
        self.position.listed_s = self.position.last_event_s = time.time()
        log.info("Listed %d pods in %s at version %s.", len(names), self._where, page.version)
        yield ListComplete(began_s, frozenset(names))

    async def _page(self, continuation: str) -> Page:
        """One page. A later one that fails is asked for again, which the server allows for minutes, until it is Gone."""
        limit = LIST_PAGE if self._expired_lists < EXPIRED_LISTS_MAX else 0
        while True:
            try:
                return await self._api.list_page(
                    self.namespace, labels=self._selector, limit=limit, continuation=continuation, brief=True
                )
            except Gone:
                self._expired_lists += 1
                raise
            except ApiError as error:
                if not continuation:
                    raise
                await self._pause("list", error)

    async def _watched(self) -> AsyncGenerator[PodEvent, None]:
        """Watch and resume at the version reached, until only a new list helps: the server no longer knows that version,
        does not know it yet, or nothing has come of it for too long.
        """
        self._failures = self._silences = 0
        while self._failures < FAILURES_MAX and self._silences < SILENCES_MAX:
            began = time.monotonic()
            heard = False
            try:
                async with aclosing(self._stream()) as events:
                    async for event in events:
                        heard = True
                        seen = self._take(event)
                        if seen is not None:
                            yield seen
            except Gone as error:
                log.info("Version %s of %s is too old: listing again (%s).", self.position.version, self._where, error)
                return
            except Silent:
                self._silences += 1
                log.info("Nothing heard of %s for %g s: connecting again.", self._where, self._silence_s)
            except ApiError as error:
                self._failures += 1 if error.status != 400 else FAILURES_MAX
                await self._pause("watch", error)
            else:
                if not heard and time.monotonic() - began < TOO_SHORT_S:
                    await asyncio.sleep(self._waits.failed("watch"))
        log.info("Version %s of %s leads nowhere: listing again.", self.position.version, self._where)

    def _stream(self) -> AsyncGenerator[Json, None]:
        return self._api.watch_stream(
            self.namespace,
            version=self.position.version,
            labels=self._selector,
            silence_s=self._silence_s,
            brief=True,
            opened=self._opened,
            timeout_s=WATCH_S + random.random() * WATCH_SPREAD_S,
        )

    def _take(self, event: Json) -> PodEvent | None:
        """Advance the position by this event; None where it was only a bookmark."""
        kind, pod = event.get("type"), event.get("object")
        if kind == "ERROR":
            raise error_of_event(pod)
        self._works("watch")
        self._waits.worked("gone")
        self._failures = self._silences = 0
        self.position.last_event_s = time.time()
        if not isinstance(pod, dict):
            return None
        version = (pod.get("metadata") or {}).get("resourceVersion")
        if isinstance(version, str) and version:
            self.position.version = version
        return PodEvent(kind, pod) if kind in ("ADDED", "MODIFIED", "DELETED") else None

    # --- trouble ----------------------------------------------------------------------------------------------------

    @property
    def _where(self) -> str:
        return f"namespace {self.namespace}" if self.namespace else "all namespaces"

    def _opened(self) -> None:
        """The server answers a watch again; whether it lasts is seen by its events, the first maybe in a minute."""
        self.position.trouble = ""

    def _works(self, kind: str) -> None:
        self._waits.worked(kind)
        trouble = self.position.trouble
        # A list that works does not mend a watch.
        if trouble.startswith(kind) or (kind == "watch" and not trouble and self._told_at):
            log.info("Watching %s again.", self._where)
            self.position.trouble = ""
            self._told_at = 0.0

    async def _pause(self, kind: str, error: ApiError) -> None:
        wait_s = min(self._waits.failed(kind, error.retry_after_s), self._longest_pause_s)
        self.position.trouble = f"{kind}: {error}"
        if time.monotonic() - self._told_at >= TROUBLE_LOG_S or not self._told_at:
            self._told_at = time.monotonic()
            log.warning("Cannot %s the pods of %s, trying on: %s%s", kind, self._where, error, _advice(error))
        await asyncio.sleep(wait_s)


def _advice(error: ApiError) -> str:
    if isinstance(error, Refused) and error.status == 403:
        return " (grant get, list and watch on pods there: docker/ holds a Role)"
    if isinstance(error, Unauthorized):
        return " (credentials were read again in vain: see [kubernetes_executor] config_file)"
    return ""


def _name(pod: Any) -> tuple[str, str]:
    metadata = pod.get("metadata") if isinstance(pod, dict) else None
    metadata = metadata if isinstance(metadata, dict) else {}
    return str(metadata.get("namespace")), str(metadata.get("name"))
