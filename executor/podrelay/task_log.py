"""Why a task waits or has failed, as the last lines of its log in Airflow's user interface.

A task that never started has written no log, and Airflow asks executors only for the logs of running tasks. The lines are
podrelay's rows in the event log, so that the API server needs neither Redis nor Kubernetes for them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from itertools import chain
from typing import Any, NamedTuple

from airflow.models.log import Log
from airflow.utils.log.file_task_handler import StructuredLogMessage
from airflow.utils.log.log_reader import TaskLogReader
from airflow.utils.session import create_session
from airflow.utils.state import TaskInstanceState
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from podrelay import compat, event_log
from podrelay.protocol import identifiers

log = logging.getLogger(__name__)

ROWS_MAX = 50
_MARK = "podrelay_extended"


class EventRow(NamedTuple):
    """A row of podrelay in the event log of one try."""

    at: datetime | None
    event: str
    text: str


def extend_log_reader() -> None:
    """The handler with which Airflow reads the logs of tasks adds podrelay's lines from now on. Repeating it does nothing."""
    handler: Any = TaskLogReader().log_handler
    if hasattr(handler, "read") and not hasattr(handler, _MARK):
        setattr(handler, _MARK, True)
        handler.read = _extended(handler.read)


def _extended(read: Callable[..., Any]) -> Callable[..., Any]:
    def read_with_events(ti: Any, try_number: int | None = None, metadata: Any = None) -> Any:
        stream, position = read(ti, try_number, metadata=metadata)
        # Before its end, a log is read in pieces, and these lines would come with each of them.
        if position.get("end_of_log"):
            stream = chain(stream or (), _lines(ti, ti.try_number if try_number is None else try_number))
        return stream, position

    return read_with_events


def _lines(ti: Any, try_number: int) -> Iterator[StructuredLogMessage]:
    try:
        rows = read_rows(ti, try_number)
    except SQLAlchemyError as error:  # the log itself was read
        log.warning("Cannot read the event log of %s: %s", ti.task_id, type(error).__name__)
        return
    yield from messages(rows)
    # The start of an earlier pod does not say what a task that was queued again waits for.
    if all(row.event == event_log.STARTED for row in rows) and _is_queued(ti, try_number):
        yield _message(queued_text(ti.external_executor_id), "info")


def _is_queued(ti: Any, try_number: int) -> bool:
    queued = ti.try_number == try_number and ti.state == TaskInstanceState.QUEUED
    return queued and compat.is_executed_by_podrelay(ti)


def read_rows(ti: Any, try_number: int) -> list[EventRow]:
    """The last rows about this try, without repetitions, the oldest first.

    :raises SQLAlchemyError: the database does not answer.
    """
    coordinates = (
        Log.dag_id == ti.dag_id, Log.task_id == ti.task_id, Log.run_id == ti.run_id, Log.map_index == ti.map_index,
        Log.try_number == try_number,
    )  # fmt: skip
    # A person may have the same name; what people do is logged under other events.
    ours = (Log.owner == event_log.OWNER, Log.event.in_(event_log.EVENTS))
    wanted = select(Log.dttm, Log.event, Log.extra).where(*coordinates, *ours).order_by(Log.id.desc()).limit(ROWS_MAX)
    with create_session(scoped=False) as session:
        found = [EventRow(at, event, text or "") for at, event, text in session.execute(wanted)]
    newest: dict[tuple[str, str], EventRow] = {}
    for row in found:
        newest.setdefault((row.event, row.text), row)
    return list(newest.values())[::-1]


def messages(rows: Iterable[EventRow]) -> Iterator[StructuredLogMessage]:
    """Pure: one message for each line of each row."""
    for row in rows:
        level = "error" if row.event in event_log.ERRORS else "info" if row.event == event_log.STARTED else "warning"
        first, *others = row.text.split("\n")
        for line in (f"{row.event}: {first}", *others):
            yield _message(line, level, row.at)


def _message(text: str, level: str, at: datetime | None = None) -> StructuredLogMessage:
    further: dict[str, Any] = {"level": level, "logger": event_log.OWNER}
    return StructuredLogMessage(timestamp=at, event=text, **further)


def queued_text(launch_id: str | None) -> str:
    """Pure: what there is to say about a queued task about which podrelay has reported nothing."""
    if not identifiers.is_launch_id(launch_id):
        return "The task is queued. podrelay has reported nothing about it yet."
    return (
        f"The task is queued as launch {launch_id}. podrelay has reported nothing about it yet; this shows where it is: "
        f"airflow podrelay status --launch {launch_id}"
    )
