"""Queries of Airflow's database, each one for many rows and in a transaction of its own.

Some callers run inside the scheduler's transaction, which a shared session would commit too early (airflow #67813). Queries
for columns use no session: to make one takes as long as to read some rows. Those of a heartbeat share one connection.

Used by every part of a heartbeat that compares launches with their task instances.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime, timedelta, timezone
from functools import cache
from typing import Any
from uuid import UUID

from airflow import settings
from airflow.executors import workloads
from airflow.jobs.job import Job, JobState
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.utils.session import create_session
from airflow.utils.state import TaskInstanceState
from sqlalchemy import String, and_, bindparam, or_, select, type_coerce
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import defer, joinedload

from podrelay import compat
from podrelay.protocol import identifiers
from podrelay.scheduling.decisions import TaskRow

log = logging.getLogger(__name__)

# As the database's driver returns it: to make a UUID of each id would take a third of the time of a query.
_ID: Any = type_coerce(TaskInstance.id, String)
_COLUMNS = (
    _ID,
    TaskInstance.dag_id,
    TaskInstance.task_id,
    TaskInstance.run_id,
    TaskInstance.map_index,
    TaskInstance.try_number,
    TaskInstance.state,
    TaskInstance.external_executor_id,
    TaskInstance.queued_by_job_id,
    TaskInstance.hostname,
    # Compared by the database: to read both times would cost more than the rest of the row.
    and_(
        TaskInstance.start_date.is_not(None),
        or_(TaskInstance.queued_dttm.is_(None), TaskInstance.start_date >= TaskInstance.queued_dttm),
    ).label("began"),
)


def rows_by_key(keys: Iterable[Any]) -> dict[tuple[str, str, str, int], TaskRow]:
    """The task instances with these keys, by (dag_id, task_id, run_id, map_index).

    Not by id: clearing a running task changes its id at once, while the end of its pod still matters.
    """
    wanted = TaskInstance.filter_for_tis(list(keys))
    if wanted is None:
        return {}
    with _connection() as connection:
        return _task_rows(connection.execute(select(*_COLUMNS).where(wanted, *compat.only_current())).all())


def rows_of_tasks(tasks: Iterable[tuple[str, Any]]) -> dict[tuple[str, str, str, int], TaskRow]:
    """The same for tasks whose ids are known too: those that have kept their id are found by it, for a fraction of the cost.

    :param tasks: id of the task instance and key.
    """
    wanted = list(tasks)
    if not wanted:
        return {}
    rows = _rows_with_ids([UUID(subject) for subject, _ in wanted])
    others = [key for _, key in wanted if coordinates(key) not in rows]
    return rows | rows_by_key(others) if others else rows


def rows_by_subject(subjects: Sequence[str]) -> dict[str, TaskRow]:
    """The task instances with these ids. A task that was cleared while it ran has another id and is not found. A subject
    that is not an id, as the annotation of a pod may bring into the ledger, is ignored.
    """
    ids = [UUID(subject) for subject in subjects if is_task_id(subject)]
    return {row.subject: row for row in _rows_with_ids(ids).values()} if ids else {}


def queued_by(owner: int, ids: Sequence[UUID]) -> dict[str, tuple[int, str | None]]:
    """Try and launch id of those task instances that the database shows as queued by this scheduler, by id."""
    with _connection() as connection:
        rows = connection.execute(_queued_by(), {"owner": owner, "ids": ids}).all()
    return {_text_of(raw_id): (try_number, launch_id) for raw_id, try_number, launch_id in rows}


class _Shared:
    """The connection of one heartbeat: its first query opens it."""

    def __init__(self) -> None:
        self.connection: Any = None

    def give_back(self) -> None:
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.close()


_shared: ContextVar[_Shared | None] = ContextVar("podrelay_shared_connection", default=None)


@contextmanager
def one_connection() -> Iterator[None]:
    """Inside, the queries for columns share one connection. Airflow's pool asks the server each time that it gives one away
    whether it still works. Between two queries it has no transaction.
    """
    shared = _Shared()
    token = _shared.set(shared)
    try:
        yield
    finally:
        _shared.reset(token)
        shared.give_back()


@contextmanager
def _connection() -> Iterator[Any]:
    """A connection for one query. Its transaction ends with the query; after a failure, so does the connection."""
    engine: Any = settings.engine
    shared = _shared.get()
    if shared is None:
        with engine.connect() as connection:
            yield connection
        return
    if shared.connection is None:
        shared.connection = engine.connect()
    try:
        yield shared.connection
        shared.connection.rollback()
    except BaseException:
        shared.give_back()
        raise


@contextmanager
def _session() -> Iterator[Any]:
    """A session of Airflow's. The pool may not have a second connection for it."""
    shared = _shared.get()
    if shared is not None:
        shared.give_back()
    with create_session(scoped=False) as session:
        yield session


