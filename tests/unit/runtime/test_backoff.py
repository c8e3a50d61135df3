"""Waiting times after failures."""

from __future__ import annotations

import pytest

from podrelay_workers.runtime.backoff import Backoff, exponential_s


@pytest.mark.parametrize(("failures", "expected"), [(0, 0.5), (1, 0.5), (2, 1.0), (3, 2.0), (7, 30.0), (10_000, 30.0)])
def test_exponential_wait(failures: int, expected: float) -> None:
    assert exponential_s(failures, 0.5, 30.0, lambda: 1.0) == expected
    assert exponential_s(failures, 0.5, 30.0, lambda: 0.0) == expected / 2


def test_a_success_resets_only_the_wait_of_its_own_kind() -> None:
    waits = Backoff(1.0, 60.0, lambda: 1.0)
    assert [waits.failed("watch"), waits.failed("watch"), waits.failed("list")] == [1.0, 2.0, 1.0]
    waits.worked("list")
    assert waits.failed("watch") == 4.0
    waits.worked("watch")
    assert waits.failed("watch") == 1.0
    assert waits.failed("watch", at_least_s=20.0) == 20.0
