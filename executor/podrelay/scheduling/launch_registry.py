"""The executor's memory of its launches: what was requested under which id, until the end is known.

The truth is elsewhere (the database, Kubernetes). This memory is what allows a Redis that lost everything to be refilled
(invariant I4, docs/architecture.md). Every part of a heartbeat uses it.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Set
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from podrelay.protocol import identifiers
from podrelay.protocol.messages import LaunchRequest
from podrelay.scheduling.decisions import TaskRow

# What the log says about a launch that `renewed` replaces.
RENEWED = "launch is over, and its task is queued again under the same id: launching it under another id"


class LaunchState(Enum):
    """What this executor still does for a launch. A launch that is over leaves the registry."""

    # Its request is in memory, to be offered again should Redis lose it.
    REQUESTED = "requested"
    # Another scheduler requested it, or another launch of its task was found to run: the request is rebuilt from the
    # database if it is needed.
    ADOPTED = "adopted"
    # Launched by another executor, or an attempt whose reports no longer arrive: only its slot is held, until the database
    # says that the task is over.
    SLOT_ONLY = "slot only"
    # The task is over, the end of its pod is not known, and perhaps never will be.
    TASK_OVER = "task over"
    # Taken back: only the end of its pod matters. Until then it holds the slot of its key unless a newer launch does.
    WITHDRAWN = "withdrawn"


class IllegalTransition(RuntimeError):
    """A part of the executor asked for a step that a launch in this state cannot take: a defect in podrelay."""


@dataclass(slots=True)
class Launch:
    """One launch of this executor. Its state changes by the methods below and in no other way.

    `request` and `workload` are set together, and are None until they are needed for a launch that was not requested here.
    """

    launch_id: str
    # What Airflow calls the workload; opaque to podrelay.
    key: Any
    kind: str
    subject: str
    # Dag, task, run, map index and try of a task; None for other kinds.
    task: Any = None
    attempt: int = 0
    relaunches: int = 0
    request: LaunchRequest | None = field(default=None, repr=False)
    workload: Any = field(default=None, repr=False)
    state: LaunchState = LaunchState.ADOPTED
    # SLOT_ONLY: the launch id that the task's row holds ("" for none) while the task is still the one that was adopted.
    foreign_id: str = ""
    # Where Airflow assigned no id: the launch id that the row held before ("" for none). None where Airflow assigned one.
    former_row_id: str | None = None
    # The last lines of the log of this attempt's pod, where they were requested after its end.
    log_tail: tuple[str, ...] = field(default=(), repr=False)
    # When its task was first found to be over (monotonic).
    _over_since_s: float = 0.0
    # When the end of this attempt's pod was first processed without effect (monotonic).
    _end_seen_s: float = 0.0
    # Reasons in the task's event log, with the time of the last entry (monotonic). Most launches have none.
    _reported: dict[str, float] | None = field(default=None, repr=False)

    # --- transitions --------------------------------------------------------------------------------------------------
    def attach_request(self, request: LaunchRequest, workload: Any) -> None:
        """The request was rebuilt from the database.

        :raises IllegalTransition: the launch already has a request, or needs none.
        """
        if self.state is LaunchState.ADOPTED:
            self.state = LaunchState.REQUESTED
        elif self.state is not LaunchState.WITHDRAWN:
            raise self._illegal("attach a request")
        self.request, self.workload = request, workload

    def next_attempt(self, request: LaunchRequest, workload: Any, *, relaunched: bool) -> Launch:
        """The launch as it is once its next attempt has been offered. One that is withdrawn stays so: Redis refuses it.

        :raises IllegalTransition: there is no request that could be repeated.
        """
        if self.state is LaunchState.ADOPTED or self.state is LaunchState.SLOT_ONLY:
            raise self._illegal("begin another attempt")
        attempt = self.attempt + 1
        return replace(
            self, attempt=attempt, request=request.replaced(attempt=attempt, repeated=False), workload=workload,
            relaunches=self.relaunches + relaunched, log_tail=(), _end_seen_s=0.0,
            state=LaunchState.WITHDRAWN if self.is_withdrawn else LaunchState.REQUESTED,
        )  # fmt: skip

    def catch_up(self, attempt: int, relaunches: int) -> None:
        """Another process has offered a later attempt. The state stays, whatever it is."""
        self.attempt, self.relaunches, self.log_tail, self._end_seen_s = attempt, relaunches, (), 0.0
        if self.request is not None:
            self.request = self.request.replaced(attempt=attempt)

    def mark_task_over(self, now_s: float) -> float:
        """The database says that the task is over, while the end of its pod is unknown.

        :return: the seconds since this was first found.
        :raises IllegalTransition: from a state in which the end of the task is handled differently.
        """
        if self.state is LaunchState.REQUESTED:
            self.state, self._over_since_s = LaunchState.TASK_OVER, now_s
        elif self.state is not LaunchState.TASK_OVER:
            raise self._illegal("outlive its task")
        return now_s - self._over_since_s

    def mark_end_seen(self, now_s: float) -> float:
        """The pod of this attempt has ended, and the row does not show what became of the task.

        :return: when this was first found; now if it was not found before.
        """
        self._end_seen_s = self._end_seen_s or now_s
        return self._end_seen_s

    def withdraw(self) -> None:
        """A request to take it back was sent to Redis, or will be. Possible in every state, and more than once."""
        self.state = LaunchState.WITHDRAWN

    def _illegal(self, step: str) -> IllegalTransition:
        return IllegalTransition(f"launch {self.launch_id} is in state {self.state.value!r} and cannot {step}")

    # --- queries ------------------------------------------------------------------------------------------------------
    @property
    def is_withdrawn(self) -> bool:
        return self.state is LaunchState.WITHDRAWN

    @property
    def is_followed(self) -> bool:
        """Does this executor wait for reports about its pod, and act on them?"""
        return self.state is not LaunchState.WITHDRAWN and self.state is not LaunchState.SLOT_ONLY

    def belongs_to_another(self, owner: str, row: TaskRow | None) -> bool:
        """Has another scheduler adopted it, according to the row? That one acts on its end.

        :param owner: the job id of this scheduler. It is no number where Airflow tests a DAG without a scheduler.
        """
        if row is None or self.kind != "task" or self.is_withdrawn or not owner.isdigit():
            return False
        in_row = self.foreign_id if self.state is LaunchState.SLOT_ONLY else self.launch_id
        return row.queued_by not in (None, int(owner)) and (row.launch_id or "") == in_row

    def is_unknown_to(self, row: TaskRow | None) -> bool:
        """Does the row still hold the launch id from before this launch?"""
        return self.former_row_id is not None and row is not None and (row.launch_id or "") == self.former_row_id

    def as_known_to(self, row: TaskRow | None) -> TaskRow | None:
        """The row as it will be once the database knows the id of this launch."""
        return row._replace(launch_id=self.launch_id) if row is not None and self.is_unknown_to(row) else row

    def should_report(self, reason: str, every_s: float) -> bool:
        """May this reason be written to the task's event log? Each at most once in `every_s` seconds."""
        return self._reported is None or time.monotonic() - self._reported.get(reason, float("-inf")) >= every_s

    def mark_reported(self, reason: str) -> None:
        self._reported = self._reported if self._reported is not None else {}
        self._reported[reason] = time.monotonic()


