"""A bounded record of every API request, for tests and benchmarks that ask what was really sent."""

from __future__ import annotations

import itertools
import time
from collections import deque
from typing import Any, NamedTuple

from podrelay_local_cluster.api.request_info import RequestInfo

Json = dict[str, Any]

CAPACITY = 200_000


class Entry(NamedTuple):
    """One request; `status` is 0 when it was cut off without an answer."""

    number: int
    time: float
    verb: str
    path: str
    resource: str
    subresource: str
    namespace: str
    name: str
    status: int
    user_agent: str
    uid: str
    labels: dict[str, str] | None


class Audit:
    """The last `CAPACITY` requests, numbered from 1; watches and logs count when they begin."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._entries: deque[Entry] = deque(maxlen=capacity)
        self._number = 0

    def add(
        self,
        info: RequestInfo,
        name: str,
        status: int,
        user_agent: str,
        uid: str = "",
        labels: dict[str, str] | None = None,
    ) -> None:
        self._number += 1
        entry = Entry(
            self._number,
            time.time(),
            info.verb,
            info.path,
            info.resource,
            info.subresource,
            info.namespace,
            name,
            status,
            user_agent,
            uid,
            labels,
        )
        self._entries.append(entry)

    @property
    def total(self) -> int:
        return self._number

    def since(self, number: int, limit: int) -> Json:
        """Entries numbered above `number`, oldest first; `last` is where to go on."""
        missing = max(0, number - self._number + len(self._entries))
        found = list(itertools.islice(self._entries, missing, missing + limit))
        last = found[-1].number if found else max(number, 0)
        return {"last": last, "total": self._number, "entries": [entry._asdict() for entry in found]}