def _text_of(raw_id: Any) -> str:
    """An id as `str` writes a UUID; some databases have no such type and return 32 digits."""
    text = str(raw_id)
    return text if len(text) == 36 else f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


@cache
def _by_id() -> Any:
    """Made once, as `_queued_by` is."""
    return select(*_COLUMNS).where(TaskInstance.id.in_(bindparam("ids", expanding=True)), *compat.only_current())


@cache
def _queued_by() -> Any:
    """Made once: with a hundred ids, to make it costs as much as to run it, in each heartbeat that hands over."""
    return select(_ID, TaskInstance.try_number, TaskInstance.external_executor_id).where(
        TaskInstance.id.in_(bindparam("ids", expanding=True)),
        TaskInstance.state == TaskInstanceState.QUEUED,
        TaskInstance.queued_by_job_id == bindparam("owner"),
        *compat.only_current(),
    )


def is_task_id(subject: str) -> bool:
    try:
        UUID(subject)
    except ValueError:
        return False
    return True


def _rows_with_ids(ids: Sequence[UUID]) -> dict[tuple[str, str, str, int], TaskRow]:
    with _connection() as connection:
        return _task_rows(connection.execute(_by_id(), {"ids": ids}).all())


def _task_rows(found: Iterable[Any]) -> dict[tuple[str, str, str, int], TaskRow]:
    """What the query of `_COLUMNS` found, by coordinates."""
    rows = {}
    # Unpacked: to read each column by its name would take longer than all the rest.
    for raw_id, dag_id, task_id, run_id, map_index, try_number, state, launch_id, queued_by_job, host, began in found:
        rows[dag_id, task_id, run_id, map_index] = TaskRow(
            state=None if state is None else str(getattr(state, "value", state)),
            try_number=try_number,
            launch_id=launch_id,
            subject=_text_of(raw_id),
            queued_by=queued_by_job,
            host=identifiers.launch_of_host(host) if host else None,
            pod=_pod_of(host) if host else "",
            began=bool(began),
        )
    return rows


def _pod_of(hostname: str) -> str:
    """The pod that a host name begins with; empty where it begins otherwise: pods may share the name of their machine."""
    first = hostname.partition(".")[0]
    return first if identifiers.launch_of_pod(first) or identifiers.warm_id_of_pod(first) else ""


def coordinates(key: Any) -> tuple[str, str, str, int]:
    """The part of a task key that identifies its row, without the try."""
    return (key.dag_id, key.task_id, key.run_id, key.map_index)


def rebuild_workloads(subjects: Sequence[str], generator: Any) -> dict[str, tuple[Any, Any]]:
    """Rebuild the workloads of queued task instances, with new tokens: (workload, executor_config) by id.

    For launches whose request was known only to a dead scheduler or to a Redis that lost its data. For a row from which no
    workload can be built, the value is (None, the error).
    """
    with _session() as session:
        task_instances = session.scalars(
            select(TaskInstance)
            .where(
                TaskInstance.id.in_([UUID(subject) for subject in subjects]),
                TaskInstance.state == TaskInstanceState.QUEUED,
                *compat.only_current(),
            )
            .options(
                joinedload(TaskInstance.dag_run).joinedload(DagRun.dag_model),
                joinedload(TaskInstance.dag_model),
                # Loaded row by row: a pickle that this release cannot read must not fail the whole query.
                defer(TaskInstance.executor_config),
            )
        ).unique()
        return {str(ti.id): _rebuilt(ti, generator) for ti in task_instances.all()}


def _rebuilt(ti: TaskInstance, generator: Any) -> tuple[Any, Any]:
    try:
        config = ti.executor_config
        return workloads.ExecuteTask.make(ti, generator=generator), config
    except SQLAlchemyError:
        raise
    except Exception as error:  # noqa: BLE001  whatever the row holds fails this task and no other
        return None, error


def alive_schedulers(threshold_s: int) -> set[str]:
    """Job ids of live schedulers, as text: running, with a heartbeat in the last `threshold_s` seconds."""
    cutoff = datetime.now(timezone.utc) - timedelta(seconds=threshold_s)
    with _session() as session:
        return {
            str(job_id)
            for job_id in session.scalars(
                select(Job.id).where(
                    Job.job_type == "SchedulerJob", Job.state == JobState.RUNNING, Job.latest_heartbeat >= cutoff
                )
            )
        }
