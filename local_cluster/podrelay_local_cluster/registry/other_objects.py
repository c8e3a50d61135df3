"""Create, change and delete everything but pods: namespaces, Secrets, quotas and so on.

No controller acts on them but the garbage collector.
"""

from __future__ import annotations

import base64
from typing import Any

from podrelay_local_cluster.objects import clock, metadata, patching, validation
from podrelay_local_cluster.objects.errors import (
    already_exists,
    bad_request,
    forbidden_value,
    invalid,
    method_not_allowed,
    not_found,
    too_long,
)
from podrelay_local_cluster.objects.json_text import Json
from podrelay_local_cluster.objects.quantity import canonical_values
from podrelay_local_cluster.objects.record import Record
from podrelay_local_cluster.objects.resources import KIND_OF_RESOURCE
from podrelay_local_cluster.registry.admission import DEFAULT_ACCOUNT, check_namespace
from podrelay_local_cluster.registry.garbage import GarbageCollector
from podrelay_local_cluster.registry.pods import DeleteOptions, PodRegistry
from podrelay_local_cluster.storage.store import ObjectStore

_CONTENT = ("secrets", "configmaps", "resourcequotas", "serviceaccounts")
_WRITABLE = frozenset({"namespaces", *_CONTENT})
_MAX_SECRET_BYTES = 1024 * 1024
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
    """The only writer of objects that are not pods."""

    def __init__(self, store: ObjectStore, pods: PodRegistry) -> None:
        self._store = store
        self._pods = pods
        self._garbage = GarbageCollector(store)

    def get(self, resource: str, namespace: str, name: str) -> Record:
        """Raises `StatusError` 404."""
        record = self._store.get(resource, namespace, name)
        if record is None:
            raise not_found(resource, name)
        return record

    def create(self, resource: str, namespace: str, body: Any, dry_run: bool = False) -> Record:
        """Raises `StatusError` 400, 403, 404, 405, 409 or 422."""
        if resource not in _WRITABLE:
            raise method_not_allowed()
        body = metadata.check_body(resource, body)
        meta = metadata.for_new_object(body, namespace)
        name = meta.get("name") or ""
        if namespace:
            check_namespace(self._store, namespace, resource, name)
        obj = _with_fields(resource, meta, body)
        if not dry_run:
            metadata.check_unversioned(body)
        if self._store.get(resource, namespace, name) is not None:
            raise already_exists(resource, name)
        if dry_run:
            return Record(resource, obj, 0)
        record = self._store.put_limited(resource, obj)
        self._garbage.changed(record)
        if resource == "namespaces":  # on a real cluster, a controller does this
            self.create("serviceaccounts", name, {"metadata": {"name": DEFAULT_ACCOUNT}})
        return record

    def replace(self, old: Record, body: Any, subresource: str = "", dry_run: bool = False) -> Record:
        """PUT of the object, or of its status alone. Raises `StatusError` 400, 405, 409 or 422."""
        if old.resource not in _WRITABLE:
            raise method_not_allowed()
        body = metadata.check_body(old.resource, body)
        obj = _with_fields(old.resource, metadata.for_changed_object(old.resource, old, body), body)
        if subresource == "status":
            obj = {**old.obj, "metadata": obj["metadata"], "status": _with_quantities(old.resource, body.get("status"))}
        elif old.resource == "namespaces":
            obj.update({key: old.obj[key] for key in ("spec", "status")})
        elif "status" in old.obj:
            obj["status"] = old.obj["status"]
        _check_immutable(old, obj)
        same = {**obj, "metadata": {**obj["metadata"], "resourceVersion": str(old.version)}} == old.obj
        if same or dry_run:
            return old
        record = self._store.put_limited(old.resource, obj)
        self._garbage.changed(record)
        return record

    def patch(
        self, record: Record, content_type: str, patch: Any, subresource: str = "", dry_run: bool = False
    ) -> Record:
        patched = patching.apply(content_type, record.obj, patch)
        metadata.check_patched(record.resource, record, patched)
        return self.replace(record, patched, subresource, dry_run)

    def delete(self, record: Record, options: DeleteOptions) -> Record:
        """Remove the object; a namespace is removed together with its last pod. Raises `StatusError` 405 or 409."""
        if record.resource not in _WRITABLE:
            raise method_not_allowed()
        metadata.check_preconditions(record.resource, record, options.preconditions)
        if options.dry_run:
            return record
        if record.resource != "namespaces":
            return self._store.remove(record)
        return self._delete_namespace(record)

    def _delete_namespace(self, record: Record) -> Record:
        if not record.is_being_deleted:
            meta = {**record.obj["metadata"], "deletionTimestamp": clock.now_text()}
            record = self._store.put("namespaces", {**record.obj, "metadata": meta, "status": {"phase": "Terminating"}})
        for resource in (*_CONTENT, "events"):
            for content in self._store.records(resource, record.name):
                self._store.remove(content)
        for pod in self._store.records("pods", record.name):
            self._pods.delete(pod, DeleteOptions())
        self.drop_if_empty(record.name)
        return record

    def pod_gone(self, pod: Record) -> None:
        """Remove what the pod owned, and its namespace if that only waited for its end."""
        self._garbage.removed(pod)
        self.drop_if_empty(pod.namespace)

    def drop_if_empty(self, namespace: str) -> None:
        """Remove a terminating namespace that holds no pod."""
        record = self._store.get("namespaces", "", namespace)
        if record is None or not record.is_being_deleted:
            return
        if next(self._store.iterate("pods", namespace), None) is None:
            self._store.remove(record)


def _with_fields(resource: str, meta: Json, body: Json) -> Json:
    """The object with the fields that this resource has. Raises `StatusError` 422."""
    errors = validation.check_metadata(resource, meta)
    if errors:
        raise invalid(resource, str(meta.get("name") or ""), errors)
    obj: Json = {"apiVersion": "v1", "kind": KIND_OF_RESOURCE[resource], "metadata": meta}
    obj.update({key: body[key] for key in _FIELDS[resource] if body.get(key) is not None})
    if resource == "namespaces":
        obj["metadata"]["labels"] = {**(meta.get("labels") or {}), "kubernetes.io/metadata.name": meta["name"]}
        obj.update(spec={"finalizers": ["kubernetes"]}, status={"phase": "Active"})
    elif resource == "resourcequotas":
        obj["spec"] = _with_quantities(resource, body.get("spec"))
    elif resource == "secrets":
        obj["data"] = _secret_data(body)
        obj.setdefault("type", "Opaque")
        if sum(len(base64.b64decode(value)) for value in obj["data"].values()) > _MAX_SECRET_BYTES:
            raise invalid(resource, str(meta["name"]), [too_long("data", _MAX_SECRET_BYTES)])
    return obj


def _check_immutable(old: Record, new: Json) -> None:
    """Raises `StatusError` 422. The metadata of an immutable object may still change, its owners for example."""
    if not old.obj.get("immutable"):
        return
    rule = "field is immutable when `immutable` is set"
    changed = [field for field in ("immutable", "data", "binaryData") if new.get(field) != old.obj.get(field)]
    if changed:
        raise invalid(old.resource, old.name, [forbidden_value(field, rule) for field in changed])


def _with_quantities(resource: str, part: Json | None) -> Json:
    """Spec or status of an object; a quota's with canonical quantities. Raises `StatusError` 400."""
    part = part or {}
    if resource != "resourcequotas":
        return part
    try:
        return {
            key: canonical_values(value) if key in ("hard", "used") and isinstance(value, dict) else value
            for key, value in part.items()
        }
    except ValueError as exc:
        raise bad_request(str(exc)) from exc


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
