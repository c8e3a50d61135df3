"""Pure decisions of `GET .../pods/{name}/log`: which container's log, which run of it, and the refusals of a real kubelet."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from podrelay_local_cluster.api.listing import integer
from podrelay_local_cluster.api.request_info import is_true
from podrelay_local_cluster.kubelet.container_log import LogOptions
from podrelay_local_cluster.objects import clock
from podrelay_local_cluster.objects.errors import bad_request
from podrelay_local_cluster.storage.record import Record

Json = dict[str, Any]


def options_of(query: Mapping[str, str]) -> LogOptions:
    """Raises `ApiError` 400."""
    seconds, since = integer(query, "sinceSeconds"), query.get("sinceTime", "")
    if seconds is not None:
        since = _stamp((clock.now() - timedelta(seconds=seconds)).isoformat())
    elif since:
        since = _stamp(since)
    limit, tail = integer(query, "limitBytes"), integer(query, "tailLines")
    if (limit is not None and limit < 1) or (tail is not None and tail < 0):
        raise bad_request("limitBytes must be greater than 0 and tailLines must not be negative")
    return LogOptions(is_true(query.get("follow")), tail, limit, since, is_true(query.get("timestamps")))


def _stamp(text: str) -> str:
    try:
        return clock.text_fine(clock.parse(text))
    except ValueError as exc:
        raise bad_request(f"sinceTime is no RFC 3339 time: {text}") from exc


def choose(record: Record, query: Mapping[str, str]) -> tuple[str, int]:
    """The container's name and the number of its run. Raises `ApiError` 400."""
    spec, name = record.obj["spec"], query.get("container", "")
    mains = [container["name"] for container in spec["containers"]]
    inits = [container["name"] for container in spec.get("initContainers") or []]
    if not name:
        if len(mains) > 1:
            choices = f"choose one of: [{' '.join(mains)}]" + (
                f" or one of the init containers: [{' '.join(inits)}]" if inits else ""
            )
            raise bad_request(f"a container name must be specified for pod {record.name}, {choices}")
        name = mains[0]
    elif name not in mains + inits:
        raise bad_request(f"container {name} is not valid for pod {record.name}")
    status = _status_of(record.obj, name)
    restart = int(status.get("restartCount", 0))
    if is_true(query.get("previous")):
        if restart == 0:
            raise bad_request(f'previous terminated container "{name}" in pod "{record.name}" not found')
        return name, restart - 1
    waiting = (status.get("state") or {}).get("waiting")
    if waiting is None:
        return name, restart
    if restart:
        return name, restart - 1
    raise bad_request(f'container "{name}" in pod "{record.name}" is waiting to start: {waiting.get("reason", "")}')


def _status_of(pod: Json, name: str) -> Json:
    for key in ("containerStatuses", "initContainerStatuses"):
        for item in pod["status"].get(key) or []:
            if item.get("name") == name:
                return dict(item)
    return {"state": {"waiting": {"reason": "ContainerCreating"}}}
