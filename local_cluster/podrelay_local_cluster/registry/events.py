"""Kubernetes events about pods: what went wrong for one, as its scheduler and its kubelet report it.

`kubectl get events` and `kubectl describe pod` print them. Only trouble is recorded: a healthy pod has none.
"""

from __future__ import annotations

import uuid
from collections import OrderedDict
from datetime import timedelta

from podrelay_local_cluster.objects import clock, metadata
from podrelay_local_cluster.objects.json_text import Json
from podrelay_local_cluster.objects.record import Record
from podrelay_local_cluster.storage.store import ObjectStore

SCHEDULER, KUBELET = "default-scheduler", "kubelet"
_LIFE = timedelta(hours=1)  # `--event-ttl` of an API server
_MAX_EVENTS = 1000
_MAX_MESSAGE = 1024
_NORMAL = frozenset({"BackOff"})


class EventRecorder:
    """The only writer of events. Drops events that are older than an hour, and the oldest ones above a limit."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        kept = sorted(store.records("events"), key=lambda record: str(record.obj["lastTimestamp"]))
        self._kept = OrderedDict((_identity(record.obj), (record.namespace, record.name)) for record in kept)

    def record(self, pod: Record, source: str, reason: str, message: str) -> None:
        """Write an event, or count the same event of the pod again. No effect in a namespace that is being removed."""
        space = self._store.get("namespaces", "", pod.namespace)
        if space is None or space.is_being_deleted:
            return
        event = _event(pod, source, reason, message[:_MAX_MESSAGE])
        identity = _identity(event)
        before = self._store.get("events", *self._kept.pop(identity, ("", "")))
        if before is not None:
            times = {"count": before.obj["count"] + 1, "lastTimestamp": event["lastTimestamp"]}
            event = {**before.obj, **times}
        written = self._store.put("events", event)
        self._kept[identity] = (written.namespace, written.name)
        self._drop_old()

    def _drop_old(self) -> None:
        oldest_kept = clock.text(clock.now() - _LIFE)
        while self._kept:
            identity, place = next(iter(self._kept.items()))
            found = self._store.get("events", *place)
            expired = found is not None and found.obj["lastTimestamp"] < oldest_kept
            if found is not None and not expired and len(self._kept) <= _MAX_EVENTS:
                return
            del self._kept[identity]
            if found is not None:
                self._store.remove(found)


def _identity(event: Json) -> tuple[str, str, str]:
    return event["involvedObject"]["uid"], event["reason"], event["message"]


def _event(pod: Record, source: str, reason: str, message: str) -> Json:
    moment = clock.now_text()
    meta = metadata.for_new_object({"metadata": {"name": f"{pod.name}.{uuid.uuid4().hex[:16]}"}}, pod.namespace)
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": meta,
        "involvedObject": {
            "apiVersion": "v1",
            "kind": "Pod",
            "namespace": pod.namespace,
            "name": pod.name,
            "uid": pod.uid,
            "resourceVersion": str(pod.version),
        },
        "type": "Normal" if reason in _NORMAL else "Warning",
        "reason": reason,
        "message": message,
        "source": {"component": source},
        "reportingComponent": source,
        "reportingInstance": "",
        "firstTimestamp": moment,
        "lastTimestamp": moment,
        "count": 1,
    }
