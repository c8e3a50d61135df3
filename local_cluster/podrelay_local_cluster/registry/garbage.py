"""Removes objects whose owners are all gone, as the garbage collector of a real cluster does: Secrets and ConfigMaps only."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from podrelay_local_cluster.objects.json_text import Json
from podrelay_local_cluster.objects.record import Record
from podrelay_local_cluster.objects.resources import CLUSTER_WIDE, KIND_OF_RESOURCE
from podrelay_local_cluster.storage.store import ObjectStore

_COLLECTED = frozenset({"secrets", "configmaps"})
_RESOURCE_OF_KIND = {kind: resource for resource, kind in KIND_OF_RESOURCE.items()}
_DELAY_S = 0.01
"""A real one acts some milliseconds after the change that it reacts to, which has been answered by then."""


class GarbageCollector:
    """Remembers who owns what. Construct it inside a running event loop."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._owned: dict[str, set[tuple[str, str, str]]] = {}
        for resource in _COLLECTED:
            for record in store.records(resource):
                self.changed(record)

    def changed(self, record: Record) -> None:
        """An object was created or changed: its owners may be wrong."""
        owners = [str(owner.get("uid")) for owner in _owners(record)]
        if record.resource not in _COLLECTED or not owners:
            return
        key = (record.resource, record.namespace, record.name)
        for uid in owners:
            self._owned.setdefault(uid, set()).add(key)
        self._schedule(key)

    def removed(self, owner: Record) -> None:
        """An object that may own others was removed."""
        for key in self._owned.pop(owner.uid, ()):
            self._schedule(key)

    def _schedule(self, key: tuple[str, str, str]) -> None:
        asyncio.get_running_loop().call_later(_DELAY_S, self._collect, key)

    def _collect(self, key: tuple[str, str, str]) -> None:
        record = self._store.get(*key)
        if record is None:
            return
        owners = list(_owners(record))
        if owners and not any(self._may_exist(owner, record.namespace) for owner in owners):
            self._store.remove(record)

    def _may_exist(self, owner: Json, namespace: str) -> bool:
        """True also for an owner of a kind that this server does not keep."""
        resource = _RESOURCE_OF_KIND.get(str(owner.get("kind")))
        if resource is None or owner.get("apiVersion") != "v1":
            return True
        found = self._store.get(resource, "" if resource in CLUSTER_WIDE else namespace, str(owner.get("name")))
        return found is not None and found.uid == owner.get("uid")


def _owners(record: Record) -> Iterator[Json]:
    yield from record.obj["metadata"].get("ownerReferences") or []
