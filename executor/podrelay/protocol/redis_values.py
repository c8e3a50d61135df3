"""Pure: convert what Redis returns to Python values, and split what is sent to it. Used wherever Redis is called."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

_Item = TypeVar("_Item")

# podrelay writes no larger number; number_of of prelude.lua has the same rule.
_NUMBER_MOST = 2.0**53


def text(value: bytes | str | None) -> str:
    """A reply as text: undecodable bytes are replaced, a missing value is empty."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value or ""


def storable(value: str) -> str:
    """A text without surrogates: JSON may hold some, and no connection, file or database takes them."""
    return value.encode("utf-8", "replace").decode()


def number_of(value: bytes | str | None) -> float:
    """The number in an unencrypted field; 0 for anything else, and for a number that podrelay never writes: anybody with
    access to Redis may have written the field.
    """
    try:
        number = float(value or 0)
    except ValueError:
        return 0.0
    return number if abs(number) <= _NUMBER_MOST else 0.0


def count_of(value: bytes | str | None, most: int) -> int:
    """The count in an unencrypted field, from 0 to `most`."""
    return max(0, min(most, int(number_of(value))))


def fields_of(flat: Sequence[bytes | str]) -> dict[str, str]:
    """The fields in a flat reply: name, value, name, value..."""
    return {text(name): text(value) for name, value in zip(flat[::2], flat[1::2], strict=True)}


def rows(flat: Sequence[_Item], width: int) -> list[Sequence[_Item]]:
    """Split a flat reply into rows of `width` values; the last row may be shorter."""
    return [flat[start : start + width] for start in range(0, len(flat), width)]


def chunks(items: Iterable[_Item], size: int) -> Iterator[list[_Item]]:
    """Split items lazily into lists of at most `size`, so that one script call does not block Redis for long."""
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk
