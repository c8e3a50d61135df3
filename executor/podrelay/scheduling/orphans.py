"""Finds what no live scheduler is responsible for: ends of pods that no scheduler acknowledged, and pods that no task needs.
Scheduled by the reconciler, run by the executor's `sync`.

A scheduler may die between any two steps, and a launcher between creating a pod and recording it. What they leave behind
occupies no slot, but a pod that cannot start (it fits on no node) would stay forever. Every scheduler looks for orphans;
finding the same one twice does no harm.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from airflow.configuration import conf as airflow_conf

from podrelay.errors import MessageError
from podrelay.scheduling import heartbeat_budget
from podrelay.scheduling.airflow_db import alive_schedulers, is_task_id, rows_by_subject
from podrelay.scheduling.context import HeartbeatContext
from podrelay.scheduling.decisions import WANTED, TaskRow, cleanup_for
from podrelay.scheduling.results import ResultProcessor
from podrelay.scheduling.revocations import Revocations
from podrelay.scheduling.unreadable import stand_in
from podrelay.store.launch_queue import Acknowledgement

# A result without acknowledgement for this long may belong to a dead scheduler. It is found after at most half as long again,
# so all of it takes less than a minute.
ABANDONED_AFTER_S = 20.0
# A pod older than this has been adopted by now, if its task needs it.
ORPHANED_AFTER_S = 60.0
# States of a launch whose pod has not started; claimed: the pod may wait for its Secret.
_PENDING = ("created", "claimed")

Entry = Mapping[str, str]


class OrphanCollector:
    """Alternates between two searches: for unacknowledged ends until there are no more, then for a batch of orphaned pods.

    :raises RedisUnavailable, SQLAlchemyError: from `run_once`; the next run repeats what was not done.
    """

    def __init__(self, context: HeartbeatContext, results: ResultProcessor, revocations: Revocations) -> None:
        self._identity = context.identity
        self._policy = context.policy
        self._budget = context.budget
        self._launches = context.launches
        self._queue = context.queue
        self._ledger = context.ledger
        self._stream = context.results
        self._results = results
        self._revocations = revocations
        self._next_run_s = 0.0
        # Position in the set of launches that have a pod.
        self._cursor = 0
        # How many of the oldest unacknowledged entries this search passes over: other schedulers acknowledge them, or none
        # can.
        self._passed_over = 0
        # Found and still to be sent.
        self._acknowledgements: list[Acknowledgement] = []
        self._all_ends_found = False

    def schedule_now(self) -> None:
        """Search in the next run, whenever the last one was."""
        self._next_run_s = 0.0

    def run_once(self) -> None:
        """Search if it is time, through a bounded number of launches: those that come next."""
        now_s = time.monotonic()
        if now_s < self._next_run_s:
            return
        self._next_run_s = now_s + ABANDONED_AFTER_S / 2  # holds if the search fails as well
        if self._search():
            self._next_run_s = now_s

    def _search(self) -> bool:
        """Search as far as the budget of this heartbeat allows. Returns whether the next one has to continue."""
        if self._acknowledgements:
            self._send_acknowledgements()
        elif not self._all_ends_found:
            self._find_ends()
        if self._acknowledgements or not self._all_ends_found or not self._budget.has_room(2):
            return True
        self._find_pods()
        self._all_ends_found = False
        return False

    def _find_ends(self) -> None:
        """Acknowledge the unacknowledged ends, so that their pods are cleaned up. Take launches back once more that
        were withdrawn and still have a pending pod.
        """
        found = self._ledger.unacknowledged(
            time.time() - ABANDONED_AFTER_S, self._passed_over, heartbeat_budget.COMPARISON_BATCH
        )
        acknowledgements: list[Acknowledgement] = []
        unreadable: dict[str, Entry] = {}
        for launch_id, entry in self._without_owner(found).items():
            if not entry:
                acknowledgements.append(Acknowledgement(launch_id, 0, ""))  # the ledger entry has expired
            elif entry.get("result"):
                acknowledgement = self._acknowledgement(launch_id, entry)
                if acknowledgement is None:
                    unreadable[launch_id] = entry
                else:
                    acknowledgements.append(acknowledgement)
            elif entry.get("state") == "withdrawn":
                self._revocations.request(launch_id, entry.get("subject", ""), "unwanted")
        acknowledgements += self._acknowledge_unreadable(unreadable)
        self._acknowledgements = acknowledgements
        more = len(found) == heartbeat_budget.COMPARISON_BATCH
        self._passed_over = self._passed_over + len(found) - len(acknowledgements) if more else 0
        self._all_ends_found = not more
        if self._budget.has_room():
            self._send_acknowledgements()

    def _send_acknowledgements(self) -> None:
        self._queue.acknowledge(self._acknowledgements)
        self._acknowledgements = []

    def _find_pods(self) -> None:
        """Take back launches whose pod is pending, whose scheduler is dead, and which the database does not want."""
        self._cursor, found = self._ledger.live(
            self._identity.cluster, self._cursor, time.time() - ORPHANED_AFTER_S, heartbeat_budget.COMPARISON_BATCH
        )
        pending = {
            launch_id: entry
            for launch_id, entry in self._without_owner(found).items()
            if entry.get("state") in _PENDING and entry.get("kind") == "task" and is_task_id(entry.get("subject", ""))
        }
        rows = rows_by_subject([entry["subject"] for entry in pending.values()])
        for launch_id, entry in pending.items():
            if not is_wanted(launch_id, rows.get(entry["subject"])):
                self._revocations.request(launch_id, entry["subject"], "unwanted")

    def _without_owner(self, launch_ids: list[str]) -> dict[str, Entry]:
        """The ledger entries of those among these launches that no live scheduler is responsible for; an empty entry for one
        that has expired. This scheduler is not responsible for what it has withdrawn: it only waits for the end.
        """
        known = {launch_id: self._launches.get(launch_id) for launch_id in launch_ids}
        candidates = [launch_id for launch_id, launch in known.items() if launch is None or launch.is_withdrawn]
        if not candidates:
            return {}
        alive = alive_schedulers(airflow_conf.getint("scheduler", "scheduler_health_check_threshold"))
        others, cluster = alive - {self._identity.owner}, self._identity.cluster
        return {
            launch_id: entry
            for launch_id, entry in zip(candidates, self._ledger.entries(candidates), strict=True)
            if entry.get("owner") not in others and entry.get("cluster", cluster) == cluster
        }

    def _acknowledgement(self, launch_id: str, entry: Entry) -> Acknowledgement | None:
        try:
            report = self._stream.open(entry["result"])
        except MessageError:
            return None
        return self._results.acknowledgement(
            launch_id, entry.get("subject", ""), report, cleanup_for(report, self._policy)
        )

    def _acknowledge_unreadable(self, entries: Mapping[str, Entry]) -> list[Acknowledgement]:
        """Close those among these launches whose task is over, as the database says; their reports cannot be decrypted."""
        subjects = {launch_id: entry.get("subject", "") for launch_id, entry in entries.items()}
        rows = rows_by_subject([subject for subject in subjects.values() if is_task_id(subject)]) if subjects else {}
        found = []
        for launch_id, entry in entries.items():
            row, report = rows.get(subjects[launch_id]), stand_in(launch_id, entry)
            if report is not None and row is not None and row.launch_id == launch_id and row.state not in WANTED:
                cleanup = cleanup_for(report, self._policy)
                found.append(
                    self._results.acknowledgement(launch_id, subjects[launch_id], report, cleanup, readable=False)
                )
        return found


def is_wanted(launch_id: str, row: TaskRow | None) -> bool:
    """Pure: may the task instance still need this launch? Also if its row does not hold a launch id yet."""
    if row is None or row.state not in WANTED:
        return False
    return row.launch_id in (None, launch_id) or (row.host is not None and row.host[0] == launch_id)
