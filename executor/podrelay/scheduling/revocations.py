"""Launches to be taken back. A request is recorded here at no cost and sent to Redis in batches, again and again until Redis
confirms it. Owner of what is still to be sent.

Used by the executor (the task was revoked), the dispatcher (a newer launch), the reconciler and the orphan collector (the
database no longer wants it). If this scheduler dies before it sends a request, nothing is left behind: offering a newer
launch of the same task instance withdraws the older one, and a pending pod without a newer launch is found by the orphan
collector of another scheduler.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from podrelay.scheduling import heartbeat_budget
from podrelay.scheduling.airflow_db import rows_by_subject
from podrelay.scheduling.context import HeartbeatContext
from podrelay.scheduling.decisions import TaskRow
from podrelay.store.launch_queue import Acknowledgement, Withdrawn

# revoked: Airflow revoked the task. unwanted: the database has moved on. superseded: a newer launch of its key came after it
# had run; its pod is about to end and may still be writing its log. hanging: it was withdrawn before, and its pod may have
# started without beginning its task.
WithdrawalReason = Literal["revoked", "unwanted", "superseded", "hanging"]

# A pod that was pending when its launch was revoked is deleted only while it is pending. After this long it is checked again:
# by then its task has begun, or Airflow has rejected it and the pod has ended, or the pod hangs.
RECHECK_AFTER_S = 15.0


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """A request to take one launch back."""

    launch_id: str
    subject: str
    reason: WithdrawalReason


class Revocations:
    """Collects requests and sends them: `request` costs nothing, `send_pending` makes the round trips."""

    def __init__(self, context: HeartbeatContext) -> None:
        self._executor = context.executor
        self._budget = context.budget
        self._launches = context.launches
        self._queue = context.queue
        # By launch id.
        self._pending: dict[str, Withdrawal] = {}
        # Launch id -> subject, when it is due (monotonic): revoked launches whose pod is to be checked once more.
        self._rechecks: dict[str, tuple[str, float]] = {}

    def request(self, launch_id: str, subject: str, reason: WithdrawalReason) -> None:
        """Have a launch taken back by one of the next heartbeats. The first reason given for it is kept."""
        self._pending.setdefault(launch_id, Withdrawal(launch_id, subject, reason))

    def pending_subjects(self) -> set[str]:
        """Task instances with an older launch that must still be withdrawn; until then, no newer one may be offered."""
        return {withdrawal.subject for withdrawal in self._pending.values()}

    def send_pending(self) -> None:
        """Take launches back in batches while the time slice lasts, and delete those pods whose task has not begun.

        :raises RedisUnavailable, SQLAlchemyError: the whole batch stays pending; sending it again does no harm.
        """
        self._request_due_rechecks()
        time_slice = heartbeat_budget.TimeSlice(heartbeat_budget.WITHDRAWALS_S)
        while self._pending:
            self._send_batch()
            if time_slice.over or not self._budget.has_room(2):
                return

    def _send_batch(self) -> None:
        batch = list(islice(self._pending.values(), heartbeat_budget.WITHDRAWAL_BATCH))
        replies = self._queue.withdraw([(withdrawal.launch_id, withdrawal.subject) for withdrawal in batch])
        withdrawn = list(zip(batch, replies, strict=True))
        rows = rows_by_subject([withdrawal.subject for withdrawal, known in withdrawn if known.pod])
        deletions = [
            self._deletion(withdrawal, known)
            for withdrawal, known in withdrawn
            if must_delete_pod(withdrawal.launch_id, withdrawal.reason, known, rows.get(withdrawal.subject))
        ]
        self._queue.acknowledge(deletions)
        self._plan_rechecks(withdrawn, deletions)
        self._settle(withdrawn, {deletion.launch_id for deletion in deletions})

    def _plan_rechecks(
        self, withdrawn: Sequence[tuple[Withdrawal, Withdrawn]], deletions: Sequence[Acknowledgement]
    ) -> None:
        due_s = time.monotonic() + RECHECK_AFTER_S
        for deletion in deletions:
            if deletion.cleanup is not None and deletion.cleanup.unless_started:
                self._rechecks[deletion.launch_id] = (deletion.subject, due_s)
        for withdrawal, known in withdrawn:
            # A launcher may be creating its pod now, and will delete it only while it is pending.
            if withdrawal.reason == "revoked" and known.state == "claimed":
                self._rechecks[withdrawal.launch_id] = (withdrawal.subject, due_s)

    def _request_due_rechecks(self) -> None:
        now_s = time.monotonic()
        for launch_id, (subject, due_s) in list(self._rechecks.items()):
            if due_s > now_s:
                break
            del self._rechecks[launch_id]
            self.request(launch_id, subject, "hanging")

    def _settle(self, withdrawn: Sequence[tuple[Withdrawal, Withdrawn]], deleted: set[str]) -> None:
        for withdrawal, known in withdrawn:
            self._pending.pop(withdrawal.launch_id, None)
            launch = self._launches.get(withdrawal.launch_id)
            if launch is None:
                continue
            launch.withdraw()
            never_created = known.state in ("", "offered", "waiting", "withdrawn") and not known.pod
            if never_created or launch.launch_id in deleted:
                self._launches.release(launch, self._executor.running)

    def _deletion(self, withdrawal: Withdrawal, known: Withdrawn) -> Acknowledgement:
        # A container that had started before the withdrawal hangs without beginning its task: that pod is deleted anyway.
        cleanup = self._queue.cleanup(
            "revoke", withdrawal.launch_id, known.namespace, known.pod, known.uid,
            unless_started=not known.started, subject=withdrawal.subject,
        )  # fmt: skip
        return Acknowledgement(
            withdrawal.launch_id, int(known.attempt or 0), withdrawal.subject, cleanup=cleanup, revoked=True
        )


def must_delete_pod(launch_id: str, reason: WithdrawalReason, known: Withdrawn, row: TaskRow | None) -> bool:
    """Pure: must the pod of a launch that was taken back be deleted?

    :param row: the task instance as it is now; None if none has this id any more.
    """
    if not known.pod or reason == "superseded":
        return False
    if reason == "hanging" and not (known.state == "withdrawn" and known.started):
        return False
    if row is not None and row.state == "running" and row.host in (None, (launch_id, int(known.attempt or 0))):
        return False  # its task began before it was taken back
    if reason in ("revoked", "hanging"):
        return True
    return known.state in ("created", "withdrawn") and not known.started
