"""Log lines about a Redis that does not answer or refuses commands: one for each cause, and a reminder. Used by each process.

Many loops of a process meet the same outage; each reports what it meets here.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any

from podrelay.errors import RedisUnavailable

REMIND_S = 60.0
# A refusal (a full Redis, a missing right) is over once no command has met it for this long: others succeed meanwhile.
QUIET_S = 15.0


@dataclass(slots=True)
class _Cause:
    answered: bool
    seen_s: float
    logged_s: float


class OutageLog:
    """The causes that are present. Times are monotonic."""

    def __init__(self, log: logging.Logger | Any, consequence: str) -> None:
        """:param consequence: a sentence about what this process does meanwhile."""
        self._log = log
        self._consequence = consequence
        self._causes: dict[str, _Cause] = {}

    def failed(self, error: RedisUnavailable) -> None:
        """Log an error if its cause is new, or was last logged a minute ago."""
        now_s, known = time.monotonic(), self._causes.get(error.cause)
        if not error.answered:  # at most one of these at a time: a change back is a change too
            self._causes = {name: cause for name, cause in self._causes.items() if cause.answered or cause is known}
        if known is None or now_s - known.logged_s >= REMIND_S:
            self._log.error("%s %s", error, self._consequence)
            known = _Cause(error.answered, now_s, now_s)
        known.seen_s = now_s
        self._causes[error.cause] = known

    def worked(self) -> None:
        """A command succeeded. Log the end of the outage."""
        if not self._causes:
            return
        now_s = time.monotonic()
        for name, cause in list(self._causes.items()):
            if not cause.answered or now_s - cause.seen_s >= QUIET_S:
                del self._causes[name]
        if not self._causes:
            self._log.warning("Redis is available again.")
