"""Queries of Airflow's database, each one for many rows and in its own session.

Some callers run inside the scheduler's transaction, which a shared session would commit too early (airflow #67813).

Used by every part of a heartbeat that compares launches with their task instances.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta, timezone
from functools import cache
from typing import Any
from uuid import UUID

from airflow.executors import workloads
from airflow.jobs.job import Job, JobState
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.utils.session import create_session
from airflow.utils.state import TaskInstanceState
from sqlalchemy import bindparam, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import defer, joinedload

from podrelay import compat
from podrelay.protocol import identifiers
from podrelay.scheduling.decisions import TaskRow

log = logging.getLogger(__name__)

_COLUMNS = (
    TaskInstance.id,
    TaskInstance.dag_id,
    TaskInstance.task_id,
    TaskInstance.run_id,
    TaskInstance.map_index,
    TaskInstance.try_number,
    TaskInstance.state,
    TaskInstance.external_executor_id,
    TaskInstance.queued_by_job_id,
    TaskInstance.queued_dttm,
    TaskInstance.start_date,
    TaskInstance.hostname,
)


def rows_by_key(keys: Iterable[Any]) -> dict[tuple[str, str, str, int], TaskRow]:
    """The task instances with these keys, by (dag_id, task_id, run_id, map_index).

    Not by id: clearing a running task changes its id at once, while the end of its pod still matters.
    """
    wanted = TaskInstance.filter_for_tis(list(keys))
    if wanted is None:
        return {}
    return {(row.dag_id, row.task_id, row.run_id, row.map_index): _task_row(row) for row in _select(wanted)}


def rows_by_subject(subjects: Sequence[str]) -> dict[str, TaskRow]:
    """The task instances with these ids. A task that was cleared while it ran has another id and is not found. A subject
    that is not an id, as the annotation of a pod may bring into the ledger, is ignored.
    """
    ids = [UUID(subject) for subject in subjects if is_task_id(subject)]
    return {str(row.id): _task_row(row) for row in _select(TaskInstance.id.in_(ids))} if ids else {}


def queued_by(owner: int, ids: Sequence[UUID]) -> dict[UUID, tuple[int, str | None]]:
    """Try and launch id of those task instances that the database shows as queued by this scheduler, by id."""
    with create_session(scoped=False) as session:
        rows = session.connection().execute(_queued_by(), {"owner": owner, "ids": ids})
        return {ti_id: (try_number, launch_id) for ti_id, try_number, launch_id in rows}


@cache
def _queued_by() -> Any:
    """Made once: with a hundred ids, to make it costs as much as to run it, in each heartbeat that hands over."""
    return select(TaskInstance.id, TaskInstance.try_number, TaskInstance.external_executor_id).where(
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


def _select(wanted: Any) -> Sequence[Any]:
    with create_session(scoped=False) as session:
        return session.execute(select(*_COLUMNS).where(wanted, *compat.only_current())).all()


def _task_row(row: Any) -> TaskRow:
    hostname = row.hostname or ""
    return TaskRow(
        state=None if row.state is None else str(getattr(row.state, "value", row.state)),
        try_number=row.try_number,
        launch_id=row.external_executor_id,
        subject=str(row.id),
        queued_by=row.queued_by_job_id,
        host=identifiers.launch_of_host(hostname),
        pod=_pod_of(hostname),
        began=row.start_date is not None and (row.queued_dttm is None or row.start_date >= row.queued_dttm),
    )


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
    with create_session(scoped=False) as session:
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
    with create_session(scoped=False) as session:
        return {
            str(job_id)
            for job_id in session.scalars(
                select(Job.id).where(
                    Job.job_type == "SchedulerJob", Job.state == JobState.RUNNING, Job.latest_heartbeat >= cutoff
                )
            )
        }
