"""All objects of the cluster, one version counter for all of them, and the event log of each resource.

The only place where an object comes, changes or goes. Resource versions are one increasing sequence over the whole
cluster, as those of a real cluster with one etcd are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from podrelay_local_cluster.storage.event_log import ADDED, DELETED, MODIFIED, Event, EventLog
from podrelay_local_cluster.storage.record import Record

Json = dict[str, Any]

RESOURCES = ("namespaces", "nodes", "pods", "secrets", "configmaps", "events", "resourcequotas", "serviceaccounts")


class ChangeListener(Protocol):
    """Told of each change after it was made (the journal)."""

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
        """Those of one namespace, or of all when it is empty, in the order a real list has: by namespace, then name."""
        by_namespace = self._objects[resource]
        if namespace:
            found = by_namespace.get(namespace, {})
            return [found[name] for name in sorted(found)]
        return [by_namespace[space][name] for space in sorted(by_namespace) for name in sorted(by_namespace[space])]

    def unordered(self, resource: str, namespace: str = "") -> Iterator[Record]:
        """Like `records` without the cost of sorting; the caller changes nothing while it iterates."""
        if namespace:
            yield from self._objects[resource].get(namespace, {}).values()
            return
        for found in self._objects[resource].values():
            yield from found.values()

    def count(self, resource: str) -> int:
        return sum(len(found) for found in self._objects[resource].values())

    def put(self, resource: str, obj: Json) -> Record:
        """Create or replace; `obj` belongs to the store afterwards. The new version is written into its metadata."""
        metadata = obj["metadata"]
        previous = self.get(resource, metadata.get("namespace", ""), metadata["name"])
        record = self._versioned(resource, obj, previous)
        self._keep(record)
        self.logs[resource].append(Event(MODIFIED if previous else ADDED, record, previous))
        if self.listener is not None:
            self.listener.put(record)
        return record

    def remove(self, record: Record) -> Record:
        """Remove; the returned last state carries the version of the removal, as the DELETED event does."""
        last = self._versioned(record.resource, record.obj, record)
        del self._objects[record.resource][record.namespace][record.name]
        self.logs[record.resource].append(Event(DELETED, last, record))
        if self.listener is not None:
            self.listener.removed(last)
        return last

    def compact(self) -> None:
        """Forget the event window of every resource: older versions are 410 from now on."""
        for log in self.logs.values():
            log.forget(self.version)

    def wake_watchers(self) -> None:
        for log in self.logs.values():
            log.wake()

    def _versioned(self, resource: str, obj: Json, previous: Record | None) -> Record:
        self.version += 1
        metadata = {**obj["metadata"], "resourceVersion": str(self.version)}
        return Record(resource, {**obj, "metadata": metadata}, self.version, previous)

    def _keep(self, record: Record) -> None:
        self._objects[record.resource].setdefault(record.namespace, {})[record.name] = record
