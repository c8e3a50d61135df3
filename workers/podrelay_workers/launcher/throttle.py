"""The waits that the API server asked for, as known to this launcher. Used by the launcher.

All launchers of a cluster share the waits through Redis; what is kept here takes effect at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field

from podrelay.errors import RedisUnavailable
from podrelay_workers.launcher.error_policy import STUMBLE_FIRST_S, STUMBLE_MOST_S, ErrorPolicy
from podrelay_workers.launcher.job_queue import JobQueue

# How often Redis is sent a pause that it may have lost, and by how much its pause may be shorter than ours.
REPUBLISH_S = 0.5


@dataclass
class Throttle:
    """Until when (monotonic) no pod may be created, in the cluster or in one namespace. `failures`: see `throttle.lua`."""

    failures: int = 0
    _until_s: float = 0.0
    _namespaces: dict[str, float] = field(default_factory=dict)

    def pause(self, seconds: float) -> None:
        """Create no pods for this long; a longer pause that already runs stays."""
        self._until_s = max(self._until_s, time.monotonic() + seconds)

    @property
    def remaining_s(self) -> float:
        return max(0.0, self._until_s - time.monotonic())

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

    async def publish_pause(self, queue: JobQueue, policy: ErrorPolicy) -> float:
        """Pause every launcher of the cluster after an error of its API server, and return the pause in seconds.

        :raises RedisUnavailable: the other launchers do not know of the pause; one that the server asked for still applies.
        """
        if policy.seconds:
            self.pause(policy.seconds)
            seconds = await queue.throttle("pause", x=policy.seconds, reason=policy.reason)
        else:
            seconds = await queue.throttle("stumble", x=STUMBLE_FIRST_S, y=STUMBLE_MOST_S, reason=policy.reason)
        self.pause(seconds)
        return seconds

    async def republish_forever(self, queue: JobQueue) -> None:
        """Restore a long pause in a Redis that lost its data, for launchers that start or missed the message.

        The last second is left out: it may come from RQ's suspension (`claim.lua`), which must not be prolonged.
        """
        while True:
            await asyncio.sleep(REPUBLISH_S)
            remaining_s = self.remaining_s
            if remaining_s > 1.0:
                with contextlib.suppress(RedisUnavailable):
                    await queue.throttle("remind", x=remaining_s, y=REPUBLISH_S, reason="Throttled")
