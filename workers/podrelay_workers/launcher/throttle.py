"""The waits that the API server asked for, as known to this launcher. Used by the launcher.

All launchers of a cluster share the waits through Redis; what is kept here takes effect at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass

from podrelay.errors import RedisUnavailable
from podrelay_workers.launcher.error_policy import PAUSE_MOST_S, STUMBLE_FIRST_S, STUMBLE_MOST_S, ErrorPolicy
from podrelay_workers.launcher.job_queue import JobQueue

# How often Redis is sent a pause that it may have lost, and by how much its pause may be shorter than ours.
REPUBLISH_S = 0.5


@dataclass
class Pause:
    """Until when (monotonic) no request of one kind is sent; `outer` applies as well."""

    outer: Pause | None = None
    _until_s: float = 0.0
    _why: str = ""

    def extend(self, seconds: float, why: str = "") -> None:
        """Send nothing for this long, but at most `PAUSE_MOST_S`; a longer pause that already runs stays.

        :param why: the reason, if this process knows it.
        """
        running = self.own_s > 0.0
        self._until_s = max(self._until_s, time.monotonic() + min(seconds, PAUSE_MOST_S))
        self._why = why or (self._why if running else "")

    @property
    def own_s(self) -> float:
        # Without a pause, and there mostly is none, the time need not be asked for: this is read several times for each job.
        return max(0.0, self._until_s - time.monotonic()) if self._until_s else 0.0

    @property
    def remaining_s(self) -> float:
        return self.own_s if self.outer is None else max(self.own_s, self.outer.remaining_s)

    @property
    def why(self) -> str:
        """Why no request is sent; empty where nothing is paused, or another launcher knows."""
        if self.own_s > 0.0 and self._why:
            return self._why
        return self.outer.why if self.outer is not None else ""


class Throttle:
    """The pauses of launches (no pod may be created in the cluster, or in one namespace) and of clean-ups.

    quiet: of this launcher alone. launches: shared by all launchers of the cluster. cleanups: shared as well; they stop no
    launch, because launches come first.
    failures: of the API server in a row, see `throttle.lua`.
    """

    def __init__(self) -> None:
        self.failures = 0
        self.quiet = Pause()
        self.launches = Pause(self.quiet)
        self.cleanups = Pause(self.launches)
        self._namespaces: dict[str, float] = {}

    def pause_namespace(self, namespace: str, since_s: float, seconds: float) -> None:
        """:param since_s: monotonic time before Redis was asked, so that the pause ends here no later than there."""
        self._namespaces[namespace] = since_s + seconds

    def namespace_remaining_s(self, namespace: str) -> float:
        """Seconds for which no pod may be created in this namespace."""
        if not self._namespaces:
            return 0.0
        remaining_s = self._namespaces.get(namespace, 0.0) - time.monotonic()
        if remaining_s <= 0.0:
            self._namespaces.pop(namespace, None)
            return 0.0
        return remaining_s

    def describe(self) -> Iterator[str]:
        """The pauses in force, a line for each."""
        if remaining_s := self.launches.remaining_s:
            yield f"paused: all launches, for another {remaining_s:.1f} s"
        elif remaining_s := self.cleanups.remaining_s:
            yield f"paused: all clean-ups, for another {remaining_s:.1f} s"
        for namespace in list(self._namespaces):
            if remaining_s := self.namespace_remaining_s(namespace):
                yield f"paused: namespace {namespace}, for another {remaining_s:.1f} s"

    async def publish_pause(self, queue: JobQueue, policy: ErrorPolicy) -> float:
        """Pause every launcher of the cluster, clean-ups too, after an error of its API server; the pause in seconds.

        :raises RedisUnavailable: the other launchers do not know of the pause; one that the server asked for still applies.
        """
        if policy.seconds:
            self.launches.extend(policy.seconds, policy.reason)
            seconds = await queue.throttle("pause", x=policy.seconds, reason=policy.reason)
        else:
            seconds = await queue.throttle("stumble", x=STUMBLE_FIRST_S, y=STUMBLE_MOST_S, reason=policy.reason)
        self.launches.extend(seconds, policy.reason)
        return seconds

    async def publish_cleanup_pause(self, queue: JobQueue, seconds: float, reason: str) -> float:
        """Pause the clean-ups of every launcher of the cluster, as its API server asked; the pause in seconds.

        :raises RedisUnavailable: the other launchers do not know of the pause; here it applies.
        """
        self.cleanups.extend(seconds)
        seconds = await queue.throttle("cleanup_pause", x=seconds, reason=reason)
        self.cleanups.extend(seconds)
        return seconds

    async def republish_forever(self, queue: JobQueue) -> None:
        """Restore a long pause in a Redis that lost its data, for launchers that start or missed the message.

        The last second is left out: it may come from RQ's suspension (`claim.lua`), which must not be prolonged.
        """
        while True:
            await asyncio.sleep(REPUBLISH_S)
            remaining_s = self.launches.own_s
            if remaining_s > 1.0:
                with contextlib.suppress(RedisUnavailable):
                    await queue.throttle("remind", x=remaining_s, y=REPUBLISH_S, reason="Throttled")
