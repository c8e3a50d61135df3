"""All objects of the cluster, one version counter for all of them, and the event log of each resource.

The only place where objects are created, changed and removed. Resource versions are one increasing sequence over the whole
cluster, as in a real cluster with one etcd.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from podrelay_local_cluster.objects.errors import storage_error
from podrelay_local_cluster.objects.json_text import Json, to_json
from podrelay_local_cluster.objects.managed_fields import Managers
from podrelay_local_cluster.objects.record import Record
from podrelay_local_cluster.objects.resources import KIND_OF_RESOURCE
from podrelay_local_cluster.storage.event_log import ADDED, DELETED, MODIFIED, EventLog, ObjectEvent

RESOURCES = tuple(KIND_OF_RESOURCE)
_ETCD_LIMIT = 1536 * 1024  # `--max-request-bytes` of etcd
_MESSAGE_LIMIT = 2 * 1024 * 1024  # what the client of etcd in an API server sends


def check_size(size: int) -> None:
    """Raises `StatusError` 500 as an API server does for an object that its storage refuses."""
    if size > _MESSAGE_LIMIT:
        text = f"trying to send message larger than max ({size} vs. {_MESSAGE_LIMIT})"
        raise storage_error(f"rpc error: code = ResourceExhausted desc = {text}")
    if size > _ETCD_LIMIT:
        raise storage_error("etcdserver: request is too large")


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
            managers = tuple([to_json(entry) for entry in obj["metadata"].pop("managedFields", ())])
            self._keep(Record(resource, obj, int(obj["metadata"]["resourceVersion"]), managers=managers))

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

    def put_limited(self, resource: str, obj: Json, managers: Managers | None = None) -> Record:
        """`put` for an object from a client. Raises `StatusError` 500 for one that exceeds the limits of etcd."""
        previous = self._previous(resource, obj)
        record = self._next_version(resource, obj, previous, managers)
        check_size(len(record.json()))
        return self._commit(record, previous)

    def put(self, resource: str, obj: Json, managers: Managers | None = None) -> Record:
        """Create or replace an object; its metadata gets the new version. The caller must not change `obj` afterwards.

        :param managers: its managed fields; None: they stay as they are.
        """
        previous = self._previous(resource, obj)
        return self._commit(self._next_version(resource, obj, previous, managers), previous)

    def _commit(self, record: Record, previous: Record | None) -> Record:
        self.version = record.version
        self._keep(record)
        self.logs[record.resource].append(ObjectEvent(MODIFIED if previous else ADDED, record, previous))
        if self.listener is not None:
            self.listener.put(record)
        return record

    def remove(self, record: Record) -> Record:
        """Remove an object. Returns its last state with the version of the removal, as in the DELETED event."""
        last = self._next_version(record.resource, record.obj, record)
        self.version = last.version
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

    def _previous(self, resource: str, obj: Json) -> Record | None:
        metadata = obj["metadata"]
        return self.get(resource, metadata.get("namespace", ""), metadata["name"])

    def _next_version(
        self, resource: str, obj: Json, previous: Record | None, managers: Managers | None = None
    ) -> Record:
        version = self.version + 1
        metadata = {**obj["metadata"], "resourceVersion": str(version)}
        return Record(resource, {**obj, "metadata": metadata}, version, previous, managers)

    def _keep(self, record: Record) -> None:
        self._objects[record.resource].setdefault(record.namespace, {})[record.name] = record
