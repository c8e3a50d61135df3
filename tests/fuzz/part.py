"""One part of a campaign: its inputs, its rig, and what it found wrong."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from hypothesis import strategies as st


@dataclass
class Report:
    """What one part did. `wrong` is empty when everything held."""

    part: str
    seed: int
    inputs: int = 0
    took_s: float = 0.0
    # The longest heartbeat of the executor, where there is one.
    heartbeat_s: float = 0.0
    # How long honest work took after the last input, where there is any.
    recovered_s: float = 0.0
    wrong: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def fault(self, text: str) -> None:
        """Note a fault, at most a few hundred."""
        if len(self.wrong) < 300 and text not in self.wrong:
            self.wrong.append(text)

    def line(self) -> str:
        verdict = "held" if not self.wrong else f"{len(self.wrong)} faults"
        return (
            f"{self.part:14} {self.seed:6} {self.inputs:8} {self.took_s:8.1f} {self.heartbeat_s:11.3f} "
            f"{self.recovered_s:11.1f}  {verdict}"
        )


HEAD = f"{'part':14} {'seed':>6} {'inputs':>8} {'took s':>8} {'heartbeat s':>11} {'recovered s':>11}  result"


def feed(batches: st.SearchStrategy[list[Any]], take: Callable[[list[Any]], int], report: Report, count: int) -> None:
    """Hand `count` random inputs to `take`, a batch at a time; it returns how many it used."""
    began_s = time.monotonic()
    round_ = 0
    while report.inputs < count:
        # Hypothesis slows down within one long run, so this is many; each begins with another seed.
        @seed(report.seed * 1_000_003 + round_)
        @settings(
            max_examples=200, deadline=None, database=None, phases=(Phase.generate,), verbosity=Verbosity.quiet,
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(batches)
        def one(batch: list[Any]) -> None:
            if report.inputs < count:
                report.inputs += take(batch)

        one()
        round_ += 1
    report.took_s = time.monotonic() - began_s


def complaints(log: str, package: str = "podrelay") -> list[str]:
    """The end of each traceback in a process' log, each once, with the last line of code of this package."""
    found: dict[str, None] = {}
    for block in log.split("Traceback (most recent call last):")[1:]:
        lines = block.splitlines()
        places = [line.strip() for line in lines if re.search(rf"File .*{package}", line)]
        if not places:
            continue
        ending = next((line for line in lines if re.match(r"[\w.]+(Error|Exception)\b", line)), "?")
        found[f"in the log: {ending[:200]} {''.join(places[-1:])[-120:]}"] = None
    return list(found)
