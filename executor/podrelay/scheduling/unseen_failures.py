"""Failures that the database does not show yet: the scheduler loses the event of one if another scheduler holds its row at
that moment, so it is emitted again.

Used by the result processor, which adds them, and by the reconciler, which has them repeated.
"""

from __future__ import annotations

import time
from itertools import islice
from typing import Any, NamedTuple

from airflow.utils.state import TaskInstanceState

from podrelay import compat
from podrelay.scheduling import heartbeat_budget
from podrelay.scheduling.airflow_db import coordinates, rows_by_key
from podrelay.scheduling.context import HeartbeatContext
from podrelay.scheduling.decisions import WANTED, superseded
from podrelay.scheduling.launch_registry import Launch


class _Failure(NamedTuple):
    launch: Launch
    state: str
    info: str | None
    emitted_s: float


class UnseenFailures:
    """Kept in memory: what is lost is found in the ledger by a comparison."""

    def __init__(self, context: HeartbeatContext) -> None:
        self._executor = context.executor
        self._owner = context.identity.owner
        # By task key.
        self._unseen: dict[Any, _Failure] = {}

    def add(self, launch: Launch, state: str, info: str | None) -> None:
        """Its event has been emitted."""
        self._unseen[launch.key] = _Failure(launch, state, info, time.monotonic())

    def forget(self, key: Any) -> None:
        """The task was handed over again or revoked: an earlier failure no longer holds."""
        self._unseen.pop(key, None)

    def repeat(self, older_than_s: float) -> None:
        """Emit the failures again that the database does not show after this time, a batch of them.

        :raises SQLAlchemyError: nothing was emitted.
        """
        now_s = time.monotonic()
        old = ((key, failure) for key, failure in self._unseen.items() if now_s - failure.emitted_s > older_than_s)
        due = dict(islice(old, heartbeat_budget.COMPARISON_BATCH))
        rows = rows_by_key(failure.launch.task for failure in due.values())
        for key, failure in due.items():
            launch = failure.launch
            row = rows.get(coordinates(launch.task))
            others = launch.belongs_to_another(self._owner, row)
            row = launch.as_known_to(row)
            gone = superseded(launch.launch_id, launch.attempt, launch.task.try_number, row)
            del self._unseen[key]
            if gone or others or row is None or row.state not in WANTED:
                continue
            self._unseen[key] = failure._replace(emitted_s=now_s)
            if key not in self._executor.running and not compat.queued(self._executor, key):
                compat.record_event(self._executor, key, TaskInstanceState(failure.state), failure.info)
