"""The harness' own look at Airflow's task_instance and job tables, in plain SQL: it judges from outside."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

from sqlalchemy import Engine, bindparam, create_engine, text

_STATE = "UPDATE task_instance SET state = :new, updated_at = CURRENT_TIMESTAMP WHERE id IN :ids AND state {old}"


class Rows:
    """Thread-safe. Task ids are text."""

    def __init__(self, url: str) -> None:
        options: dict[str, Any] = {"pool_size": 20, "max_overflow": 20} if "postgresql" in url else {}
        self._engine: Engine = create_engine(url, **options)
        self._sqlite = "sqlite" in url

    def begin(self, task: str, host: str) -> bool:
        """As the execution API does: once, with the time at which it began and the host that asked."""
        now = datetime.now(timezone.utc)
        began = now.strftime("%Y-%m-%d %H:%M:%S.%f") if self._sqlite else now.isoformat()
        query = text(
            "UPDATE task_instance SET state = 'running', start_date = :began, hostname = :host "
            "WHERE id = :id AND state = 'queued'"
        )
        with self._engine.begin() as connection:
            return (
                int(connection.execute(query, {"began": began, "host": host, "id": self._ids([task])[0]}).rowcount) == 1
            )

    def succeed(self, task: str) -> bool:
        return self._move([task], "success", "= 'running'") == 1

    def age(self, seconds: float) -> int:
        """All tasks in queued have been queued for so long; how many there are."""
        then = datetime.now(timezone.utc) - timedelta(seconds=seconds)
        query = text("UPDATE task_instance SET queued_dttm = :then WHERE state = 'queued'")
        at = then.strftime("%Y-%m-%d %H:%M:%S.%f") if self._sqlite else then.isoformat()
        with self._engine.begin() as connection:
            return int(connection.execute(query, {"then": at}).rowcount)

    def aged(self, seconds: float) -> int:
        """How many tasks have been in queued for longer."""
        then = datetime.now(timezone.utc) - timedelta(seconds=seconds)
        query = text("SELECT count(*) FROM task_instance WHERE state = 'queued' AND queued_dttm < :then")
        at = then.strftime("%Y-%m-%d %H:%M:%S.%f") if self._sqlite else then.isoformat()
        with self._engine.connect() as connection:
            return int(connection.execute(query, {"then": at}).scalar_one())

    def schedule(self, tasks: Sequence[str]) -> None:
        self._move(tasks, "scheduled", "IS NULL")

    def states(self, tasks: Sequence[str]) -> dict[str, tuple[str, int]]:
        """State and try number by task."""
        query = text("SELECT id, state, try_number FROM task_instance WHERE id IN :ids")
        with self._engine.connect() as connection:
            found = connection.execute(query.bindparams(bindparam("ids", expanding=True)), {"ids": self._ids(tasks)})
            return {str(uuid.UUID(str(row[0]))): (str(row[1]), int(row[2])) for row in found}

    def bury(self, job_id: int) -> None:
        """Say at once what Airflow would find out after scheduler_health_check_threshold."""
        with self._engine.begin() as connection:
            connection.execute(text("UPDATE job SET state = 'failed' WHERE id = :id"), {"id": job_id})

    def close(self) -> None:
        self._engine.dispose()

    def _move(self, tasks: Sequence[str], new: str, old: str) -> int:
        query = text(_STATE.format(old=old)).bindparams(bindparam("ids", expanding=True))
        with self._engine.begin() as connection:
            return int(connection.execute(query, {"new": new, "ids": self._ids(tasks)}).rowcount)

    def _ids(self, tasks: Sequence[str]) -> list[Any]:
        return [uuid.UUID(task).hex for task in tasks] if self._sqlite else [uuid.UUID(task) for task in tasks]
