"""Pure: objects as the `meta.k8s.io/v1` Table whose columns kubectl prints."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from podrelay_local_cluster.objects import clock
from podrelay_local_cluster.objects.json_text import Json
from podrelay_local_cluster.objects.record import Record

_POD_COLUMNS = (
    ("Name", "string", "name", 0),
    ("Ready", "string", "", 0),
    ("Status", "string", "", 0),
    ("Restarts", "integer", "", 0),
    ("Age", "string", "", 0),
    ("IP", "string", "", 1),
    ("Node", "string", "", 1),
)
_OTHER_COLUMNS = {
    "namespaces": ("Name", "Status", "Age"),
    "nodes": ("Name", "Status", "Age"),
    "events": ("Last Seen", "Type", "Reason", "Object", "Message"),
    "resourcequotas": ("Name", "Request", "Limit", "Age"),
    "secrets": ("Name", "Type", "Data", "Age"),
    "configmaps": ("Name", "Data", "Age"),
    "serviceaccounts": ("Name", "Age"),
}


def table(records: Sequence[Record], resource: str, list_meta: Json, whole: bool = False) -> Json:
    """The Table of these objects, with the columns of a real API server.

    :param whole: each row holds the whole object, by which `kubectl get --sort-by` sorts; else its metadata.
    """
    columns = [
        {"name": name, "type": kind, "format": form, "description": name, "priority": priority}
        for name, kind, form, priority in _columns(resource)
    ]
    moment = clock.now()
    rows = [
        {
            "cells": _pod_cells(record, moment) if resource == "pods" else _other_cells(record, moment),
            "object": record.obj if whole else partial_object(record),
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
        _age(pod["metadata"]["creationTimestamp"], moment),
        pod["status"].get("podIP") or "<none>",
        pod["spec"].get("nodeName") or "<none>",
    ]


def partial_object(record: Record) -> Json:
    """The metadata of an object, as an object of its own."""
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": record.obj["metadata"]}


def _columns(resource: str) -> Sequence[tuple[str, str, str, int]]:
    if resource == "pods":
        return _POD_COLUMNS
    return [(name, "string", "name" if name == "Name" else "", 0) for name in _OTHER_COLUMNS[resource]]


def _other_cells(record: Record, moment: datetime) -> list[Any]:
    obj = record.obj
    values = {
        "Name": record.name,
        "Status": (obj.get("status") or {}).get("phase") or ("Ready" if record.resource == "nodes" else ""),
        "Age": _age(obj["metadata"]["creationTimestamp"], moment),
        "Data": str(len(obj.get("data") or {})),
        "Type": obj.get("type") or "",
        "Limit": "",
    }
    if record.resource == "events":
        about = obj["involvedObject"]
        values |= {"Reason": obj["reason"], "Message": obj["message"], "Object": f"pod/{about['name']}"}
        values["Last Seen"] = _age(obj["lastTimestamp"], moment)
    if record.resource == "resourcequotas":
        status = obj.get("status") or {}
        used = status.get("used") or {}
        values["Request"] = ", ".join(f"{key}: {used.get(key, '')}/{hard}" for key, hard in _items(status.get("hard")))
    return [values[name] for name in _OTHER_COLUMNS[record.resource]]


def _items(values: Json | None) -> list[tuple[str, Any]]:
    return sorted((values or {}).items())


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


def _age(since: str, moment: datetime) -> str:
    age_s = max(0, int((moment - clock.parse(since)).total_seconds()))
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if age_s >= 2 * size:
            return f"{age_s // size}{unit}"
    return f"{age_s}s"
