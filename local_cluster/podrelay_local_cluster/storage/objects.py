"""The objects beside pods that a pod may need: namespaces, Secrets, quotas and the like; kept, never acted upon."""

from __future__ import annotations

import base64
import platform
from typing import Any

from podrelay_local_cluster.kubelet.pod_status import ADDRESS, NODE_NAME
from podrelay_local_cluster.objects import clock, metadata, patching, validation
from podrelay_local_cluster.objects.admission import DEFAULT_ACCOUNT, check_namespace
from podrelay_local_cluster.objects.errors import (
    KIND_OF_RESOURCE,
    already_exists,
    bad_request,
    invalid,
    method_not_allowed,
    not_found,
)
from podrelay_local_cluster.storage.pods import DeleteOptions, PodRegistry
from podrelay_local_cluster.storage.record import Record
from podrelay_local_cluster.storage.store import ObjectStore

Json = dict[str, Any]

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
NODE_LABELS = {
    "kubernetes.io/hostname": NODE_NAME,
    "kubernetes.io/os": "linux",
    "kubernetes.io/arch": _ARCHITECTURES.get(platform.machine(), platform.machine()),
}
_CONTENT = ("secrets", "configmaps", "resourcequotas", "serviceaccounts")
_WRITABLE = frozenset({"namespaces", *_CONTENT})
_FIELDS = {
    "namespaces": ("spec", "status"),
    "secrets": ("data", "type", "immutable"),
    "configmaps": ("data", "binaryData", "immutable"),
    "nodes": ("spec", "status"),
    "events": (),
    "resourcequotas": ("spec",),
    "serviceaccounts": ("secrets", "imagePullSecrets", "automountServiceAccountToken"),
}


class ObjectRegistry:
    """Create, change and delete everything that is no pod."""

    def __init__(self, store: ObjectStore, pods: PodRegistry) -> None:
        self._store = store
        self._pods = pods

    def get(self, resource: str, namespace: str, name: str) -> Record:
        """Raises `ApiError` 404."""
        record = self._store.get(resource, namespace, name)
        if record is None:
            raise not_found(resource, name)
        return record

    def create(self, resource: str, namespace: str, body: Any, dry_run: bool = False) -> Record:
        """Raises `ApiError` 400, 403, 404, 405, 409 or 422."""
        if resource not in _WRITABLE:
            raise method_not_allowed()
        body = metadata.check_body(resource, body)
        meta = metadata.of_new_object(body, namespace)
        name = meta.get("name") or ""
        if namespace:
            check_namespace(self._store, namespace, resource, name)
        obj = self._filled(resource, meta, body)
        if self._store.get(resource, namespace, name) is not None:
            raise already_exists(resource, name)
        if dry_run:
            return Record(resource, obj, 0)
        record = self._store.put(resource, obj)
        if resource == "namespaces":  # as a controller of a real cluster does
            self.create("serviceaccounts", name, {"metadata": {"name": DEFAULT_ACCOUNT}})
        return record

    def replace(self, old: Record, body: Any, subresource: str = "", dry_run: bool = False) -> Record:
        """PUT of the object, or of its status alone. Raises `ApiError` 400, 405, 409 or 422."""
        if old.resource not in _WRITABLE:
            raise method_not_allowed()
        body = metadata.check_body(old.resource, body)
        obj = self._filled(old.resource, metadata.of_changed_object(old.resource, old, body), body)
        if subresource == "status":
            obj = {**old.obj, "metadata": obj["metadata"], "status": body.get("status") or {}}
        elif old.resource == "namespaces":
            obj.update({key: old.obj[key] for key in ("spec", "status")})
        elif "status" in old.obj:
            obj["status"] = old.obj["status"]
        same = {**obj, "metadata": {**obj["metadata"], "resourceVersion": str(old.version)}} == old.obj
        if same or dry_run:
            return old
        return self._store.put(old.resource, obj)

    def patch(
        self, record: Record, content_type: str, patch: Any, subresource: str = "", dry_run: bool = False
    ) -> Record:
        patched = patching.apply(content_type, record.obj, patch)
        metadata.check_patched(record.resource, record, patched)
        return self.replace(record, patched, subresource, dry_run)

    def delete(self, record: Record, options: DeleteOptions) -> Record:
        """A namespace goes when its last pod has gone, everything else at once. Raises `ApiError` 405 or 409."""
        if record.resource not in _WRITABLE:
            raise method_not_allowed()
        metadata.check_preconditions(record.resource, record, options.preconditions)
        if options.dry_run:
            return record
        if record.resource != "namespaces":
            return self._store.remove(record)
        return self._delete_namespace(record)

    def _delete_namespace(self, record: Record) -> Record:
        if "deletionTimestamp" not in record.obj["metadata"]:
            meta = {**record.obj["metadata"], "deletionTimestamp": clock.now_text()}
            record = self._store.put("namespaces", {**record.obj, "metadata": meta, "status": {"phase": "Terminating"}})
        for resource in _CONTENT:
            for content in self._store.records(resource, record.name):
                self._store.remove(content)
        for pod in self._store.records("pods", record.name):
            self._pods.delete(pod, DeleteOptions())
        self.drop_if_empty(record.name)
        return record

    def drop_if_empty(self, namespace: str) -> None:
        """Remove a terminating namespace once it holds no pod; called after each pod that goes."""
        record = self._store.get("namespaces", "", namespace)
        if record is None or "deletionTimestamp" not in record.obj["metadata"]:
            return
        if next(self._store.unordered("pods", namespace), None) is None:
            self._store.remove(record)

    def _filled(self, resource: str, meta: Json, body: Json) -> Json:
        errors = validation.check_metadata(resource, meta)
        if errors:
            raise invalid(resource, str(meta.get("name") or ""), errors)
        obj: Json = {"apiVersion": "v1", "kind": KIND_OF_RESOURCE[resource], "metadata": meta}
        obj.update({key: body[key] for key in _FIELDS[resource] if body.get(key) is not None})
        if resource == "namespaces":
            obj["metadata"]["labels"] = {**(meta.get("labels") or {}), "kubernetes.io/metadata.name": meta["name"]}
            obj.update(spec={"finalizers": ["kubernetes"]}, status={"phase": "Active"})
        elif resource == "secrets":
            obj["data"] = _secret_data(body)
            obj.setdefault("type", "Opaque")
        return obj


