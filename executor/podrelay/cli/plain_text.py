"""Pure: parts of what commands print, and what they take. Texts may come from Redis, where anybody may have written them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timezone
from typing import Any

from podrelay.errors import ConfigError
from podrelay.protocol.redis_values import number_of, storable


def require_text(arguments: Iterable[Any]) -> None:
    """:raises ConfigError: an argument holds bytes that are no text; neither Redis nor a database takes it."""
    for value in arguments:
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and text != storable(text):
                raise ConfigError(f"{text!r} is no text in UTF-8")


def printable(value: str) -> str:
    """One line, without characters that a terminal acts on."""
    return "".join(char if char.isprintable() else " " for char in value)


def age(seconds: float | None) -> str:
    """A duration in the largest unit that says enough."""
    if seconds is None:
        return "?"
    for unit_s, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 3 * unit_s:
            return f"{seconds / unit_s:.0f} {unit}"
    return f"{seconds:.0f} s"


def moment(at: str) -> str:
    """A time in seconds since the epoch, in UTC; the text itself where it is none."""
    try:
        return datetime.fromtimestamp(number_of(at), timezone.utc).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    except (ValueError, OverflowError, OSError):
        return printable(at)
