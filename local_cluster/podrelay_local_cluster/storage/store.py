"""All objects of the cluster, one version counter for all of them, and the event log of each resource.

The only place where objects are created, changed and removed. Resource versions are one increasing sequence over the whole
cluster, as in a real cluster with one etcd.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from podrelay_local_cluster.objects.json_text import Json
from podrelay_local_cluster.objects.record import Record
from podrelay_local_cluster.objects.resources import KIND_OF_RESOURCE
from podrelay_local_cluster.storage.event_log import ADDED, DELETED, MODIFIED, EventLog, ObjectEvent

RESOURCES = tuple(KIND_OF_RESOURCE)


class ChangeListener(Protocol):
    """Notified of each change after it is made: the journal."""

    def put(self, record: Record) -> None: ...

    def removed(self, record: Record) -> None: ...


class ObjectStore:
    """Objects by resource, namespace and name."""

    def __init__(self, window: int, version: int = 1, records: Iterable[tuple[str, Json]] = ()) -> None:
        self.version = version
        self.logs = {resource: EventLog(window, version) for resource in RESOURCES}
        self.listener: ChangeListener | None = None
        self._objects: dict[str, dict[str, dict[str, Record]]] = {resource: {} for resource in RESOURCES}
        for resource, obj in records:
            self._keep(Record(resource, obj, int(obj["metadata"]["resourceVersion"])))

    def get(self, resource: str, namespace: str, name: str) -> Record | None:
        return self._objects[resource].get(namespace, {}).get(name)

    def records(self, resource: str, namespace: str = "") -> list[Record]:
        """Records of one namespace, or of all namespaces for "", in the order of a real list: by namespace, then name."""
        by_namespace = self._objects[resource]
        if namespace:
            found = by_namespace.get(namespace, {})
            return [found[name] for name in sorted(found)]
        return [by_namespace[space][name] for space in sorted(by_namespace) for name in sorted(by_namespace[space])]

    def iterate(self, resource: str, namespace: str = "") -> Iterator[Record]:
        """The same records unsorted. The store must not change during the iteration."""
        if namespace:
            yield from self._objects[resource].get(namespace, {}).values()
            return
        for found in self._objects[resource].values():
            yield from found.values()

    def count(self, resource: str) -> int:
        return sum(len(found) for found in self._objects[resource].values())

    def put(self, resource: str, obj: Json) -> Record:
        """Create or replace an object; its metadata gets the new version. The caller must not change `obj` afterwards."""
        metadata = obj["metadata"]
        previous = self.get(resource, metadata.get("namespace", ""), metadata["name"])
        record = self._versioned(resource, obj, previous)
        self._keep(record)
        self.logs[resource].append(ObjectEvent(MODIFIED if previous else ADDED, record, previous))
        if self.listener is not None:
            self.listener.put(record)
        return record

    def remove(self, record: Record) -> Record:
        """Remove an object. Returns its last state with the version of the removal, as in the DELETED event."""
        last = self._versioned(record.resource, record.obj, record)
        del self._objects[record.resource][record.namespace][record.name]
        self.logs[record.resource].append(ObjectEvent(DELETED, last, record))
        if self.listener is not None:
            self.listener.removed(last)
        return last

    def compact(self) -> None:
        """Discard the event window of every resource: older versions are 410 from now on."""
        for log in self.logs.values():
            log.compact(self.version)

    def wake_watchers(self) -> None:
        for log in self.logs.values():
            log.wake()

    def _versioned(self, resource: str, obj: Json, previous: Record | None) -> Record:
        self.version += 1
        metadata = {**obj["metadata"], "resourceVersion": str(self.version)}
        return Record(resource, {**obj, "metadata": metadata}, self.version, previous)

    def _keep(self, record: Record) -> None:
        self._objects[record.resource].setdefault(record.namespace, {})[record.name] = record
