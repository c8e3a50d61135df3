"""Pure: figures of the last minute, from a bounded number of samples. Used for what `status` shows of a process."""

from __future__ import annotations

from collections import deque
from statistics import median

WINDOW_S = 60.0
# At more than so many samples a minute, the window is shorter.
_SAMPLES_MOST = 2000


class Recent:
    """Samples with their times (monotonic): adding one costs a microsecond, whatever is asked later."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, float]] = deque(maxlen=_SAMPLES_MOST)

    def add(self, value: float, clock_s: float) -> None:
        self._samples.append((clock_s, value))

    def per_s(self, clock_s: float) -> float:
        """Samples a second."""
        self._forget(clock_s)
        if len(self._samples) < _SAMPLES_MOST:
            return len(self._samples) / WINDOW_S
        return len(self._samples) / max(0.001, clock_s - self._samples[0][0])

    def median(self, clock_s: float) -> float | None:
        """None without samples."""
        self._forget(clock_s)
        return median(value for _, value in self._samples) if self._samples else None

    def _forget(self, clock_s: float) -> None:
        while self._samples and clock_s - self._samples[0][0] > WINDOW_S:
            self._samples.popleft()
