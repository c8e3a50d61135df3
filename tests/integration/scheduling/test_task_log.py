"""What the log of a task that never started says, read as the API server reads it."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from airflow.models.log import Log
from airflow.models.taskinstance import TaskInstance
from airflow.models.taskinstancehistory import TaskInstanceHistory
from airflow.utils.log.file_task_handler import FileTaskHandler
from airflow.utils.log.log_reader import TaskLogReader
from airflow.utils.session import create_session
from sqlalchemy import select, text
from sqlalchemy.orm import joinedload

from podrelay import event_log, task_log
from podrelay.airflow_plugin import extend_task_logs
from tests.harness.task_instances import load, make_task_instances, update

LAUNCH = "0190a5f0-0000-7000-8000-000000000001"


@pytest.fixture
def handler(tmp_path: Any) -> Iterator[FileTaskHandler]:
    """The handler that reads logs, as configured, with podrelay's lines."""
    logger = logging.getLogger("airflow.task")
    before = list(logger.handlers)
    handler = FileTaskHandler(str(tmp_path))
    handler.name = "task"
    logger.handlers = [handler]
    app = object()
    assert extend_task_logs(app) is app
    extend_task_logs(app)  # a second application in the same process
    yield handler
    logger.handlers = before


@pytest.fixture
def ti(airflow_db: None) -> TaskInstance:
    ti_id = make_task_instances()[0]
    update(ti_id, state="queued", external_executor_id=LAUNCH)
    return load(ti_id)


def write(ti: Any, event: str, extra: str, owner: str | None = "podrelay", **other: Any) -> None:
    with create_session() as session:
        session.add(Log(event=event, task_instance=ti.key, owner=owner, extra=extra, **other))


def lines(ti: Any, try_number: int = 1) -> list[str]:
    """The events of the log, without Airflow's own about its sources."""
    stream, _ = TaskLogReader().read_log_chunks(ti, try_number, {"end_of_log": False})
    return [message.event for message in stream if getattr(message, "logger", "") == "podrelay"]


def test_why_it_waits_and_failed(handler: FileTaskHandler, ti: TaskInstance) -> None:
    row = event_log.row_text("NoLauncher: none", LAUNCH, 0)
    for _ in range(3):
        write(ti, event_log.PENDING, row)
    write(ti, event_log.FAILED, event_log.row_text("exit 1", LAUNCH, 0, namespace="n", pod="p", tail=("a", "b")))
    expected = [
        "pod pending: NoLauncher: none", f"Launch {LAUNCH}, attempt 0, no pod",
        "pod failed: exit 1", f"Launch {LAUNCH}, attempt 0, pod n/p", "Last log lines:", "    a", "    b",
    ]  # fmt: skip
    assert lines(ti) == expected
    streamed = [json.loads(line) for line in TaskLogReader().read_log_stream(ti, 1, {"end_of_log": False})]
    assert [line["event"] for line in streamed if line.get("logger") == "podrelay"] == expected
    assert [line["level"] for line in streamed if line.get("logger") == "podrelay"] == ["warning"] * 2 + ["error"] * 5


def test_only_rows_of_this_try_and_of_podrelay(handler: FileTaskHandler, ti: TaskInstance) -> None:
    write(ti, event_log.PENDING, "another try", try_number=2)
    write(ti, event_log.PENDING, "another map index", map_index=7)
    write(ti, event_log.PENDING, "written by Airflow", owner=None)
    write(ti, "clear", "by a person who is named podrelay")
    assert lines(ti) == [task_log.queued_text(LAUNCH)]
    assert LAUNCH in lines(ti)[0]
    assert lines(ti, 2) == ["pod pending: another try"]
    update(str(ti.id), external_executor_id="of another kind")
    assert LAUNCH not in lines(load(str(ti.id)))[0]


def test_a_task_of_another_executor_or_in_another_state(handler: FileTaskHandler, ti: TaskInstance) -> None:
    update(str(ti.id), executor="NoSuchExecutor")
    assert lines(load(str(ti.id))) == []
    update(str(ti.id), executor=None, state="scheduled")
    assert lines(load(str(ti.id))) == []


def test_a_running_task_has_only_its_own_log(handler: FileTaskHandler, ti: TaskInstance) -> None:
    """It is read in pieces, each of which would bring the rows again."""
    write(ti, event_log.PENDING, "why it waited")
    update(str(ti.id), state="running")
    assert lines(load(str(ti.id))) == []
    update(str(ti.id), state="success")
    assert lines(load(str(ti.id))) == ["pod pending: why it waited"]


def test_many_rows_are_bounded(handler: FileTaskHandler, ti: TaskInstance) -> None:
    for number in range(task_log.ROWS_MAX + 5):
        write(ti, event_log.PENDING, f"reason {number}")
    assert lines(ti) == [f"pod pending: reason {number}" for number in range(5, task_log.ROWS_MAX + 5)]


def test_the_log_is_shown_without_the_event_log(handler: FileTaskHandler, ti: TaskInstance) -> None:
    write(ti, event_log.PENDING, "why it waits")
    with create_session() as session:
        session.execute(text("ALTER TABLE log RENAME TO log_away"))
    try:
        stream, position = TaskLogReader().read_log_chunks(ti, 1, {"end_of_log": False})
        assert position["end_of_log"]
        assert [message.event for message in stream][0].startswith("::group::"), "Airflow's own lines"
    finally:
        with create_session() as session:
            session.execute(text("ALTER TABLE log_away RENAME TO log"))
    assert lines(ti) == ["pod pending: why it waits"]


def test_an_earlier_try(handler: FileTaskHandler, ti: TaskInstance) -> None:
    """Airflow keeps it in another table."""
    write(ti, event_log.FAILED, "the first")
    write(ti, event_log.PENDING, "the second", try_number=2)
    with create_session() as session:
        recorded = session.get(TaskInstance, ti.id)
        assert recorded is not None
        TaskInstanceHistory.record_ti(recorded, session=session)
    update(str(ti.id), try_number=2)
    with create_session() as session:
        history = session.scalars(
            select(TaskInstanceHistory)
            .where(TaskInstanceHistory.dag_id == ti.dag_id)
            .options(joinedload(TaskInstanceHistory.dag_run))
        ).one()
    assert lines(history) == ["pod failed: the first"]
    assert lines(load(str(ti.id)), 2) == ["pod pending: the second"]


def test_the_plugin_costs_a_task_process_nothing() -> None:
    script = (
        "import sys, airflow.plugins_manager, podrelay; before = set(sys.modules); import podrelay.airflow_plugin;"
        "print(sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "['podrelay.airflow_plugin']"
