"""The launches of a task instance: which there were, by Airflow's database, and what the ledger still knows of each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from airflow.models.taskinstance import TaskInstance
from airflow.models.taskinstancehistory import TaskInstanceHistory
from airflow.utils.session import create_session
from sqlalchemy import select

from podrelay.protocol import identifiers, lifecycle
from podrelay.protocol.messages import Json
from podrelay.protocol.redis_values import number_of
from podrelay.protocol.starts import start_text

# The latest tries that are shown.
TRIES_MOST = 20
_SHOWN = (
    "state", "attempt", "relaunches", "reason", "message", "failure_class", "outcome", "pod", "namespace", "node",
    "launcher", "owner", "cluster", "queue", "start",
)  # fmt: skip
# Not the encrypted result.
LEDGER_FIELDS = ("kind", "key", *_SHOWN, *lifecycle.FIELDS)


@dataclass(frozen=True)
class TaskTry:
    """One try of a task instance, by the database. `launch_id` is empty where it was not launched, or not by podrelay."""

    try_number: int
    state: str
    launch_id: str


def tries_of(dag_id: str, run_id: str, task_id: str, map_index: int) -> list[TaskTry]:
    """The latest tries, newest first. A task that was deferred has had several launches in a try: the last one counts."""
    found: dict[int, TaskTry] = {}
    with create_session() as session:
        for model in (TaskInstanceHistory, TaskInstance):  # the present try comes last, and counts
            columns = (model.try_number, model.state, model.external_executor_id)
            where = {"dag_id": dag_id, "run_id": run_id, "task_id": task_id, "map_index": map_index}
            rows = session.execute(
                select(*columns).filter_by(**where).order_by(model.try_number.desc()).limit(TRIES_MOST)
            )
            for number, state, launch_id in rows:
                ours = launch_id or "" if identifiers.is_launch_id(launch_id) else ""
                found[number] = TaskTry(number, str(state or "none"), ours)
    return [found[number] for number in sorted(found, reverse=True) if number or found[number].launch_id][:TRIES_MOST]


def task_of(entry: Mapping[str, str]) -> Json | None:
    """The task instance that a ledger entry is about; None for another kind, or if the entry does not say."""
    try:
        key = json.loads(entry.get("key") or "null")
        dag_id, task_id, run_id, try_number, map_index = key
    except (ValueError, TypeError, RecursionError):
        return None
    texts = all(isinstance(part, str) and part.isprintable() for part in (dag_id, task_id, run_id))
    if entry.get("kind") != "task" or not texts or not all(type(part) is int for part in (try_number, map_index)):
        return None
    return {
        "dag_id": dag_id,
        "task_id": task_id,
        "run_id": run_id,
        "try_number": try_number,
        "map_index": map_index,
    }


def _start(entry: Mapping[str, str]) -> Json:
    """How the pod began, in words."""
    return {"start": start_text(entry["start"])} if entry.get("start") else {}


def launch_of(task_try: TaskTry, entry: Mapping[str, str]) -> Json:
    """One try for the page. `steps` are in chronological order, with the seconds since the step before."""
    took_s = dict(lifecycle.durations_s(entry))
    times = [(step, number_of(entry.get(field))) for step, field in zip(lifecycle.STEPS, lifecycle.FIELDS, strict=True)]
    steps: list[dict[str, Any]] = [
        {"step": step, "at_s": at_s, "took_s": took_s.get(step)} for step, at_s in times if at_s > 0
    ]
    return {
        "try_number": task_try.try_number,
        "state": task_try.state,
        "launch_id": task_try.launch_id,
        "known": bool(entry),
        "fields": {name: entry[name] for name in _SHOWN if entry.get(name)} | _start(entry),
        "steps": steps,
    }
