"""Whether this worker is ready: one answer for the probe file and for `/readyz`. Used by both workers."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable

from podrelay import health
from podrelay.health import ProcessHealth
from podrelay.settings import Settings


class Readiness:
    """What `health.ProcessHealth` records of this process."""

    def __init__(self, role: str, settings: Settings, team: str | None) -> None:
        self.role = role
        self._team = team
        self._place = settings.place
        self._last_reply_s: Callable[[], float] = lambda: 0.0
        self._trouble: Callable[[], str] = lambda: ""

    def waits(self, trouble: str = "") -> None:
        """Something is waited for before the work can begin."""
        self._trouble = lambda: trouble
        self.write()

    def follow(self, last_reply_s: Callable[[], float], trouble: Callable[[], str]) -> None:
        """The work begins: from now on these say when Redis last replied (wall clock) and what keeps the process from
        working.
        """
        self._last_reply_s, self._trouble = last_reply_s, trouble

    def record(self) -> ProcessHealth:
        return ProcessHealth(
            self.role, self._team, os.getpid(), self._last_reply_s(), time.time(), self._trouble(), self._place
        )

    @property
    def reply_age_s(self) -> float | None:
        """Seconds since Redis' last reply; None before the first."""
        replied_s = self._last_reply_s()
        return max(0.0, time.time() - replied_s) if replied_s else None

    @property
    def why_not(self) -> str:
        """Why the process is not ready; empty if it is."""
        return self.record().why_not_ready(time.time())

    def write(self) -> None:
        record = self.record()
        health.write(record.kind, record.team, record.place, record.last_reply_s, record.trouble)

    async def write_forever(self) -> None:
        """Keep the probe file fresh."""
        while True:
            self.write()
            await asyncio.sleep(health.WRITE_INTERVAL_S)

    def remove(self) -> None:
        """The process is about to exit."""
        health.remove(self.role)
