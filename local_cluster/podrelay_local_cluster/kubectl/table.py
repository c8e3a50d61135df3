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
_OTHER_COLUMNS = (("Name", "string", "name", 0), ("Status", "string", "", 0), ("Age", "string", "", 0))


def table(records: Sequence[Record], resource: str, list_meta: Json) -> Json:
    """The Table of these objects, with the columns of a real API server."""
    is_pods = resource == "pods"
    columns = [
        {"name": name, "type": kind, "format": form, "description": name, "priority": priority}
        for name, kind, form, priority in (_POD_COLUMNS if is_pods else _OTHER_COLUMNS)
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
