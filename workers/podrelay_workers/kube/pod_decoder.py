"""Decode only the fields of a pod that the watcher reads, in about a tenth of the time and memory. Used by `client`.

Airflow itself depends on msgspec. Anything that does not look like a pod is decoded completely; nothing is refused here.
"""

from __future__ import annotations

import json
from typing import Any, TypedDict

import msgspec


class _Container(TypedDict, total=False):
    name: Any
    image: Any
    restartPolicy: Any  # noqa: N815 - Kubernetes' name, like all below
    restartPolicyRules: Any  # noqa: N815


class _Spec(TypedDict, total=False):
    nodeName: Any  # noqa: N815
    restartPolicy: Any  # noqa: N815
    containers: list[_Container]
    initContainers: list[_Container]  # noqa: N815


class _Metadata(TypedDict, total=False):
    name: Any
    namespace: Any
    uid: Any
    resourceVersion: Any  # noqa: N815
    labels: Any
    annotations: Any
    creationTimestamp: Any  # noqa: N815
    deletionTimestamp: Any  # noqa: N815
    deletionGracePeriodSeconds: Any  # noqa: N815


class _Condition(TypedDict, total=False):
    type: Any
    status: Any
    reason: Any
    message: Any
    lastTransitionTime: Any  # noqa: N815


class _ContainerStatus(TypedDict, total=False):
    name: Any
    image: Any
    state: Any
    lastState: Any  # noqa: N815


class _Status(TypedDict, total=False):
    phase: Any
    reason: Any
    message: Any
    conditions: list[_Condition]
    containerStatuses: list[_ContainerStatus]  # noqa: N815
    initContainerStatuses: list[_ContainerStatus]  # noqa: N815


class _Pod(TypedDict, total=False):
    metadata: _Metadata
    spec: _Spec
    status: _Status


class _Event(TypedDict):
    type: Any
    object: _Pod


_ListMetadata = TypedDict("_ListMetadata", {"resourceVersion": Any, "continue": Any}, total=False)


class _List(TypedDict, total=False):
    metadata: _ListMetadata
    items: list[_Pod]


_EVENT = msgspec.json.Decoder(_Event)
_LIST = msgspec.json.Decoder(_List)


def decode_event(line: bytes) -> Any:
    """One event of a watch. An ERROR event, whose object is not a pod, is decoded completely.

    :raises ValueError: the text is not JSON.
    """
    try:
        event = _EVENT.decode(line)
    except msgspec.DecodeError:
        return json.loads(line)
    return json.loads(line) if event["type"] == "ERROR" else event


def decode_list(body: bytes) -> Any:
    """One page of a list.

    :raises ValueError: the text is not JSON.
    """
    try:
        return _LIST.decode(body)
    except msgspec.DecodeError:
        return json.loads(body)
