"""Since when each job, or each kind of clean-up, is refused. Used by the job handlers. No I/O.

Kept in memory: another launcher that continues with a job begins to count again, which makes the wait longer, never shorter.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from podrelay_workers.runtime.backoff import exponential_s

# A subject that was not refused for this long begins anew.
_FORGET_S = 300.0
# The oldest subjects are forgotten first.
_SUBJECTS_MAX = 20_000
# The first and the longest pause of a refused kind of clean-up.
GATE_FIRST_S, GATE_MOST_S = 1.0, 60.0


@dataclass
class _Spell:
    began_s: float
    last_s: float
    count: int = 0
    closed_until_s: float = 0.0
    probed: bool = False


class Refusals:
    """Counts refusals in a row per subject, by time; a success ends them."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._spells: OrderedDict[Hashable, _Spell] = OrderedDict()

    def refused(self, subject: Hashable) -> float:
        """Count a refusal; the seconds since the first one in a row."""
        return self._clock() - self._count(subject).began_s

    def worked(self, subject: Hashable) -> bool:
        """End the refusals of this subject; were there any?"""
        return self._spells.pop(subject, None) is not None

    def close(self, subject: Hashable) -> float:
        """Count a refusal, and pause the subject; the seconds, more each time. Refusals during a pause count once."""
        spell = self._count(subject)
        if spell.probed or spell.closed_until_s <= self._clock():
            spell.count, spell.probed = spell.count + 1, False
            spell.closed_until_s = self._clock() + exponential_s(spell.count, GATE_FIRST_S, GATE_MOST_S)
        return spell.closed_until_s - self._clock()

    def pass_gate(self, subject: Hashable, hold_s: float = 5.0) -> float:
        """The seconds for which the subject is paused; 0 lets one caller through, and the next after `hold_s`."""
        spell = self._spells.get(subject)
        if spell is None:
            return 0.0
        remaining_s = spell.closed_until_s - self._clock()
        if remaining_s > 0.0:
            return remaining_s
        spell.closed_until_s, spell.probed = self._clock() + hold_s, True
        return 0.0

    def _count(self, subject: Hashable) -> _Spell:
        now_s = self._clock()
        spell = self._spells.get(subject)
        if spell is None or now_s - spell.last_s > _FORGET_S:
            spell = self._spells[subject] = _Spell(now_s, now_s)
        spell.last_s = now_s
        self._spells.move_to_end(subject)
        while len(self._spells) > _SUBJECTS_MAX:
            self._spells.popitem(last=False)
        return spell
