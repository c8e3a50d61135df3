"""Pure: the progress line of a run and the table at its end, made from task states and the ledger. Used by `demo.run`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from demo.airflow_api import TaskState

STEPS = ("waiting", "queued", "launched", "running", "finished", "failed")

# Airflow's task states as steps of the demo. A queued task whose pod exists counts as launched.
_STEP_OF_STATE = {
    "queued": "queued",
    "running": "running",
    "restarting": "running",
    "success": "finished",
    "skipped": "finished",
    "failed": "failed",
    "upstream_failed": "failed",
    "removed": "failed",
}


@dataclass(frozen=True)
class Launch:
    """One pod of the run, from the ledger. Times are seconds since the epoch, 0 if the step has not happened."""

    launch_id: str
    label: str
    try_number: int
    pod: str
    launcher: str
    t_offered: float
    t_claimed: float
    t_created: float
    t_started: float
    t_finished: float

    @classmethod
    def of_run(cls, ledger: Mapping[str, Mapping[str, str]], run_id: str) -> list[Launch]:
        """The launches of one run, in the order in which they were offered. `ledger` maps launch ids to entries."""
        found = []
        for launch_id, entry in ledger.items():
            key = json.loads(entry.get("key") or "[]")
            if len(key) == 5 and key[2] == run_id:
                label = key[1] if key[4] < 0 else f"{key[1]}[{key[4]}]"
                times = (float(entry.get(f"t_{step}") or 0) for step in _STEPS_IN_TIME)
                found.append(cls(launch_id, label, key[3], entry.get("pod", ""), entry.get("launcher", ""), *times))
        return sorted(found, key=lambda launch: launch.t_offered)

    @property
    def waiting_s(self) -> float | None:
        return _between(self.t_offered, self.t_claimed)

    @property
    def creating_s(self) -> float | None:
        return _between(self.t_claimed, self.t_created)

    @property
    def running_s(self) -> float | None:
        return _between(self.t_started, self.t_finished)


_STEPS_IN_TIME = ("offered", "claimed", "created", "started", "finished")


def count(tasks: Iterable[TaskState], launches: Iterable[Launch]) -> Counter[str]:
    """The number of tasks at each step."""
    with_pod = {(launch.label, launch.try_number) for launch in launches if launch.t_created and not launch.t_finished}
    steps: Counter[str] = Counter()
    for task in tasks:
        step = _STEP_OF_STATE.get(task.state or "", "waiting")
        if step == "queued" and (task.label, task.try_number) in with_pod:
            step = "launched"
        steps[step] += 1
    return steps


def line(elapsed_s: float, steps: Mapping[str, int]) -> str:
    """The progress line: seconds since the trigger, and the count of each step."""
    return f"{elapsed_s:5.1f} s  " + "  ".join(f"{step} {steps.get(step, 0):>2}" for step in STEPS)


def table(launches: Sequence[Launch], tasks: Sequence[TaskState]) -> str:
    """The final table, one row for each pod. A task that was retried or deferred has several."""
    states = {task.label: task for task in tasks}
    rows = [("task", "try", "launcher", "waiting", "creating", "running", "state", "pod")]
    for launch in launches:
        task = states.get(launch.label)
        rows.append(
            (
                launch.label,
                str(launch.try_number),
                launch.launcher.rpartition(".")[2] or "-",
                _seconds(launch.waiting_s),
                _seconds(launch.creating_s),
                _seconds(launch.running_s, 0),
                _state(task, launch, launches),
                launch.pod or "-",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(_row(row, widths) for row in rows)


def _state(task: TaskState | None, launch: Launch, launches: Sequence[Launch]) -> str:
    """The state of the task for its last pod; for an earlier pod, why another one followed."""
    later = [other for other in launches if other.label == launch.label and other.t_offered > launch.t_offered]
    if not later:
        return (task.state if task else None) or "-"
    return "retried" if later[0].try_number > launch.try_number else "deferred"


def _row(cells: Sequence[str], widths: Sequence[int]) -> str:
    numbers = (1, 3, 4, 5)  # numeric columns are aligned to the right
    padded = (
        cell.rjust(width) if i in numbers else cell.ljust(width)
        for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return "  ".join(padded).rstrip()


def _between(start: float, end: float) -> float | None:
    return max(0.0, end - start) if start and end else None


def _seconds(value: float | None, digits: int = 2) -> str:
    """`digits` is 0 for times of containers, which Kubernetes reports in whole seconds."""
    return "-" if value is None else f"{value:.{digits}f} s"
