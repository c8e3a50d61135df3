"""LaunchRegistry that are to be taken back: noted here, and told to Redis until Redis knows. Owner of what is still to be told.

Called by the executor (revoked, outrun), by `reconciliation` and by `sweep` (the database no longer wants it). A scheduler
that dies before it told leaves nothing behind: the newer launch of a task instance withdraws the older one when it is
offered, and a waiting pod without a newer launch is swept by another scheduler.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import islice
from typing import Literal

from podrelay.scheduling import heartbeat_budget
from podrelay.scheduling.airflow_db import rows_by_subject
from podrelay.scheduling.context import Context
from podrelay.scheduling.decisions import TaskRow
from podrelay.store.launch_queue import Acknowledgement, Withdrawn

# revoked: Airflow asked for it. unwanted: the database has moved on. outrun: a newer launch of its key came after it had
# run; its pod is about to end by itself and may still be writing its log. hangs: it was told before, and its pod may have
# started and not begun its task.
Why = Literal["revoked", "unwanted", "outrun", "hangs"]

# A pod that was waiting when it was revoked is deleted only while it waits. Whether it started all the same, and then hangs
# without beginning its task, is looked at after this long: time enough to begin, or to be refused and end.
LOOK_AGAIN_S = 15.0


class Revocations:
    """Notes cost nothing; `tell` sends them."""

    def __init__(self, context: Context) -> None:
        self._executor = context.executor
        self._launches = context.launches
        self._queue = context.queue
        # Launch id -> subject, why.
        self._noted: dict[str, tuple[str, Why]] = {}
        # Launch id -> subject, when it is due (monotonic): revoked pods to be looked at once more.
        self._doubted: dict[str, tuple[str, float]] = {}

    def note(self, launch_id: str, subject: str, why: Why) -> None:
        self._noted.setdefault(launch_id, (subject, why))

    def subjects(self) -> set[str]:
        """Task instances of which an older launch is still to be taken back: no newer one may be offered before."""
        return {subject for subject, _ in self._noted.values()}

    def tell(self) -> None:
        """Take back what was noted, group by group while its share of the heartbeat lasts, and delete those of its pods
        whose task has not begun.

        :raises RedisUnavailable, SQLAlchemyError: all of the group stays noted, and telling it again does no harm.
        """
        self._note_doubted()
        share = heartbeat_budget.TimeSlice(heartbeat_budget.WITHDRAWALS_S)
        while self._noted:
            self._tell_some()
            if share.over or not self._executor.beat.has_room(2):
                return

    def _tell_some(self) -> None:
        some = islice(self._noted.items(), heartbeat_budget.WITHDRAWN_AT_ONCE)
        items = [(launch_id, *noted) for launch_id, noted in some]
        answers = self._queue.withdraw([(launch_id, subject) for launch_id, subject, _ in items])
        told = list(zip(items, answers, strict=True))
        rows = rows_by_subject([subject for (_, subject, _), known in told if known.pod])
        revocations = [
            self._revocation(launch_id, subject, known)
            for (launch_id, subject, why), known in told
            if must_go(launch_id, why, known, rows.get(subject))
        ]
        self._queue.acknowledge(revocations)
        due_s = time.monotonic() + LOOK_AGAIN_S
        for revocation in revocations:
            if revocation.cleanup is not None and revocation.cleanup.unless_started:
                self._doubted[revocation.launch_id] = (revocation.subject, due_s)
        for (launch_id, subject, why), known in told:
            # A launcher may be making its pod now, and takes it back only while it waits.
            if why == "revoked" and known.state == "claimed":
                self._doubted[launch_id] = (subject, due_s)
        self._settle(told, {revocation.launch_id for revocation in revocations})

    def _note_doubted(self) -> None:
        now_s = time.monotonic()
        for launch_id, (subject, due_s) in list(self._doubted.items()):
            if due_s > now_s:
                break
            del self._doubted[launch_id]
            self.note(launch_id, subject, "hangs")

    def _settle(self, told: Sequence[tuple[tuple[str, str, Why], Withdrawn]], revoked: set[str]) -> None:
        for (launch_id, _, _), known in told:
            self._noted.pop(launch_id, None)
            launch = self._launches.get(launch_id)
            if launch is None:
                continue
            launch.withdrawn = True
            unmade = known.state in ("", "offered", "waiting", "withdrawn") and not known.pod
            if unmade or launch_id in revoked:
                self._launches.drop(launch, self._executor.running)

    def _revocation(self, launch_id: str, subject: str, known: Withdrawn) -> Acknowledgement:
        # A container that had started before it was withdrawn hangs without beginning its task: that one goes for certain.
        cleanup = self._queue.cleanup(
            "revoke", launch_id, known.namespace, known.pod, known.uid,
            unless_started=not known.started, subject=subject,
        )  # fmt: skip
        return Acknowledgement(launch_id, int(known.attempt or 0), subject, cleanup=cleanup, revoked=True)


def must_go(launch_id: str, why: Why, known: Withdrawn, row: TaskRow | None) -> bool:
    """Pure: is the pod of a launch that was taken back to be deleted?

    :param row: the task instance as it is now; None where there is none with this id any more.
    """
    if not known.pod or why == "outrun" or (why == "hangs" and not (known.state == "withdrawn" and known.started)):
        return False
    if row is not None and row.state == "running" and row.host in (None, (launch_id, int(known.attempt or 0))):
        return False  # it began before it was taken back
    if why in ("revoked", "hangs"):
        return True
    return known.state in ("created", "withdrawn") and not known.started
