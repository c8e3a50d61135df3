"""The objects of a local cluster on disk, one line per change, so that the next server starts with the same objects.

The process does not buffer lines: every change that a client saw survives SIGKILL. The file is rewritten as a snapshot at
each start and whenever it holds many more lines than there are objects.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

from podrelay_local_cluster.objects.json_text import Json, to_json
from podrelay_local_cluster.objects.record import Record
from podrelay_local_cluster.storage.store import RESOURCES, ObjectStore

_MIN_LINES_TO_REWRITE = 20_000
_GROWTH_TO_REWRITE = 10

log = logging.getLogger(__name__)


class Journal:
    """Follows a store and writes each change."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines = 0
        self._store: ObjectStore | None = None

    def load(self) -> tuple[int, list[tuple[str, Json]]]:
        """The last version, and all objects as pairs of resource and object; version 0 when there is no journal yet."""
        version = 0
        objects: dict[tuple[str, str, str], Json] = {}
        for entry in self._entries():
            version = entry["version"]
            key = (entry["resource"], entry["namespace"], entry["name"])
            if entry["obj"] is None:
                objects.pop(key, None)
            elif entry["name"]:
                objects[key] = entry["obj"]
        return version, [(key[0], obj) for key, obj in objects.items()]

    def follow(self, store: ObjectStore) -> None:
        """Write a snapshot of the store, then every change."""
        self._store = store
        store.listener = self
        self._rewrite()

    def put(self, record: Record) -> None:
        self._append(_line(record, record.json()))

    def removed(self, record: Record) -> None:
        self._append(_line(record, b"null"))

    def close(self) -> None:
        self._file.close()

    def _entries(self) -> Iterator[Json]:
        """Stops at a line cut short by a crash: no client saw that change."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    entry = json.loads(line)
                except ValueError:
                    log.warning("Journal %s: line %d is incomplete; ignoring it and the rest", self._path, number)
                    return
                yield entry

    def _append(self, line: bytes) -> None:
        self._file.write(line)
        self._lines += 1
        if self._lines > self._rewrite_at:
            self._file.close()
            self._rewrite()

    def _rewrite(self) -> None:
        if self._store is None:
            return
        temporary = self._path.with_suffix(".new")
        with temporary.open("wb") as file:
            file.writelines(_snapshot(self._store))
        temporary.replace(self._path)
        self._file = self._path.open("ab", buffering=0)
        self._lines = sum(self._store.count(resource) for resource in RESOURCES)
        self._rewrite_at = max(_MIN_LINES_TO_REWRITE, self._lines * _GROWTH_TO_REWRITE)


def _snapshot(store: ObjectStore) -> Iterable[bytes]:
    for resource in RESOURCES:
        for record in store.iterate(resource):
            yield _line(record, record.json())
    last = {"version": store.version, "resource": "", "namespace": "", "name": "", "obj": {}}
    yield to_json(last) + b"\n"


def _line(record: Record, obj: bytes) -> bytes:
    head = {
        "version": record.version,
        "resource": record.resource,
        "namespace": record.namespace,
        "name": record.name,
    }
    return to_json(head)[:-1] + b',"obj":' + obj + b"}\n"
