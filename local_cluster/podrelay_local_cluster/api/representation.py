"""Pure: the form of objects in a response, which the client chooses by its Accept header."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from podrelay_local_cluster.kubectl.table import table
from podrelay_local_cluster.objects.errors import not_acceptable
from podrelay_local_cluster.objects.json_text import Json, to_json
from podrelay_local_cluster.objects.record import Record
from podrelay_local_cluster.objects.resources import KIND_OF_RESOURCE


class Form(Enum):
    """How objects appear in a response."""

    FULL = "full"
    PARTIAL = "partial"
    TABLE = "table"
    WHOLE_TABLE = "table of whole objects"


_TABLES = (Form.TABLE, Form.WHOLE_TABLE)
_FORMS = {
    "Table": Form.TABLE,
    "PartialObjectMetadata": Form.PARTIAL,
    "PartialObjectMetadataList": Form.PARTIAL,
}


def requested_form(accept: str, include_object: str = "") -> Form:
    """The first alternative that this server supports. Raises `StatusError` 406 when it supports none.

    :param include_object: the query parameter `includeObject`: what each row of a Table holds.
    """
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
        if form == "Table" and include_object == "Object":
            return Form.WHOLE_TABLE
        if form in _FORMS:
            return _FORMS[form]
    raise not_acceptable()


def object_json(record: Record, form: Form) -> bytes:
    if form is Form.FULL:
        return record.json()
    if form is Form.PARTIAL:
        return record.partial_json()
    return to_json(table([record], record.resource, {}, form is Form.WHOLE_TABLE))


def list_json(records: Sequence[Record], resource: str, list_meta: Json, form: Form) -> bytes:
    """The whole list. The text of its items is cached in the records."""
    if form in _TABLES:
        return to_json(table(records, resource, list_meta, form is Form.WHOLE_TABLE))
    if form is Form.PARTIAL:
        head = {"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": list_meta}
        items = b",".join(record.partial_json() for record in records)
    else:
        head = {"kind": f"{KIND_OF_RESOURCE[resource]}List", "apiVersion": "v1", "metadata": list_meta}
        items = b",".join(record.json() for record in records)
    return to_json(head)[:-1] + b',"items":[' + items + b"]}"


def empty_object(resource: str, version: int, form: Form, initial_end: bool = False) -> Json:
    """The object of a bookmark, which holds only a version."""
    meta: Json = {"resourceVersion": str(version), "creationTimestamp": None}
    if initial_end:
        meta["annotations"] = {"k8s.io/initial-events-end": "true"}
    if form is Form.PARTIAL:
        return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": meta}
    if form in _TABLES:
        return {"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": meta, "columnDefinitions": [], "rows": []}
    empty: Json = {"spec": {"containers": None}, "status": {}} if resource == "pods" else {}
    return {"kind": KIND_OF_RESOURCE[resource], "apiVersion": "v1", "metadata": meta, **empty}
