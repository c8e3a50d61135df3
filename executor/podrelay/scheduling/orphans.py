"""What nobody holds any more: ends that no scheduler acknowledged, and pods that no task needs. Called by `reconciliation`.

A scheduler may die between any two steps, and a launcher between making a pod and saying so. What they leave behind holds no
slot, but a pod that cannot start (no node fits) would wait for ever. Every scheduler sweeps; doing it twice does no harm.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from airflow.configuration import conf as airflow_conf

from podrelay.errors import MessageError
from podrelay.scheduling import heartbeat_budget
from podrelay.scheduling.airflow_db import alive_schedulers, is_task_id, rows_by_subject
from podrelay.scheduling.context import Context
from podrelay.scheduling.decisions import WANTED, Decision, TaskRow, cleanup_for
from podrelay.scheduling.launch_registry import Launch
from podrelay.scheduling.results import ResultProcessor
from podrelay.scheduling.revocations import Revocations
from podrelay.store.launch_queue import Acknowledgement

# Results that nobody acknowledged for this long may belong to a scheduler that is dead.
# Half as long again passes until somebody looks, and all of it fits into a minute.
ABANDONED_AFTER_S = 20.0
# A pod older than this has been adopted by now, if its task needs it.
ORPHANED_AFTER_S = 60.0

Entry = Mapping[str, str]


class OrphanCollector:
    """:raises RedisUnavailable, SQLAlchemyError: from `turn`; what it had not swept is swept the next time."""

    def __init__(self, context: Context, endings: ResultProcessor, withdrawals: Revocations) -> None:
        self._executor = context.executor
        self._launches = context.launches
        self._queue = context.queue
        self._ledger = context.ledger
        self._results = context.results
        self._endings = endings
        self._withdrawals = withdrawals
        self._next_s = 0.0
        self._cursor = 0
        # So many entries are left as they are by this round: ends that others acknowledge, or that nobody can.
        self._left = 0
        # What this sweep is still to do: acknowledge these, and look for more ends before it looks at pods.
        self._cleanups: list[Acknowledgement] = []
        self._ends_swept = False

    def due_now(self) -> None:
        """The next turn sweeps, whenever it was last done."""
        self._next_s = 0.0

    def turn(self) -> None:
        """OrphanCollector if it is time: a bounded number of launches, those that come next."""
        now = time.monotonic()
        if now < self._next_s:
            return
        self._next_s = now + ABANDONED_AFTER_S / 2  # also where this fails
        if self._goes_on():
            self._next_s = now

    def _goes_on(self) -> bool:
        """OrphanCollector as far as this heartbeat has room. Is there more to do in the next one?"""
        if self._cleanups:
            self._acknowledge()
        elif not self._ends_swept:
            self._sweep_ends()
        if self._cleanups or not self._ends_swept or not self._executor.beat.has_room(2):
            return True
        self._sweep_pods()
        self._ends_swept = False
        return False

    def _sweep_ends(self) -> None:
        """Acknowledge what nobody did, so that its pods go; take back again what was withdrawn and still has one."""
        found = self._ledger.unacknowledged(
            time.time() - ABANDONED_AFTER_S, self._left, heartbeat_budget.COMPARED_AT_ONCE
        )
        cleanups: list[Acknowledgement] = []
        for launch_id, entry in self._nobodys(found).items():
            if not entry:
                cleanups.append(Acknowledgement(launch_id, 0, ""))  # the ledger has forgotten it
            elif entry.get("result"):
                acknowledgement = self._acknowledgement(launch_id, entry)
                cleanups += [acknowledgement] if acknowledgement is not None else []
            elif entry.get("state") == "withdrawn":
                self._withdrawals.note(launch_id, entry.get("subject", ""), "unwanted")
        self._cleanups = cleanups
        more = len(found) == heartbeat_budget.COMPARED_AT_ONCE
        self._left = self._left + len(found) - len(cleanups) if more else 0
        self._ends_swept = not more
        if self._executor.beat.has_room():
            self._acknowledge()

    def _acknowledge(self) -> None:
        self._queue.acknowledge(self._cleanups)
        self._cleanups = []

    def _sweep_pods(self) -> None:
        """Take back launches whose pod waits, whose scheduler is gone, and which the database does not want."""
        self._cursor, found = self._ledger.live(
            self._executor.cluster, self._cursor, time.time() - ORPHANED_AFTER_S, heartbeat_budget.COMPARED_AT_ONCE
        )
        waiting = {
            launch_id: entry
            for launch_id, entry in self._nobodys(found).items()
            if entry.get("state") == "created" and entry.get("kind") == "task" and is_task_id(entry.get("subject", ""))
        }
        rows = rows_by_subject([entry["subject"] for entry in waiting.values()])
        for launch_id, entry in waiting.items():
            if not wanted(launch_id, rows.get(entry["subject"])):
                self._withdrawals.note(launch_id, entry["subject"], "unwanted")

    def _nobodys(self, launch_ids: list[str]) -> dict[str, Entry]:
        """The ledger of those among these for which no living scheduler answers; empty where it has forgotten one. This one
        does not answer for what it has taken back: it only waits for the end.
        """
        held = {launch_id: self._launches.get(launch_id) for launch_id in launch_ids}
        mine = [launch_id for launch_id, launch in held.items() if launch is None or launch.withdrawn]
        if not mine:
            return {}
        alive = alive_schedulers(airflow_conf.getint("scheduler", "scheduler_health_check_threshold"))
        others = alive - {self._executor.scheduler_job_id}
        return {
            launch_id: entry
            for launch_id, entry in zip(mine, self._ledger.entries(mine), strict=True)
            if entry.get("owner") not in others
            and entry.get("cluster", self._executor.cluster) == self._executor.cluster
        }

    def _acknowledgement(self, launch_id: str, entry: Entry) -> Acknowledgement | None:
        try:
            result = self._results.open(entry["result"])
        except MessageError:
            return None
        launch = Launch(launch_id, None, entry.get("kind", "task"), entry.get("subject", ""), attempt=result.attempt)
        return self._endings.acknowledgement(
            launch, result, Decision(cleanup=cleanup_for(result, self._executor.policy)), over=True
        )


def wanted(launch_id: str, row: TaskRow | None) -> bool:
    """Pure: may the task instance still need this launch? A row that does not say which launch it waits for may."""
    if row is None or row.state not in WANTED:
        return False
    return row.launch_id in (None, launch_id) or (row.host is not None and row.host[0] == launch_id)
