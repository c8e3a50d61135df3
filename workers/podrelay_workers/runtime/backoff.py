"""Waiting times after failures: exponential, with jitter. Pure; used by the launcher and the watcher."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field


def exponential_s(
    failures: int, first_s: float = 0.5, most_s: float = 30.0, chance: Callable[[], float] = random.random
) -> float:
    """Seconds to wait after consecutive failures (at least 1): doubled each time, and between half and all of that.

    The jitter spreads processes that failed at the same moment.
    """
    full_s = min(most_s, first_s * 2.0 ** min(max(failures, 1) - 1, 60))
    return full_s * (0.5 + 0.5 * chance())


@dataclass
class Backoff:
    """Counts failures per kind of step: the success of one kind does not reset the wait of another."""

    first_s: float = 0.5
    most_s: float = 30.0
    chance: Callable[[], float] = random.random
    failures: dict[str, int] = field(default_factory=dict)

    def failed(self, kind: str = "", at_least_s: float | None = None) -> float:
        """Count a failure of this kind; return the seconds to wait, at least those that a server asked for (Retry-After)."""
        self.failures[kind] = self.failures.get(kind, 0) + 1
        return max(exponential_s(self.failures[kind], self.first_s, self.most_s, self.chance), at_least_s or 0.0)

    def worked(self, kind: str = "") -> None:
        """Reset the wait of this kind."""
        self.failures.pop(kind, None)
