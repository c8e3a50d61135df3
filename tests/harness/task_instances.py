"""Rows in Airflow's database as a scheduler would leave them: a DAG, its run, and task instances in a given state."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

from airflow.executors import workloads
from airflow.models.dag import DagModel
from airflow.models.dag_version import DagVersion
from airflow.models.dagbundle import DagBundleModel
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState, TaskInstanceState
from airflow.utils.types import DagRunTriggeredByType, DagRunType
from sqlalchemy import select
from sqlalchemy.orm import joinedload

OWNER = 4242  # the job id of the scheduler that these rows were queued by


def make_task_instances(
    count: int = 1,
    *,
    state: str | None = "queued",
    dag_id: str | None = None,
    task_id: str = "task_{}",
    run_id: str = "run",
    executor_config: Any = None,
    **values: Any,
) -> list[str]:
    """Ids of new task instances, queued as by a scheduler: each with its own launch id.

    :param task_id: with the number of the task in place of `{}`.
    """
    dag_id = dag_id or f"dag_{uuid.uuid4().hex[:8]}"
    now = datetime.now(timezone.utc)
    with DAG(dag_id, schedule=None, start_date=datetime(2026, 1, 1, tzinfo=timezone.utc)):
        operators: list[Any] = [EmptyOperator(task_id=task_id.format(number)) for number in range(count)]
    ids = []
    with create_session() as session:
        if session.get(DagBundleModel, "dags-folder") is None:
            session.add(DagBundleModel(name="dags-folder"))
            session.flush()
        session.add(DagModel(dag_id=dag_id, bundle_name="dags-folder", relative_fileloc="dag.py", is_paused=False))
        session.flush()
        version = DagVersion(dag_id=dag_id, version_number=1, bundle_name="dags-folder")
        session.add(version)
        run = DagRun(
            dag_id=dag_id, run_id=run_id, run_type=DagRunType.MANUAL, state=DagRunState.RUNNING,
            triggered_by=DagRunTriggeredByType.TEST, run_after=now, queued_at=now, start_date=now,
        )  # fmt: skip
        session.add(run)
        session.flush()
        for operator in operators:
            ti = TaskInstance(task=operator, run_id=run_id, state=state, dag_version_id=version.id)
            ti.try_number = 1
            ti.queued_dttm = now
            ti.queued_by_job_id = OWNER
            ti.external_executor_id = str(uuid.uuid4())
            ti.executor_config = executor_config or {}
            for name, value in values.items():
                setattr(ti, name, value)
            session.add(ti)
            session.flush()
            ids.append(str(ti.id))
    return ids


def _row(ti_id: str) -> Any:
    with_dag = joinedload(TaskInstance.dag_run).joinedload(DagRun.dag_model), joinedload(TaskInstance.dag_model)
    return select(TaskInstance).where(TaskInstance.id == uuid.UUID(ti_id)).options(*with_dag)


def load(ti_id: str) -> TaskInstance:
    """The row as it is now, detached."""
    with create_session() as session:
        ti = session.scalars(_row(ti_id)).one()
        session.expunge_all()
        return ti


def workload_of(ti_id: str, generator: Any = None) -> workloads.ExecuteTask:
    """What the scheduler would hand to the executor for this row."""
    with create_session() as session:
        ti = session.scalars(_row(ti_id)).one()
        return workloads.ExecuteTask.make(ti, generator=generator)


def workloads_of(ti_ids: Sequence[str], generator: Any = None) -> list[workloads.ExecuteTask]:
    """The same for many rows, in their order and with few queries."""
    made = {}
    with create_session() as session:
        for start in range(0, len(ti_ids), 500):
            wanted = select(TaskInstance).where(TaskInstance.id.in_(map(uuid.UUID, ti_ids[start : start + 500])))
            related = joinedload(TaskInstance.dag_run).joinedload(DagRun.dag_model), joinedload(TaskInstance.dag_model)
            for ti in session.scalars(wanted.options(*related)).unique():
                made[str(ti.id)] = workloads.ExecuteTask.make(ti, generator=generator)
    return [made[ti_id] for ti_id in ti_ids]


def update(ti_id: str, **values: Any) -> None:
    """Change a row as another process would."""
    with create_session() as session:
        ti = session.get(TaskInstance, uuid.UUID(ti_id))
        assert ti is not None
        for name, value in values.items():
            setattr(ti, name, TaskInstanceState(value) if name == "state" and value else value)
