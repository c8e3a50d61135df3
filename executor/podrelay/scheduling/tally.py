"""Logs what happens to single tasks: each at DEBUG, and for each kind one line per heartbeat with their number.

A scheduler has thousands of tasks, and what befalls one often befalls all of them. Used by every part of a heartbeat.
"""

from __future__ import annotations

import logging
from typing import Any

log = logging.getLogger(__name__)


class Tally:
    """What happened since the last `flush`."""

    def __init__(self) -> None:
        # By level and what happened: how often, and to which task first.
        self._found: dict[tuple[int, str], tuple[int, Any]] = {}

    def note(self, level: int, what: str, key: Any, detail: str = "") -> None:
        """:param what: a fixed text, without anything about the task; `detail` is only in the line at DEBUG."""
        log.debug("%s: %s%s", key, what, f" ({detail})" if detail else "")
        count, first = self._found.get((level, what), (0, key))
        self._found[level, what] = count + 1, first

    def flush(self) -> None:
        found, self._found = self._found, {}
        for (level, what), (count, first) in found.items():
            others = f" and {count - 1} more" if count > 1 else ""
            log.log(level, "%s%s: %s", first, others, what)
