"""The executor's memory of its launches: what was asked for, under which id, until its end is known.

The truth is elsewhere (the database, Kubernetes); this is what lets a Redis that lost everything be filled again.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from podrelay.protocol.messages import LaunchRequest
from podrelay.scheduling.decisions import TaskRow


@dataclass(slots=True)
class Launch:
    """One launch of this executor. `request` and `workload` are None for one that was adopted and not yet needed."""

    launch_id: str
    # Airflow's name for it, whatever that is; nobody looks inside.
    key: Any
    kind: str
    subject: str
    # A task's dag, task, run, map index and try; None for other kinds.
    task: Any = None
    attempt: int = 0
    relaunches: int = 0
    request: LaunchRequest | None = field(default=None, repr=False)
    workload: Any = field(default=None, repr=False)
    # Taken back: only its pod's end is still of interest. Until then it holds the slot of its key if no newer one does.
    withdrawn: bool = False
    # What the database calls the launch of a running task that another executor started; we only hold its slot.
    foreign_id: str | None = None
    # Where Airflow assigned no id: what the database calls the task's launch ("" for nothing) until it knows of this one.
    instead_of: str | None = None
    # Since when (monotonic) its task is known to be over while its pod's end is not; 0 where that is not so.
    over_since_s: float = 0.0
    # Reasons that were told, and when (monotonic); made when the first one comes, for most launches have none.
    told: dict[str, float] | None = field(default=None, repr=False)

    def is_untold(self, row: TaskRow | None) -> bool:
        """Does the database not know yet which id we gave to this launch?"""
        return self.instead_of is not None and row is not None and (row.launch_id or "") == self.instead_of

    def told_of(self, row: TaskRow | None) -> TaskRow | None:
        """The row as it is when the database knows of this launch."""
        return replace(row, launch_id=self.launch_id) if row is not None and self.is_untold(row) else row

    def tell(self, reason: str, every_s: float) -> bool:
        """May this reason be told now? At most once in `every_s` seconds each."""
        now = time.monotonic()
        self.told = {} if self.told is None else self.told
        if now - self.told.get(reason, float("-inf")) < every_s:
            return False
        self.told[reason] = now
        return True


class LaunchRegistry:
    """LaunchRegistry by id and, where it is the newest of its key, by key."""

    def __init__(self) -> None:
        self._by_id: dict[str, Launch] = {}
        self._by_key: dict[Any, str] = {}
        self._round: list[str] = []

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Launch]:
        return iter(list(self._by_id.values()))

    def add(self, launch: Launch) -> Launch | None:
        """Remember a launch as the newest of its key. Returns the one it supersedes."""
        before = self._by_key.get(launch.key)
        self._by_id[launch.launch_id] = launch
        self._by_key[launch.key] = launch.launch_id
        return self._by_id.get(before) if before and before != launch.launch_id else None

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

    def follow(self, launch: Launch, host: tuple[str, int], named: str | None) -> None:
        """The task of this launch runs in another pod: from now on its slot is held for the launch of that one.

        :param host: launch id and attempt of that pod. Results of an earlier attempt of the same launch are not told any
            more, so for it only the slot is held, until the database says that the task is over.
        :param named: what the database calls the task's launch.
        """
        if host[0] != launch.launch_id:
            held = Launch(host[0], launch.key, launch.kind, launch.subject, task=launch.task, attempt=host[1])
        else:
            held = Launch(
                str(uuid.uuid4()), launch.key, launch.kind, launch.subject, task=launch.task, foreign_id=named or ""
            )
        self.add(held)

    def drop(self, launch: Launch, running: set[Any]) -> None:
        """Neither entry, nor pod, nor wish: forgotten, and its slot among `running` is free if it is the newest."""
        if self.is_newest(launch):
            running.discard(launch.key)
        self.forget(launch)

    def next_to_check(self, most: int) -> list[Launch]:
        """The next launches in a round over all of them, so that each check is bounded and each launch gets its turn."""
        if not self._round:
            self._round = list(self._by_id)
        turn, self._round = self._round[:most], self._round[most:]
        return [self._by_id[launch_id] for launch_id in turn if launch_id in self._by_id]

    def check_all_again(self) -> None:
        """Begin the round anew, all at once being due: Redis lost its data."""
        self._round = list(self._by_id)

    @property
    def round_is_over(self) -> bool:
        return not self._round
