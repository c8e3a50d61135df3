"""The launches of one task instance, from Airflow's database. Used by `airflow podrelay status --task`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from airflow.models.dagrun import DagRun
from airflow.models.log import Log
from airflow.models.taskinstance import TaskInstance
from airflow.models.taskinstancehistory import TaskInstanceHistory
from airflow.utils.session import create_session
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from podrelay import compat, event_log
from podrelay.errors import DatabaseUnavailable, PodrelayError
from podrelay.protocol import identifiers

# The latest rows of the event log that are read, of all tries.
_EVENTS_MOST = 50


class NotFound(PodrelayError):  # noqa: N818 - an answer
    """There is no such task instance, or it has no launch. The message says what there is instead."""


@dataclass(frozen=True)
class TaskEvent:
    """A row of podrelay in Airflow's event log."""

    at_s: float
    name: str
    text: str


@dataclass(frozen=True)
class TaskTry:
    """One try of a task instance. `launch_id` is empty where it has none, or one of another executor."""

    try_number: int
    state: str | None
    launch_id: str
    events: tuple[TaskEvent, ...] = ()


def tries_of(dag_id: str, task_id: str, run_id: str, map_index: int | None) -> list[TaskTry]:
    """The tries of a task instance, the latest last; the last one has a launch.

    :raises NotFound: or DatabaseUnavailable.
    """
    try:
        with create_session(scoped=False) as session:
            where = {"dag_id": dag_id, "task_id": task_id, "run_id": run_id}
            return _tries(session, where, _existing(session, where, map_index))
    except SQLAlchemyError as error:
        raise DatabaseUnavailable(
            f"Airflow's database ([database] sql_alchemy_conn) does not answer ({type(error).__name__}). "
            "Type the command where a scheduler runs, or give the launch: --launch"
        ) from error


def _existing(session: Session, where: dict[str, str], map_index: int | None) -> int:
    """The map index of an instance that exists; -1 for a task that is not mapped."""
    chosen = select(TaskInstance.map_index).filter_by(**where).where(*compat.only_current())
    found = sorted(session.scalars(chosen))
    name = f"task {where['task_id']} of DAG {where['dag_id']} in run {where['run_id']}"
    if not found:
        run = select(DagRun.id).filter_by(dag_id=where["dag_id"], run_id=where["run_id"])
        what = name if session.scalar(run) else f"run {where['run_id']} of DAG {where['dag_id']}"
        raise NotFound(f"Airflow's database has no {what}")
    if map_index is None and len(found) > 1:
        raise NotFound(f"{name} has {len(found)} mapped instances; add a map index, {found[0]} to {found[-1]}")
    wanted = found[0] if map_index is None else map_index
    if wanted not in found:
        raise NotFound(f"{name} has no map index {wanted}; there is {', '.join(map(str, found[:20]))}")
    return wanted


def _tries(session: Session, where: dict[str, str], map_index: int) -> list[TaskTry]:
    of_task = {**where, "map_index": map_index}
    events = _events(session, of_task)
    columns = ("try_number", "state", "external_executor_id")
    rows: dict[int, Any] = {}
    for model, conditions in ((TaskInstanceHistory, ()), (TaskInstance, compat.only_current())):
        chosen = select(*(getattr(model, name) for name in columns)).filter_by(**of_task).where(*conditions)
        rows |= {row.try_number: row for row in session.execute(chosen)}
    found = [_try(rows[number], events.get(number, ())) for number in sorted(rows)]
    if not found[-1].launch_id and not any(one.launch_id for one in found):
        row = rows[max(rows)]
        raise NotFound(
            f"task {where['task_id']} in run {where['run_id']} has no launch of podrelay. Its state is {row.state or 'none'}"
            + (f", its external_executor_id {row.external_executor_id}" if row.external_executor_id else "")
        )
    return found


def _try(row: Any, events: Sequence[TaskEvent]) -> TaskTry:
    launch_id = row.external_executor_id or ""
    state = None if row.state is None else str(getattr(row.state, "value", row.state))
    return TaskTry(row.try_number, state, launch_id if identifiers.is_launch_id(launch_id) else "", tuple(events))


def _events(session: Session, of_task: dict[str, Any]) -> dict[int, list[TaskEvent]]:
    """By try, the earliest first."""
    ours = Log.event.in_(event_log.EVENTS)
    latest = select(Log.dttm, Log.event, Log.extra, Log.try_number).filter_by(**of_task).where(ours)
    found: dict[int, list[TaskEvent]] = {}
    for at, event, extra, number in reversed(session.execute(latest.order_by(Log.id.desc()).limit(_EVENTS_MOST)).all()):
        found.setdefault(number or 0, []).append(TaskEvent(at.timestamp() if at else 0.0, event, extra or ""))
    return found