def _secret_data(body: Json) -> dict[str, str]:
    data = dict(body.get("data") or {})
    for key, value in data.items():
        try:
            base64.b64decode(value, validate=True)
        except (ValueError, TypeError) as exc:
            raise bad_request(f"data of a Secret must be base64 text: {key}") from exc
    for key, value in (body.get("stringData") or {}).items():
        data[key] = base64.b64encode(str(value).encode()).decode("ascii")
    return data


def node() -> Json:
    """The one node, as a kubelet that has registered would show it."""
    moment = clock.now_text()
    ready = {
        "type": "Ready",
        "status": "True",
        "reason": "KubeletReady",
        "message": "local cluster runs",
        "lastHeartbeatTime": moment,
        "lastTransitionTime": moment,
    }
    room = {"cpu": "64", "memory": "256Gi", "pods": "100000"}
    meta = metadata.of_new_object({"metadata": {"name": NODE_NAME, "labels": NODE_LABELS}}, "")
    info = {
        "architecture": NODE_LABELS["kubernetes.io/arch"],
        "operatingSystem": "linux",
        "osImage": platform.platform(terse=True),
        "kernelVersion": platform.release(),
        "containerRuntimeVersion": "local://1",
        "kubeletVersion": "v1.32.0",
        "machineID": "",
        "systemUUID": "",
        "bootID": "",
        "kubeProxyVersion": "",
    }
    addresses = [{"type": "InternalIP", "address": ADDRESS}, {"type": "Hostname", "address": NODE_NAME}]
    status = {"capacity": room, "allocatable": room, "conditions": [ready], "addresses": addresses, "nodeInfo": info}
    return {"apiVersion": "v1", "kind": "Node", "metadata": meta, "spec": {}, "status": status}
