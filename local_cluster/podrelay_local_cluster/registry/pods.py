"""Create, change and delete pods in the store by the rules of a real API server, and notify the node.

Deletion follows the pod strategy of Kubernetes ("Termination of Pods"). Every pod is marked first. A scheduled, unfinished
pod is removed when the node reports that its containers have ended, any other pod at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Protocol

from podrelay_local_cluster.objects import clock, defaults, managed_fields, metadata, patching, validation
from podrelay_local_cluster.objects.errors import already_exists, invalid, not_found
from podrelay_local_cluster.objects.json_text import Json
from podrelay_local_cluster.objects.record import Record
from podrelay_local_cluster.objects.resources import DEFAULT_GRACE_S, TERMINAL_PHASES
from podrelay_local_cluster.registry import admission
from podrelay_local_cluster.storage.store import ObjectStore

_GRACE_MOST_S = 10 * 365 * 86_400
"""A real API server accepts more; its date of the deletion is then beyond what this one can write."""


class NodeListener(Protocol):
    """What the registry notifies of changes to pods. No call blocks."""

    def pod_created(self, record: Record) -> None: ...

    def pod_terminating(self, record: Record, grace_s: float) -> None: ...

    def pod_gone(self, record: Record) -> None: ...


@dataclass(frozen=True)
class DeleteOptions:
    """`DeleteOptions` of one request. Without `grace_s` the pod's own grace period applies."""

    grace_s: int | None = None
    preconditions: Json = field(default_factory=dict)
    dry_run: bool = False


