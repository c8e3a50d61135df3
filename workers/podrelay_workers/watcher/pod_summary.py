"""Pure: the pods of a table, counted for `status`: by phase, and by the reason for which they wait. Used by `leader`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from podrelay.protocol.snapshots import REASONS_MOST, WaitingPods
from podrelay_workers.watcher.pod_state import TERMINATING
from podrelay_workers.watcher.pod_table import PodEntry

_MESSAGE_MAX = 300


@dataclass(frozen=True)
class PodSummary:
    """How many pods start, run, and end; and why pods wait, the most frequent reason first."""

    starting: int
    running: int
    ending: int
    waits: tuple[WaitingPods, ...]


def summarize(entries: Iterable[PodEntry], now_s: float, clock_s: float) -> PodSummary:
    """Count the pods. A wait counts once it is worth a report."""
    counts = {"starting": 0, "running": 0, "ending": 0}
    waiting: dict[str, list[PodEntry]] = {}
    for entry in entries:
        counts[_phase(entry)] += 1
        if entry.wait and entry.published_wait == entry.wait and entry.published != "over":
            waiting.setdefault(entry.published_reason.partition(": ")[0], []).append(entry)
    waits = [_grouped(reason, pods, now_s, clock_s) for reason, pods in waiting.items()]
    waits.sort(key=lambda wait: -wait.count)
    return PodSummary(**counts, waits=tuple(waits[:REASONS_MOST]))


def _phase(entry: PodEntry) -> str:
    if entry.published == "over" or entry.wait == TERMINATING:
        return "ending"
    return "running" if entry.published == "started" else "starting"


def _grouped(reason: str, pods: list[PodEntry], now_s: float, clock_s: float) -> WaitingPods:
    first = min(pods, key=lambda entry: entry.waiting_since)
    message = first.published_reason.partition(": ")[2][:_MESSAGE_MAX]
    return WaitingPods(reason, len(pods), now_s - (clock_s - first.waiting_since), first.launch_id, message)
