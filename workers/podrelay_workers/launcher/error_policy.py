"""How many pods to create at once, and what an answer of the API server means for a launch. No I/O; used by the launcher."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal

from kubernetes.utils import parse_quantity

from podrelay_workers.kube.errors import (
    ApiError,
    Conflict,
    Gone,
    Overloaded,
    QuotaExceeded,
    Throttled,
    Unauthorized,
    Unreachable,
)
from podrelay_workers.runtime.backoff import exponential_s

# Waits shared by all launchers of a cluster while its API server fails: the first, and the longest.
STUMBLE_FIRST_S, STUMBLE_MOST_S = 0.25, 15.0
# Waits of a namespace whose quota is used up, between two launches that try.
QUOTA_FIRST_S, QUOTA_MOST_S = 1.0, 15.0
# The longest pause that one Retry-After may ask for.
PAUSE_MOST_S = 600.0
# Refusals that end by themselves in a namespace or a deployment that was just made: so often a launch is tried (about ten
# seconds in all) before they are believed.
SETTLE_TRIES = 6
_SETTLING = ("error looking up service account", "cannot create resource")
# An admission webhook's word, or that it cannot be called: mostly of one namespace or one kind of pods.
_WEBHOOK = ("denied the request", "failed calling webhook")
_EXCEEDED = re.compile(r"exceeded quota: [^,]*, requested: (.*?), used: .*?, limited: (.*)")
_AMOUNT = re.compile(r"([^=,\s]+)=([^,\s]+)")
_COUNTED = re.compile(r"pods$|count/")

Scope = Literal["cluster", "namespace", "launch", "never"]


@dataclass(frozen=True)
class ErrorPolicy:
    """What a failed creation means. `scope` is who waits; `never` fails the launch. `seconds` is None where Redis counts.

    slower: fewer creations at once from now on. ambiguous: the pod may exist all the same.
    """

    scope: Scope
    reason: str
    message: str
    seconds: float | None = None
    slower: bool = False
    ambiguous: bool = False


class ApiServerHealth:
    """Does the API server fail, or does it fail one launch (for which an admission webhook breaks, say)?"""

    def __init__(self) -> None:
        self._worked = False
        self._failed: str | None = None

    def succeeded(self) -> None:
        self._worked, self._failed = True, None

    def failed_alone(self, launch_id: str) -> bool:
        """Count a failure. True where the server had worked, and no other launch has failed since it did."""
        alone = self._worked and self._failed in (None, launch_id)
        self._failed = launch_id if self._failed is None else self._failed
        return alone


def classify_error(error: ApiError, tries: int, alone: bool = False) -> ErrorPolicy:
    """Wait for whatever may pass, fail at once only what can never succeed.

    :param tries: how often this launch was tried before.
    :param alone: the server works for others (`ApiServerHealth`).
    """
    message = printable(error.message or type(error).__name__)
    asked_s = None if error.retry_after_s is None else min(error.retry_after_s, PAUSE_MOST_S)
    of_webhook = any(sign in message for sign in _WEBHOOK)
    if of_webhook and isinstance(error, (Overloaded, Throttled, Unauthorized)):  # not the server's own code
        return ErrorPolicy("launch", "WebhookFailed", message, exponential_s(tries + 1, 1.0, 15.0), ambiguous=True)
    if isinstance(error, Throttled):
        return ErrorPolicy("cluster", "Throttled", message, asked_s, slower=True)
    if isinstance(error, Overloaded) and alone and asked_s is None:
        seconds = exponential_s(tries + 1, STUMBLE_FIRST_S, STUMBLE_MOST_S)
        return ErrorPolicy("launch", "ApiServerError", message, seconds, ambiguous=True)
    if isinstance(error, Overloaded):
        return ErrorPolicy("cluster", "ApiServerUnavailable", message, asked_s, slower=True, ambiguous=True)
    if isinstance(error, Unreachable):
        return ErrorPolicy("cluster", "ApiServerUnreachable", message, slower=True, ambiguous=True)
    if isinstance(error, Unauthorized):
        return ErrorPolicy("cluster", "Unauthorized", message)
    if isinstance(error, QuotaExceeded) and exceeds_alone(message):  # the others of its namespace may well fit
        return ErrorPolicy("launch", "QuotaExceeded", message, exponential_s(tries + 1, QUOTA_FIRST_S, QUOTA_MOST_S))
    if isinstance(error, QuotaExceeded):
        return ErrorPolicy("namespace", "QuotaExceeded", message)
    if isinstance(error, (Conflict, Gone)):
        return ErrorPolicy("launch", "Conflict", message, exponential_s(tries + 1, 0.2, 5.0))
    if error.status == 403 and tries < SETTLE_TRIES and any(sign in message for sign in _SETTLING):
        return ErrorPolicy("launch", "PodRefused", message, exponential_s(tries + 1, 0.5, 8.0))
    return ErrorPolicy("never", "PodRefused", message)


def exceeds_alone(message: str) -> bool:
    """Does this pod ask for more than its quota holds, so that it cannot be made whatever ends?

    The server names what is exceeded only, and no more than one quota. A number of objects does not count: whoever sets
    it to 0 holds up a namespace, and will let it go on.
    """
    found = _EXCEEDED.search(message)
    if found is None:
        return False
    requested, limited = (dict(_AMOUNT.findall(part)) for part in found.groups())
    try:
        return any(
            name in limited and not _COUNTED.match(name) and parse_quantity(amount) > parse_quantity(limited[name])
            for name, amount in requested.items()
        )
    except ValueError:
        return False


def printable(text: str) -> str:
    """Without what JSON may hold and UTF-8 may not (half of a surrogate pair): such text must not stop the rest."""
    return text.encode("utf-8", "replace").decode()


class Concurrency:
    """How many creations may be in flight: doubles per round trip at first, then grows by one, while latency stays flat.

    Halves when the server throttles or fails, once for all that failed together. Never above its ceiling, never below one.
    A few jobs more than that are in hand (`in_flight`), ready to be sent when a `slot` is free: no more than a quarter,
    because what is in hand cannot be overtaken.
    """

    def __init__(self, ceiling: int, start: int = 16) -> None:
        self.ceiling = ceiling
        self.in_flight = 0
        self._sending = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._limit = float(min(start, ceiling))
        self._doubling = True
        self._flat_s = 0.0
        self._recent_s = 0.0
        self._halved_at_s = float("-inf")
        self._peak = 0.0

    @property
    def limit(self) -> int:
        return max(1, int(self._limit))

    @property
    def free(self) -> int:
        return max(0, self.limit + self.limit // 4 - self.in_flight)

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """One of the creations in flight; in the order of asking."""
        while self._sending >= self.limit:
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                self._call_next()  # the turn may have come at the same moment
                raise
        self._sending += 1
        try:
            yield
        finally:
            self._sending -= 1
            self._call_next()

    def _call_next(self) -> None:
        room = self.limit - self._sending
        while room > 0 and self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                room -= 1

    def succeeded(self, latency_s: float) -> None:
        """Count an answer. While less than half of what is allowed is used, it says nothing about more: no growth."""
        self._recent_s += 0.1 * (latency_s - self._recent_s) if self._recent_s else latency_s
        # The best latency seen, forgotten slowly: a server that became slower for good has a new normal.
        self._flat_s = min(self._flat_s * 1.001, latency_s) if self._flat_s else latency_s
        self._peak = max(float(self._sending), self._peak * 0.99)
        if self._peak < self._limit / 2:
            return
        if self._recent_s > 2.0 * self._flat_s + 0.1:
            self._doubling = False
            return
        self._limit = min(float(self.ceiling), self._limit + (1.0 if self._doubling else 1.0 / self._limit))

    def failed(self, began_s: float, now_s: float) -> None:
        """Halve, once for all that were sent before the last time. `began_s`: when this one was (both monotonic).

        So half as many try after each pause that was of no use: a long outage is looked at by one creation of each launcher.
        """
        self._doubling = False
        if began_s > self._halved_at_s:
            self._halved_at_s = now_s
            self._limit = max(1.0, self._limit / 2)