class PodRegistry:
    """The only writer of pods. `node` is set once the node exists."""

    def __init__(self, store: ObjectStore, limits: admission.PodLimits) -> None:
        self._store = store
        self._limits = limits
        self.node: NodeListener | None = None

    def get(self, namespace: str, name: str) -> Record:
        """Raises `StatusError` 404."""
        record = self._store.get("pods", namespace, name)
        if record is None:
            raise not_found("pods", name)
        return record

    def create(self, namespace: str, body: Any, dry_run: bool = False, manager: str = "unknown") -> Record:
        """:param manager: the client, as it appears in the managed fields.

        Raises `StatusError` 400, 403 (quota, terminating namespace), 404 (no such namespace), 409 or 422.
        """
        body = metadata.check_body("pods", body)
        meta = metadata.for_new_object(body, namespace)
        name = meta.get("name") or ""
        admission.check_namespace(self._store, namespace, "pods", name)
        pod: Json = {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": body.get("spec") or {}}
        validation.check_pod(pod)
        pod["spec"] = defaults.pod_spec(pod["spec"])
        pod["status"] = {"phase": "Pending", "qosClass": defaults.qos_class(pod["spec"])}
        admission.check_service_account(self._store, pod)
        counted = admission.check_quota(self._store, self._limits, pod)
        if not dry_run:
            metadata.check_unversioned(body)
        if self._store.get("pods", namespace, name) is not None:
            raise already_exists("pods", name)
        if dry_run:
            return Record("pods", pod, 0)
        record = self._store.put_limited("pods", pod, managed_fields.of_new_pod(manager, body.get("spec") or {}, pod))
        for quota in counted:
            self._store.put("resourcequotas", quota)
        if self.node is not None:
            self.node.pod_created(record)
        return record

    def replace(self, namespace: str, name: str, body: Any, dry_run: bool = False) -> Record:
        """PUT of the pod; its status does not change. Raises `StatusError` 400, 404, 409 or 422."""
        old = self.get(namespace, name)
        body = metadata.check_body("pods", body)
        pod = {**old.obj, "metadata": metadata.for_changed_object("pods", old, body)}
        if body.get("spec") is not old.obj["spec"]:
            changed = {**pod, "spec": body.get("spec") or {}}
            validation.check_pod(changed)
            changed["spec"] = defaults.pod_spec(changed["spec"])
            validation.check_pod_update(old.obj, changed)
            pod = changed if changed["spec"] != old.obj["spec"] else pod
        errors = validation.check_metadata("pods", pod["metadata"])
        if errors:
            raise invalid("pods", name, errors)
        return self._write(old, pod, dry_run)

    def replace_status(self, namespace: str, name: str, body: Any, dry_run: bool = False) -> Record:
        """PUT of the status subresource; the spec does not change. Raises `StatusError` 400, 404 or 409."""
        old = self.get(namespace, name)
        body = metadata.check_body("pods", body)
        meta = metadata.for_changed_object("pods", old, body)
        if "ownerReferences" in old.obj["metadata"]:
            meta["ownerReferences"] = old.obj["metadata"]["ownerReferences"]
        pod = {**old.obj, "metadata": meta, "status": body.get("status") or {}}
        return self._write(old, pod, dry_run)

    def patch(self, record: Record, content_type: str, patch: Any, subresource: str, dry_run: bool = False) -> Record:
        """Raises `StatusError` 400, 409 or 422."""
        patched = patching.apply(content_type, record.obj, patch)
        metadata.check_patched("pods", record, patched)
        write = self.replace_status if subresource == "status" else self.replace
        return write(record.namespace, record.name, patched, dry_run)

    def delete(self, record: Record, options: DeleteOptions) -> Record:
        """Mark or remove the pod, depending on its state, and return it. Raises `StatusError` 409 (preconditions)."""
        metadata.check_preconditions("pods", record, options.preconditions)
        grace_s = self._grace_s(record.obj, options.grace_s)
        if options.dry_run or grace_s is None:
            return record
        marked = self._mark(record, grace_s)
        if grace_s == 0 and not marked.obj["metadata"].get("finalizers"):
            return self._remove(marked)
        if self.node is not None:
            self.node.pod_terminating(marked, float(grace_s))
        return marked

    def finish(self, record: Record) -> None:
        """Complete a deletion: the node reports that no container of the pod runs. No effect on a pod that is not marked."""
        current = self.latest(record)
        if current is None or not current.is_being_deleted:
            return
        if current.obj["metadata"]["deletionGracePeriodSeconds"] != 0:
            current = self._mark(current, 0)
        if not current.obj["metadata"].get("finalizers"):
            self._remove(current)

    def vanish(self, record: Record) -> Record:
        """Remove the object at once, regardless of node, grace period and finalizers."""
        return self._remove(record)

    def bind(self, record: Record, node_name: str, status: Json) -> Record | None:
        """Bind the pod to the node and set the status that goes with it, in one change. None when the pod is gone."""
        current = self.latest(record)
        if current is None:
            return None
        return self._store.put(
            "pods", {**current.obj, "spec": {**current.obj["spec"], "nodeName": node_name}, "status": status}
        )

    def set_status(self, record: Record, status: Json) -> Record | None:
        """Store the node's report. An equal status makes no new version. None when the pod is gone."""
        current = self.latest(record)
        if current is None or current.obj["status"] == status:
            return current
        managers = managed_fields.with_kubelet(current.managers, status) if "startTime" in status else None
        return self._store.put("pods", {**current.obj, "status": status}, managers)

    def latest(self, record: Record) -> Record | None:
        """The current state of the pod with this uid, or None."""
        current = self._store.get("pods", record.namespace, record.name)
        return current if current is not None and current.uid == record.uid else None

    def _write(self, old: Record, pod: Json, dry_run: bool) -> Record:
        before = {**old.obj["metadata"]}
        if {**pod["metadata"], "resourceVersion": before["resourceVersion"]} == before and all(
            pod[part] == old.obj[part] for part in ("spec", "status")
        ):
            return old
        if dry_run:
            return Record("pods", pod, old.version)
        record = self._store.put_limited("pods", pod)
        meta = record.obj["metadata"]
        if meta.get("deletionGracePeriodSeconds") == 0 and not meta.get("finalizers"):
            return self._remove(record)
        return record

    def _remove(self, record: Record) -> Record:
        last = self._store.remove(record)
        if self.node is not None:
            self.node.pod_gone(last)
        return last

    def _mark(self, record: Record, grace_s: int) -> Record:
        """Set the deadline. The grace period counts from the first request, also when a later one shortens it."""
        meta = record.obj["metadata"]
        requested = clock.now()
        if record.is_being_deleted:
            requested = clock.parse(meta["deletionTimestamp"]) - timedelta(seconds=meta["deletionGracePeriodSeconds"])
        deadline = clock.text(requested + timedelta(seconds=grace_s))
        meta = {**meta, "deletionTimestamp": deadline, "deletionGracePeriodSeconds": grace_s}
        return self._store.put("pods", {**record.obj, "metadata": meta})

    @staticmethod
    def _grace_s(pod: Json, wanted_s: int | None) -> int | None:
        """None when a deletion is already in progress and this request does not shorten it."""
        if wanted_s is not None and wanted_s < 0:
            wanted_s = 1
        pending_s = pod["metadata"].get("deletionGracePeriodSeconds")
        if pending_s is not None:
            return wanted_s if wanted_s is not None and wanted_s < pending_s else None
        if not pod["spec"].get("nodeName") or pod["status"].get("phase") in TERMINAL_PHASES:
            return 0
        own_s = pod["spec"].get("terminationGracePeriodSeconds", DEFAULT_GRACE_S)
        return min(_GRACE_MOST_S, own_s if wanted_s is None else wanted_s)
