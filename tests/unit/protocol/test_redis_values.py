"""Replies of Redis become plain values, whatever somebody wrote there."""

from __future__ import annotations

import pytest

from podrelay.protocol.redis_values import chunks, count_of, number_of, rows, text


@pytest.mark.parametrize(
    ("value", "expected"), [(b"a", "a"), ("a", "a"), (None, ""), (b"", ""), (b"\xff", "\N{REPLACEMENT CHARACTER}")]
)
def test_text(value: bytes | str | None, expected: str) -> None:
    assert text(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"1.5", 1.5),
        ("2", 2.0),
        (None, 0.0),
        ("", 0.0),
        ("x", 0.0),
        ("nan", 0.0),
        ("inf", 0.0),
        ("1e300", 0.0),
        ("-1e300", 0.0),
        (b"\xff", 0.0),
        ("9007199254740992", 9007199254740992.0),
    ],
)
def test_numbers(value: bytes | str | None, expected: float) -> None:
    assert number_of(value) == expected


def test_rows_and_chunks() -> None:
    assert rows([1, 2, 3, 4], 2) == [[1, 2], [3, 4]]
    assert rows([], 2) == []
    assert list(chunks(iter(range(5)), 2)) == [[0, 1], [2, 3], [4]]


@pytest.mark.parametrize(
    ("value", "expected"),
    [("7", 7), ("-1", 0), ("1e300", 0), ("11", 10), ("inf", 0), ("x", 0), (b"\xff", 0), ("9" * 5000, 0), ("2.9", 2)],
)
def test_counts(value: bytes | str, expected: int) -> None:
    assert count_of(value, 10) == expected
