"""Pure: the decisions of `GET .../pods/{name}/log`: which container, which of its runs, and the refusals of a kubelet."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from podrelay_local_cluster.http.query import integer, is_true
from podrelay_local_cluster.kubelet.container_log import LogOptions
from podrelay_local_cluster.objects import clock
from podrelay_local_cluster.objects.errors import bad_request
from podrelay_local_cluster.objects.json_text import Json
from podrelay_local_cluster.objects.record import Record

_SINCE_MOST_S = 60_000_000_000


def log_options(query: Mapping[str, str]) -> LogOptions:
    """The part of the log that the query selects. Raises `StatusError` 400."""
    seconds, since = integer(query, "sinceSeconds"), query.get("sinceTime", "")
    if seconds is not None:
        if not 0 < seconds < _SINCE_MOST_S:
            raise bad_request("sinceSeconds must be greater than 0, and not before the year 0")
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
    except (ValueError, OverflowError) as exc:
        raise bad_request(f"sinceTime is no RFC 3339 time: {text}") from exc


def select_run(record: Record, query: Mapping[str, str]) -> tuple[str, int] | None:
    """The container's name and the number of its run; None while no node has the pod. Raises `StatusError` 400."""
    name = _container(record, query.get("container", ""))
    if not record.obj["spec"].get("nodeName"):
        return None
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


def _container(record: Record, name: str) -> str:
    mains = [container["name"] for container in record.obj["spec"]["containers"]]
    inits = [container["name"] for container in record.obj["spec"].get("initContainers") or []]
    if name and name not in mains + inits:
        raise bad_request(f"container {name} is not valid for pod {record.name}")
    if not name and len(mains) > 1:
        choices = f"choose one of: [{' '.join(mains)}]" + (
            f" or one of the init containers: [{' '.join(inits)}]" if inits else ""
        )
        raise bad_request(f"a container name must be specified for pod {record.name}, {choices}")
    return name or str(mains[0])


def _status_of(pod: Json, name: str) -> Json:
    for key in ("containerStatuses", "initContainerStatuses"):
        for item in pod["status"].get(key) or []:
            if item.get("name") == name:
                return dict(item)
    return {"state": {"waiting": {"reason": "ContainerCreating"}}}