class LaunchRegistry:
    """All launches by id and, if it is the newest of its key, by key."""

    def __init__(self) -> None:
        self._by_id: dict[str, Launch] = {}
        self._by_key: dict[Any, str] = {}
        # Ids that the current round of checks has not reached.
        self._round: list[str] = []

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Launch]:
        return iter(list(self._by_id.values()))

    def add(self, launch: Launch) -> Launch | None:
        """Remember a launch as the newest of its key. Returns the one that it supersedes."""
        before = self._by_key.get(launch.key)
        self._by_id[launch.launch_id] = launch
        self._by_key[launch.key] = launch.launch_id
        return self._by_id.get(before) if before and before != launch.launch_id else None

    @property
    def ids(self) -> Set[str]:
        """The ids of all launches, as a view."""
        return self._by_id.keys()

    def get(self, launch_id: str) -> Launch | None:
        return self._by_id.get(launch_id)

    def of_key(self, key: Any) -> Launch | None:
        return self._by_id.get(self._by_key.get(key, ""))

    def is_newest(self, launch: Launch) -> bool:
        return self._by_key.get(launch.key) == launch.launch_id

    def forget(self, launch: Launch) -> None:
        self._by_id.pop(launch.launch_id, None)
        if self.is_newest(launch):
            del self._by_key[launch.key]

    def release(self, launch: Launch, running: set[Any]) -> None:
        """Forget a launch that has no entry in Redis, pod or purpose. If it is the newest of its key, free the slot."""
        if self.is_newest(launch):
            running.discard(launch.key)
        self.forget(launch)

    def hold_slot_for(self, host: tuple[str, int], launch: Launch, row_launch_id: str | None) -> None:
        """The task of this launch runs in another pod: from now on its slot belongs to the launch of that pod.

        :param host: launch id and attempt of that pod. Reports of an earlier attempt of the same launch are ignored, so
            in that case only the slot is held, until the database says that the task is over.
        :param row_launch_id: the launch id in the task's row.
        """
        if host[0] != launch.launch_id:
            self.add(Launch(host[0], launch.key, launch.kind, launch.subject, task=launch.task, attempt=host[1]))
        else:
            self.add(slot_only(launch.key, launch.subject, launch.task, row_launch_id))

    def next_to_check(self, most: int) -> list[Launch]:
        """The next launches in a round over all of them: each check is bounded, and every launch is reached."""
        if not self._round:
            self._round = list(self._by_id)
        batch, self._round = self._round[:most], self._round[most:]
        return [self._by_id[launch_id] for launch_id in batch if launch_id in self._by_id]

    def restart_round(self) -> None:
        """Begin the round again, with every launch due at once."""
        self._round = list(self._by_id)

    @property
    def round_is_over(self) -> bool:
        return not self._round


def renewed(launch: Launch, row_launch_id: str) -> Launch:
    """The launch under another id, for a task that was queued again under an id whose launch is over or was taken back. The
    next comparison offers it, and has the scheduler write the new id to the task's row.

    :param row_launch_id: the launch id in the task's row.
    """
    return Launch(identifiers.new_launch_id(), launch.key, launch.kind, launch.subject, task=launch.task,
                  former_row_id=row_launch_id)  # fmt: skip


def slot_only(key: Any, subject: str, task: Any, row_launch_id: str | None) -> Launch:
    """A running task in a pod that is not followed. The launch id is a placeholder that nothing else has."""
    return Launch(
        str(uuid.uuid4()), key, "task", subject, task=task, state=LaunchState.SLOT_ONLY, foreign_id=row_launch_id or "",
    )  # fmt: skip
