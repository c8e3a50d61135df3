"""How long to wait after a failure: pure waiting times, exponential with jitter."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field


def exponential_s(
    failures: int, first_s: float = 0.5, most_s: float = 30.0, chance: Callable[[], float] = random.random
) -> float:
    """Seconds to wait after `failures` failures in a row (at least 1): doubled each time, between half and all of it.

    The jitter keeps processes that failed together from coming back together.
    """
    full_s = min(most_s, first_s * 2.0 ** min(max(failures, 1) - 1, 60))
    return full_s * (0.5 + 0.5 * chance())


@dataclass
class Backoff:
    """Counts failures per kind of step, so that a step that works never resets the wait of another that does not."""

    first_s: float = 0.5
    most_s: float = 30.0
    chance: Callable[[], float] = random.random
    failures: dict[str, int] = field(default_factory=dict)

    def failed(self, kind: str = "", at_least_s: float | None = None) -> float:
        """Count a failure of this kind; the seconds to wait. `at_least_s` is what a server asked for (Retry-After)."""
        self.failures[kind] = self.failures.get(kind, 0) + 1
        return max(exponential_s(self.failures[kind], self.first_s, self.most_s, self.chance), at_least_s or 0.0)

    def worked(self, kind: str = "") -> None:
        """Only what failed may reset its own wait."""
        self.failures.pop(kind, None)
