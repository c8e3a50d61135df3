"""What one step of one task costs each process: processor seconds, requests and bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

RECORDED = Path(__file__).parent.parent / "results" / "costs.json"
MADE_BY = "python -m tests.benchmarks.costs"
# How often one task is in a call of each script: a launch and a clean-up, a start and an end.
ITEMS = {"offer": 1, "claim": 2, "finish": 2, "publish": 2, "read_stream": 2, "acknowledge": 1}


@dataclass(frozen=True)
class UnitCosts:
    """Processor seconds, unless the name says otherwise. A *call* is a script run in Redis, with whatever is in it."""

    # Scheduler: a heartbeat without work; each task that is queued, in each heartbeat (Airflow sorts them); one task handed
    # over, and what of it counts for the time slice; the end of one task, acted on; one entry of the results stream, which is
    # of another scheduler's task or calls for nothing.
    heartbeat_s: float
    queued_s: float
    hand_over_s: float
    built_s: float
    results_s: float
    foreign_entry_s: float
    # Launcher: one pod created and one deleted; each time that it is woken; in each second without work. Answers, messages,
    # events and timers wake a process, once for all that are there by then.
    create_s: float
    clean_up_s: float
    launcher_wake_s: float
    launcher_idle: float
    # Watcher: one watch event; each time that it is woken; in each second without work.
    watch_event_s: float
    watcher_wake_s: float
    watcher_idle: float
    # Redis: each time that it is woken; by script, one call, and one task in it.
    redis_wake_s: float
    redis_call_s: Mapping[str, float]
    redis_task_s: Mapping[str, float]
    # The benchmark's API server: one pod created; one later change; each time that it is woken. Its observer: one event;
    # each time that it is woken. The link that delays its answers: one of them, or an event.
    api_create_s: float
    api_change_s: float
    api_wake_s: float
    observer_event_s: float
    observer_wake_s: float
    link_s: float
    # Of one task: changes of its pod between creation and deletion, and those that its deletion is; entries of the results
    # stream.
    status_changes: int
    deletion_changes: int
    reports: int
    # How often one task wakes each of these processes, and how many calls of each script it needs, where tasks come `singly`
    # and where many come `together`; with one launcher.
    wakes: Mapping[str, Mapping[str, float]]
    calls: Mapping[str, Mapping[str, float]]
    # Bytes of one task: into Redis, out of it to workers and one scheduler, out of it to each further scheduler; and in
    # memory, by what it waits for.
    redis_in_bytes: float
    redis_out_bytes: float
    redis_out_bytes_foreign: float
    memory_bytes: Mapping[str, float] = field(default_factory=dict)
    # Resident memory of each process, in MB.
    process_mb: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> UnitCosts:
        """:raises ValueError: a cost is missing; the message says how to measure it."""
        names = [item.name for item in fields(cls)]
        if missing := [name for name in names if name not in document]:
            raise ValueError(f"unit costs without {', '.join(missing)}: measure them again with `{MADE_BY}`")
        return cls(**{name: document[name] for name in names})


def recorded(path: Path = RECORDED) -> dict[str, Any]:
    """The whole file: `units`, the measured `lives` that the simulation is compared with, and where they come from."""
    document: dict[str, Any] = json.loads(path.read_text())
    return document
