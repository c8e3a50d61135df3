"""What this launcher knows of the waits that the API server asked for. Redis knows for all; this is what acts at once."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass
class Pauses:
    """Until when (monotonic) nothing may be created, in the cluster or in one namespace. `failures`: see `throttle.lua`."""

    failures: int = 0
    _until_s: float = 0.0
    _namespaces: dict[str, float] = field(default_factory=dict)

    def pause(self, seconds: float) -> None:
        self._until_s = max(self._until_s, time.monotonic() + seconds)

    @property
    def left_s(self) -> float:
        return max(0.0, self._until_s - time.monotonic())

    def close(self, namespace: str, since_s: float, seconds: float) -> None:
        """:param since_s: monotonic time from before Redis was told, so that the namespace opens here no later than there."""
        self._namespaces[namespace] = since_s + seconds

    def closed_s(self, namespace: str) -> float:
        """Seconds for which nothing is created in this namespace."""
        if not self._namespaces:
            return 0.0
        left_s = self._namespaces.get(namespace, 0.0) - time.monotonic()
        if left_s <= 0.0:
            self._namespaces.pop(namespace, None)
            return 0.0
        return left_s
