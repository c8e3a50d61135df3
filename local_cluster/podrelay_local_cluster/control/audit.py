"""The last API requests, for tests and benchmarks that check what clients really sent."""

from __future__ import annotations

import itertools
import time
from collections import deque
from typing import NamedTuple

from podrelay_local_cluster.http.request_info import RequestInfo
from podrelay_local_cluster.objects.json_text import Json

CAPACITY = 200_000


class AuditEntry(NamedTuple):
    """One request. `status` is 0 when it ended without a response."""

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


class AuditLog:
    """The last `CAPACITY` requests, numbered from 1. Watches and logs are recorded at their start."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._entries: deque[AuditEntry] = deque(maxlen=capacity)
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
        entry = AuditEntry(
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
        """Entries numbered above `number`, oldest first. `last` is the number for the next call."""
        missing = max(0, number - self._number + len(self._entries))
        found = list(itertools.islice(self._entries, missing, missing + limit))
        last = found[-1].number if found else max(number, 0)
        return {"last": last, "total": self._number, "entries": [entry._asdict() for entry in found]}
