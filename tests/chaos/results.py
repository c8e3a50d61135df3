"""Results of rounds as table lines and as lines of JSON; `python -m tests.chaos.results FILE...` makes one table of all."""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.chaos.judge import Judgement

HEAD = (
    "| fault | seed | tasks | in warm pods | verdict | recovered (s) | longest heartbeat (s) | slots free after (s) |\n"
    "|---|---|---|---|---|---|---|---|"
)


@dataclass(frozen=True)
class Round:
    """What is asked: one fault, one seed."""

    fault: str
    seed: int
    tasks: int
    scale: float
    warm_pods: int = 0


def line(verdict: Judgement) -> str:
    """One row of the table that a call prints."""
    words = "holds" if not verdict.wrong else "BROKEN: " + "; ".join(verdict.wrong)
    cells = [verdict.fault, verdict.seed, verdict.tasks, verdict.warm, words.splitlines()[0], f"{verdict.recovered_s:.1f}",
             _beat(verdict.heartbeat_s), f"{verdict.slots_s:.1f}"]  # fmt: skip
    return f"| {' | '.join(map(str, cells))} |"


def write(path: Path, verdict: Judgement, item: Round) -> None:
    """Add one line; the schedule of the faults only where it did not hold."""
    record: dict[str, Any] = {
        "fault": verdict.fault, "seed": verdict.seed, "tasks": verdict.tasks, "scale": item.scale,
        "warm_pods": item.warm_pods, "warm": verdict.warm, "wrong": verdict.wrong,
        "recovered_s": round(verdict.recovered_s, 2), "heartbeat_s": round(verdict.heartbeat_s, 3),
        "slots_s": round(verdict.slots_s, 2), "stuck_s": round(verdict.stuck_s, 3),
        "notes": verdict.notes if verdict.wrong else [],
    }  # fmt: skip
    with path.open("a") as out:
        out.write(json.dumps(record) + "\n")


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in path.read_text().splitlines()] if path.exists() else []


def missing(todo: Iterable[Round], done: Iterable[dict[str, Any]]) -> list[Round]:
    """What was not tried yet. A round that did not hold was tried: replay it, and take its line out of the file."""
    tried = {
        Round(item["fault"], item["seed"], item["tasks"], item["scale"], item.get("warm_pods", 0)) for item in done
    }
    return [item for item in todo if item not in tried]


def table(done: Sequence[dict[str, Any]]) -> str:
    """One row per fault, tasks, scale and warm pods: how many rounds held, and the extremes of their figures."""
    groups: dict[tuple[str, int, float, int], list[dict[str, Any]]] = defaultdict(list)
    for item in done:
        groups[item["fault"], item["tasks"], item["scale"], item.get("warm_pods", 0)].append(item)
    lines = [
        "| fault | tasks | scale | warm pods | rounds | held | in warm pods | recovered after (s) | longest heartbeat (s) "
        "| slots free after (s) |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (fault, tasks, scale, warm_pods), items in groups.items():
        held = [item for item in items if not item["wrong"]]
        seeds = ", ".join(str(item["seed"]) for item in items if item["wrong"])
        lines.append(
            f"| {fault} | {tasks} | {scale:g} | {warm_pods} | {len(items)} | "
            f"{len(held)}{f' (not: seed {seeds})' if seeds else ''} | "
            f"{_share(sum(item.get('warm', 0) for item in items), tasks * len(items))} | "
            f"{_span(item['recovered_s'] for item in items)} | {_beat(max(item['heartbeat_s'] for item in items))} | "
            f"{_span(item['slots_s'] for item in items)} |"
        )
    return "\n".join(lines)


def _share(part: int, of: int) -> str:
    return f"{part / of:.0%}" if part else "0"


def _span(values: Iterable[float]) -> str:
    found = sorted(values)
    return f"{found[0]:.1f} to {found[-1]:.1f}"


def _beat(seconds: float) -> str:
    return f"{seconds:.2f}" if seconds else "< 0.25"


if __name__ == "__main__":
    every = [item for name in sys.argv[1:] for item in read(Path(name))]
    print(table(every))
    for bad in (item for item in every if item["wrong"]):
        print(f"\n{bad['fault']} seed {bad['seed']}: {'; '.join(bad['wrong'])}")
