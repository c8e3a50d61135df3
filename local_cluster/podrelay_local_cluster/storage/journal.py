"""A local cluster's memory on disk: every change as one line, so that a killed server's successor knows the same objects.

Lines are written without buffering in the process, so whatever a client was told survives SIGKILL. The file is rewritten as a
snapshot at each start, and whenever it has grown far beyond the objects it describes.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from podrelay_local_cluster.storage.record import Record, to_json
from podrelay_local_cluster.storage.store import RESOURCES, ObjectStore

Json = dict[str, Any]

_SMALLEST_REWRITE = 20_000
_GROWTH = 10

log = logging.getLogger(__name__)


class Journal:
    """Listens to a store and writes down what changes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines = 0
        self._store: ObjectStore | None = None

    def load(self) -> tuple[int, list[tuple[str, Json]]]:
        """The last version and the objects as they were; version 0 for a journal that does not exist yet.

        A line cut short by a crash ends the reading: nobody was told of that change.
        """
        version = 0
        objects: dict[tuple[str, str, str], Json] = {}
        if self._path.exists():
            with self._path.open("rb") as file:
                for number, line in enumerate(file, start=1):
                    try:
                        entry = json.loads(line)
                    except ValueError:
                        log.warning("journal %s ends in a broken line %d", self._path, number)
                        break
                    version = entry["version"]
                    key = (entry["resource"], entry["namespace"], entry["name"])
                    if entry["obj"] is None:
                        objects.pop(key, None)
                    elif entry["name"]:
                        objects[key] = entry["obj"]
        return version, [(key[0], obj) for key, obj in objects.items()]

    def follow(self, store: ObjectStore) -> None:
        """Write the store as it is, then every change."""
        self._store = store
        store.listener = self
        self._rewrite()

    def put(self, record: Record) -> None:
        self._append(_line(record, record.json()))

    def removed(self, record: Record) -> None:
        self._append(_line(record, b"null"))

    def close(self) -> None:
        self._file.close()

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
        self._rewrite_at = max(_SMALLEST_REWRITE, self._lines * _GROWTH)


def _snapshot(store: ObjectStore) -> Iterable[bytes]:
    for resource in RESOURCES:
        for record in store.unordered(resource):
            yield _line(record, record.json())
    place = {"version": store.version, "resource": "", "namespace": "", "name": "", "obj": {}}
    yield to_json(place) + b"\n"


def _line(record: Record, obj: bytes) -> bytes:
    place = {
        "version": record.version,
        "resource": record.resource,
        "namespace": record.namespace,
        "name": record.name,
    }
    return to_json(place)[:-1] + b',"obj":' + obj + b"}\n"
