"""Launches that are to be taken back: noted here, and told to Redis until Redis knows. Owner of what is still to be told.

Called by the executor (revoked, superseded) and by `reconciliation` (the database no longer wants it).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from podrelay.launch_queue import Acknowledgement, LaunchQueue, Withdrawn
from podrelay.launches import Launches
from podrelay.task_rows import coordinates, rows_by_key

if TYPE_CHECKING:
    from airflow.models.taskinstance import TaskInstance

    from podrelay.executor import RedisKubernetesExecutor

# Taken back in one round trip: bounds the time of a heartbeat.
AT_ONCE = 500


class Withdrawals:
    """:raises RelayUnavailable: from the methods that tell Redis; what was noted stays noted."""

    def __init__(self, executor: RedisKubernetesExecutor, launches: Launches, queue: LaunchQueue) -> None:
        self._executor = executor
        self._launches = launches
        self._queue = queue
        self._noted: dict[str, str] = {}

    def note(self, launch_id: str, subject: str) -> None:
        self._noted[launch_id] = subject

    def tell(self) -> None:
        """Take back what is no longer wanted; delete the pods among it that have not started."""
        if not self._noted:
            return
        items = list(self._noted.items())[:AT_ONCE]
        cleanups = []
        for (launch_id, subject), known in zip(items, self._queue.withdraw(items), strict=True):
            launch = self._launches.get(launch_id)
            # A launch that a newer one of its key supersedes has run: that is how its task came to be queued again. Its
            # pod is about to end by itself, and may still be writing its log.
            outrun = launch is not None and not self._launches.is_newest(launch)
            revoked = known.pod and known.state in ("created", "withdrawn") and not known.started and not outrun
            if revoked:
                cleanups.append(self._revocation(launch_id, subject, known))
            if launch is not None:
                launch.withdrawn = True
                if revoked or (known.state in ("", "offered", "waiting", "withdrawn") and not known.pod):
                    self._launches.drop(launch, self._executor.running)
        self._queue.acknowledge(cleanups)
        for launch_id, _ in items:
            self._noted.pop(launch_id, None)

    def revoke_now(self, launch_id: str, ti: TaskInstance) -> None:
        """Airflow asked for it: the pod goes unless the task runs by now."""
        subject = self._noted[launch_id]
        known = self._queue.withdraw([(launch_id, subject)])[0]
        if known.pod and not (known.started and self._runs_by_now(ti)):
            self._queue.acknowledge([self._revocation(launch_id, subject, known)])
        del self._noted[launch_id]

    def _revocation(self, launch_id: str, subject: str, known: Withdrawn) -> Acknowledgement:
        cleanup = self._queue.cleanup("revoke", launch_id, known.namespace, known.pod, known.uid)
        return Acknowledgement(launch_id, int(known.attempt or 0), subject, cleanup=cleanup)

    @staticmethod
    def _runs_by_now(ti: TaskInstance) -> bool:
        row = rows_by_key([ti.key]).get(coordinates(ti.key))
        return row is not None and row.state == "running" and row.subject == str(ti.id)
