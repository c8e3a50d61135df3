"""Which members of a long row are read."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from podrelay.store.waits import Wait, merged, slices


@given(st.integers(0, 10**6), st.integers(1, 2000))
def test_pieces_lie_apart_within_the_row_and_the_limit(length: int, most: int) -> None:
    found = slices(length, most)
    indexes = [index for first, last in found for index in range(first, last + 1)]
    assert len(indexes) == len(set(indexes)) <= most
    assert all(0 <= index < length for index in indexes)
    assert length > most or len(indexes) == length
    assert length <= most or len(indexes) > most / 2
    assert length < 2 * most or most <= 100 or max(indexes) > length / 2, "they reach the second half"


def test_very_many_reasons_are_shown_as_few() -> None:
    """Anybody with access to Redis can write reasons; each that is shown costs a look at the viewer's permissions."""
    waits = [
        Wait(f"reason {number % 1000}", 1 + number % 1000, float(number), f"l-{number}", "") for number in range(2000)
    ]
    found = merged(waits)
    assert len(found) == 50
    assert found[0].reason == "reason 999"
    assert found[-1].reason == "other"
    assert sum(wait.count for wait in found) == sum(wait.count for wait in waits)
