"""The duration of each step of a launch, from its ledger entry."""

from __future__ import annotations

import pytest

from podrelay.protocol.lifecycle import durations_s


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({}, []),
        ({"t_offered": "10.0"}, []),
        ({"t_offered": "10.0", "t_claimed": "10.5", "t_created": "12.0"}, [("claimed", 0.5), ("created", 1.5)]),
        (
            {"t_offered": "10.0", "t_started": "13.0", "t_claimed": ""},
            [("started", 3.0)],
        ),  # the steps between are unknown
        ({"t_created": "10.9", "t_scheduled": "10.0", "t_started": "11.0"}, [("scheduled", 0.0), ("started", 1.0)]),
        ({"t_created": "yesterday", "t_scheduled": "10.0", "t_started": "11.0"}, [("started", 1.0)]),
    ],
)
def test_durations(entry: dict[str, str], expected: list[tuple[str, float]]) -> None:
    assert list(durations_s(entry)) == expected
