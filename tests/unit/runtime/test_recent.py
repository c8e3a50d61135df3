"""Rate and median of the last minute."""

from __future__ import annotations

import pytest

from podrelay_workers.runtime.recent import WINDOW_S, Recent


def test_only_the_last_minute_counts() -> None:
    recent = Recent()
    for at_s in range(100):
        recent.add(float(at_s), float(at_s))
    assert recent.per_s(100.0) == WINDOW_S / 60
    assert recent.median(100.0) == pytest.approx(69.5)
    assert (recent.per_s(1000.0), recent.median(1000.0)) == (0.0, None)


def test_a_high_rate_is_that_of_the_samples_that_are_kept() -> None:
    recent = Recent()
    for number in range(50_000):
        recent.add(0.01, number / 500)
    assert recent.per_s(100.0) == pytest.approx(500, rel=0.01)
