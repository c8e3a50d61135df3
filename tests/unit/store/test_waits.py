"""Which members of a long row are read."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from podrelay.store.waits import slices


@given(st.integers(0, 10**6), st.integers(1, 2000))
def test_pieces_lie_apart_within_the_row_and_the_limit(length: int, most: int) -> None:
    found = slices(length, most)
    indexes = [index for first, last in found for index in range(first, last + 1)]
    assert len(indexes) == len(set(indexes)) <= most
    assert all(0 <= index < length for index in indexes)
    assert length > most or len(indexes) == length
    assert length <= most or len(indexes) > most / 2
    assert length < 2 * most or most <= 100 or max(indexes) > length / 2, "they reach the second half"
