"""Which workloads the database shows as queued by this scheduler. Only those are handed over: the transaction that queued
a task may have been rolled back, and Airflow then queues the task again under another launch id, which would get it two pods.

Used by the dispatcher. Owner of what waits for its row.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any, NamedTuple
from uuid import UUID

from podrelay import compat
from podrelay.protocol import identifiers
from podrelay.scheduling.airflow_db import queued_by
from podrelay.scheduling.context import HeartbeatContext

# A workload waits this long for the commit of its row; then it leaves Airflow's queue.
UNQUEUED_S = 10.0


class WorkItem(NamedTuple):
    """A workload as Airflow hands it over; `key` is Airflow's name for it."""

    key: Any
    workload: Any
    queue: str | None
    executor_config: Any


class QueuedCheck:
    """:raises SQLAlchemyError: from `passed`; then nothing has passed."""

    def __init__(self, context: HeartbeatContext) -> None:
        self._executor = context.executor
        self._owner = context.identity.owner
        self._tally = context.tally
        # By key: the workload whose row does not show it as queued, and since when (monotonic).
        self._waiting: dict[Any, tuple[Any, float]] = {}

    def passed(self, batch: Sequence[WorkItem]) -> Sequence[WorkItem]:
        """Those of a batch that may be handed over; one query for all. The others stay in Airflow's queue for a while.

        Callbacks and connection tests have no task instance. Where Airflow tests a DAG without a scheduler, no row names
        one: then everything passes.
        """
        if not self._owner.isdigit():
            return batch
        if self._waiting:
            self._forget_what_left_the_queue()
        tasks = [_task_id(item.workload.ti) for item in batch if compat.kind_of(item.workload) == "task"]
        rows = queued_by(int(self._owner), tasks) if tasks else {}
        passed = []
        for item in batch:
            if compat.kind_of(item.workload) != "task" or _is_queued(item.workload.ti, rows):
                passed.append(item)
            else:
                self._hold(item)
        return passed

    def _hold(self, item: WorkItem) -> None:
        now_s = time.monotonic()
        workload, since_s = self._waiting.get(item.key, (None, now_s))
        if workload is not item.workload:
            since_s = now_s
        self._waiting[item.key] = (item.workload, since_s)
        if now_s - since_s < UNQUEUED_S and compat.queued(self._executor, item.key):
            return
        del self._waiting[item.key]
        compat.forget_queued(self._executor, item.key)
        self._tally.note(
            logging.WARNING, "is not launched: the database does not show it as queued by this scheduler under this id",
            item.key, f"scheduler {self._owner}, launch {item.workload.ti.external_executor_id}",
        )  # fmt: skip

    def _forget_what_left_the_queue(self) -> None:
        self._waiting = {key: item for key, item in self._waiting.items() if compat.queued(self._executor, key)}


def _task_id(ti: Any) -> UUID:
    return ti.id if isinstance(ti.id, UUID) else UUID(str(ti.id))


def _is_queued(ti: Any, rows: dict[str, tuple[int, str | None]]) -> bool:
    """Pure: is this the try that the database shows as queued, under the launch id that Airflow assigned, if it did?"""
    try_number, launch_id = rows.get(str(ti.id), (-1, None))
    if try_number != ti.try_number:
        return False
    return launch_id == ti.external_executor_id or not identifiers.is_assigned(ti.external_executor_id)
