"""The clocks that count for a job: Redis' and the scheduler's. The launcher's own may be wrong. Used by the job queue."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass(frozen=True)
class JobClock:
    """Two clocks that count for a job, as far as its claim shows: Redis', and that of the scheduler that offered it.

    The launcher's own clock does not count, except between the claim and now.
    """

    redis_ahead_s: float = field(default_factory=lambda: time.time() - time.monotonic())
    skew_s: float = 0.0
    # When this attempt was offered, by Redis' clock.
    attempt_s: float = 0.0

    def redis_s(self) -> float:
        return time.monotonic() + self.redis_ahead_s

    def queued_s(self) -> float:
        """Seconds since this attempt was offered."""
        return self.redis_s() - self.attempt_s

    def scheduler_s(self) -> float:
        return self.redis_s() - self.skew_s
