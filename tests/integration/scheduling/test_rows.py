"""The rows of tasks: by id, which is cheap, and by key where the id has changed."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

import pytest
from airflow.models.taskinstance import TaskInstance
from airflow.utils.session import create_session
from sqlalchemy import event, update

from podrelay.scheduling.airflow_db import coordinates, rows_by_key, rows_by_subject, rows_of_tasks
from tests.harness.task_instances import load, make_task_instances


@pytest.mark.usefixtures("airflow_db")
def test_a_cleared_task_is_found_by_its_key() -> None:
    """Clearing a running task gives its row another id at once."""
    kept, cleared, other = map(load, make_task_instances(3))
    with create_session() as session:
        session.execute(update(TaskInstance).where(TaskInstance.id == cleared.id).values(id=uuid.uuid4()))
    tasks = [(str(ti.id), ti.key) for ti in (kept, cleared)]
    rows = rows_of_tasks(tasks)
    assert rows == rows_by_key([key for _, key in tasks])
    assert rows[coordinates(kept.key)].subject == str(kept.id)
    assert rows[coordinates(cleared.key)].subject != str(cleared.id)
    assert rows_of_tasks([(str(other.id), kept.key)])[coordinates(kept.key)].subject == str(kept.id)
    assert rows_of_tasks([]) == {}


@pytest.mark.usefixtures("airflow_db")
def test_rows_of_tasks_that_kept_their_ids_cost_one_query() -> None:
    tasks = [(str(ti.id), ti.key) for ti in map(load, make_task_instances(3))]
    queries: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *rest: object) -> None:
        queries.append(statement)

    with create_session() as session:
        engine = session.get_bind()
    event.listen(engine, "before_cursor_execute", note)
    try:
        rows_of_tasks(tasks)
    finally:
        event.remove(engine, "before_cursor_execute", note)
    assert len(queries) == 1


@pytest.mark.usefixtures("airflow_db")
def test_a_task_has_begun_if_it_started_after_it_was_queued() -> None:
    ti = load(make_task_instances()[0])
    assert ti.queued_dttm is not None
    before, after = ti.queued_dttm - timedelta(seconds=1), ti.queued_dttm + timedelta(seconds=1)
    for times, began in (
        ({"start_date": None}, False),
        ({"start_date": before}, False),
        ({"start_date": ti.queued_dttm}, True),
        ({"start_date": after}, True),
        ({"start_date": before, "queued_dttm": None}, True),
        ({"start_date": None, "queued_dttm": None}, False),
    ):
        with create_session() as session:
            session.execute(update(TaskInstance).where(TaskInstance.id == ti.id).values(**times))
        assert rows_by_subject([str(ti.id)])[str(ti.id)].began is began, times
