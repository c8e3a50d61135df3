"""Pure: in which form the client wants objects (the Accept header), and the `Table` of pods that kubectl prints."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import Enum
from typing import Any

from podrelay_local_cluster.objects import clock
from podrelay_local_cluster.objects.errors import KIND_OF_RESOURCE, not_acceptable
from podrelay_local_cluster.storage.record import Record, to_json

Json = dict[str, Any]


class Form(Enum):
    """How objects appear in an answer."""

    FULL = "full"
    PARTIAL = "partial"
    TABLE = "table"


_FORMS = {
    "Table": Form.TABLE,
    "PartialObjectMetadata": Form.PARTIAL,
    "PartialObjectMetadataList": Form.PARTIAL,
}
_CELLS = (
    ("Name", "string", "name", 0),
    ("Ready", "string", "", 0),
    ("Status", "string", "", 0),
    ("Restarts", "integer", "", 0),
    ("Age", "string", "", 0),
    ("IP", "string", "", 1),
    ("Node", "string", "", 1),
)
_OTHER_CELLS = (("Name", "string", "name", 0), ("Status", "string", "", 0), ("Age", "string", "", 0))


def form_of(accept: str) -> Form:
    """The first alternative that this server has. Raises `ApiError` 406 when there is none."""
    if not accept:
        return Form.FULL
    for alternative in accept.split(","):
        media_type, *parameters = (part.strip() for part in alternative.split(";"))
        if media_type not in ("application/json", "application/*", "*/*"):
            continue
        wanted = dict(parameter.partition("=")[::2] for parameter in parameters)
        form = wanted.get("as")
        if form is None:
            return Form.FULL
        if form in _FORMS:
            return _FORMS[form]
    raise not_acceptable()


def object_json(record: Record, form: Form) -> bytes:
    if form is Form.FULL:
        return record.json()
    return record.partial_json() if form is Form.PARTIAL else to_json(table([record], record.resource, {}))


def list_json(records: Sequence[Record], resource: str, list_meta: Json, form: Form) -> bytes:
    """The whole list; its items' text comes from the records, which keep it."""
    if form is Form.TABLE:
        return to_json(table(records, resource, list_meta))
    if form is Form.PARTIAL:
        head = {"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": list_meta}
        items = b",".join(record.partial_json() for record in records)
    else:
        head = {"kind": f"{KIND_OF_RESOURCE[resource]}List", "apiVersion": "v1", "metadata": list_meta}
        items = b",".join(record.json() for record in records)
    return to_json(head)[:-1] + b',"items":[' + items + b"]}"


def empty_object(resource: str, version: int, form: Form, initial_end: bool = False) -> Json:
    """The object of a bookmark: nothing but its version."""
    meta: Json = {"resourceVersion": str(version), "creationTimestamp": None}
    if initial_end:
        meta["annotations"] = {"k8s.io/initial-events-end": "true"}
    if form is Form.PARTIAL:
        return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": meta}
    if form is Form.TABLE:
        return {"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": meta, "columnDefinitions": [], "rows": []}
    empty: Json = {"spec": {"containers": None}, "status": {}} if resource == "pods" else {}
    return {"kind": KIND_OF_RESOURCE[resource], "apiVersion": "v1", "metadata": meta, **empty}


def table(records: Sequence[Record], resource: str, list_meta: Json) -> Json:
    """`meta.k8s.io/v1` Table, with the columns kubectl users know."""
    is_pods = resource == "pods"
    columns = [
        {"name": name, "type": kind, "format": form, "description": name, "priority": priority}
        for name, kind, form, priority in (_CELLS if is_pods else _OTHER_CELLS)
    ]
    moment = clock.now()
    cells = _pod_cells if is_pods else _other_cells
    rows = [
        {
            "cells": cells(record, moment),
            "object": {
                "kind": "PartialObjectMetadata",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": record.obj["metadata"],
            },
        }
        for record in records
    ]
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": list_meta,
        "columnDefinitions": columns,
        "rows": rows,
    }


def _pod_cells(record: Record, moment: datetime) -> list[Any]:
    pod = record.obj
    statuses = pod["status"].get("containerStatuses") or []
    ready = sum(1 for item in statuses if item.get("ready"))
    return [
        record.name,
        f"{ready}/{len(pod['spec']['containers'])}",
        _printed_status(pod, statuses),
        sum(item.get("restartCount", 0) for item in statuses),
        _age(pod, moment),
        pod["status"].get("podIP") or "<none>",
        pod["spec"].get("nodeName") or "<none>",
    ]


def _other_cells(record: Record, moment: datetime) -> list[Any]:
    phase = (record.obj.get("status") or {}).get("phase") or ("Ready" if record.resource == "nodes" else "")
    return [record.name, phase, _age(record.obj, moment)]


def _printed_status(pod: Json, statuses: Sequence[Json]) -> str:
    if "deletionTimestamp" in pod["metadata"]:
        return "Terminating"
    status = pod["status"]
    if status.get("reason"):
        return str(status["reason"])
    for item in statuses:
        state = item.get("state") or {}
        reason = (state.get("waiting") or state.get("terminated") or {}).get("reason")
        if reason:
            return str(reason)
    return str(status.get("phase", "Unknown"))


def _age(obj: Json, moment: datetime) -> str:
    age_s = max(0, int((moment - clock.parse(obj["metadata"]["creationTimestamp"])).total_seconds()))
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if age_s >= 2 * size:
            return f"{age_s // size}{unit}"
    return f"{age_s}s"
