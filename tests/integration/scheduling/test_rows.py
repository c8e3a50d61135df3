"""The rows of tasks: by id, which is cheap, and by key where the id has changed."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from airflow.models.taskinstance import TaskInstance
from airflow.utils.session import create_session
from sqlalchemy import event, update
from sqlalchemy.exc import SQLAlchemyError

from podrelay.executor import RedisKubernetesExecutor
from podrelay.scheduling.airflow_db import (
    alive_schedulers,
    coordinates,
    one_connection,
    queued_by,
    rows_by_key,
    rows_by_subject,
    rows_of_tasks,
)
from tests.harness.task_instances import OWNER, load, make_task_instances, workloads_of
from tests.integration.scheduling.conftest import Outside, beat


class Connections:
    """What happens to the connections of Airflow's database, in order: taken, ended (their transaction), given back."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.taken_at_once = 0

    def taken(self, *_: object) -> None:
        self.seen.append("taken")
        self.taken_at_once = max(self.taken_at_once, self.seen.count("taken") - self.seen.count("given back"))

    def ended(self, *_: object) -> None:
        self.seen.append("ended")

    def given_back(self, *_: object) -> None:
        self.seen.append("given back")


@pytest.fixture
def connections(airflow_db: None) -> Iterator[Connections]:
    with create_session() as session:
        engine: Any = session.get_bind()
    found = Connections()
    listeners: list[tuple[Any, str, Callable[..., None]]] = [
        (engine, "engine_connect", found.taken),
        (engine, "rollback", found.ended),
        (engine.pool, "checkin", found.given_back),
    ]
    for target, name, listener in listeners:
        event.listen(target, name, listener)
    yield found
    for target, name, listener in listeners:
        event.remove(target, name, listener)


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
        engine: Any = session.get_bind()
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


def test_the_queries_of_a_heartbeat_share_a_connection_and_no_transaction(
    connections: Connections, executor: RedisKubernetesExecutor, outside: Outside
) -> None:
    """A transaction that stayed open while Redis is waited for would keep PostgreSQL from cleaning its tables."""
    first, *others = workloads_of(make_task_instances(3, queued_by_job_id=OWNER), executor.jwt_generator)
    executor.queue_workload(first, None)  # type: ignore[arg-type]
    beat(executor, until=lambda: len(executor.running) == 1)  # without launches, nothing would be compared
    for workload in others:
        executor.queue_workload(workload, None)  # type: ignore[arg-type]
    executor.parts.reconciler.schedule_now()
    connections.seen.clear()
    executor.heartbeat()
    assert len(executor.running) == 3
    queries = connections.seen.count("ended")
    assert queries > 1
    assert connections.seen == ["taken", *["ended"] * queries, "given back"]


def test_a_heartbeat_without_queries_takes_no_connection(
    connections: Connections, executor: RedisKubernetesExecutor
) -> None:
    beat(executor)
    connections.seen.clear()
    executor.heartbeat()
    assert connections.seen == []


def test_after_a_failure_the_next_query_has_another_connection(connections: Connections) -> None:
    (ti,) = map(load, make_task_instances(1))
    connections.seen.clear()
    with one_connection():
        with pytest.raises(SQLAlchemyError):
            queued_by("no number", [ti.id, object()])  # type: ignore[arg-type, list-item]
        assert connections.seen[-1] == "given back"
        assert str(ti.id) in rows_by_subject([str(ti.id)])
    assert connections.seen.count("taken") == connections.seen.count("given back") == 2


def test_a_session_finds_the_connection_in_the_pool(connections: Connections) -> None:
    """A pool of one connection has no second one."""
    (ti,) = map(load, make_task_instances(1))
    connections.seen, connections.taken_at_once = [], 0
    with one_connection():
        rows_by_subject([str(ti.id)])
        alive_schedulers(30)
        rows_by_subject([str(ti.id)])
    assert connections.taken_at_once == 1
