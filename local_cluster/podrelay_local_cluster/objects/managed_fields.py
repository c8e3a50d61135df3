"""Pure: `metadata.managedFields` of pods, which a real server keeps and sends with every object: about a third of its size.

One entry for whoever created the pod and one for the kubelet, as JSON text, because nothing here reads them. Nobody else who
changes a pod gets an entry.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from podrelay_local_cluster.objects import clock
from podrelay_local_cluster.objects.json_text import Json, to_json

Managers = tuple[bytes, ...]
"""The entries of one object, oldest manager first."""

_LONGEST_NAME = 128
_ITSELF = '".":{},'
_LEAVES = frozenset({str, int, float, bool, type(None)})
_KEYS: Mapping[str, tuple[str, ...]] = {
    "containers": ("name",), "initContainers": ("name",), "ephemeralContainers": ("name",), "env": ("name",),
    "volumes": ("name",), "imagePullSecrets": ("name",), "volumeMounts": ("mountPath",), "volumeDevices": ("devicePath",),
    "ports": ("containerPort", "protocol"), "hostAliases": ("ip",), "ownerReferences": ("uid",),
    "topologySpreadConstraints": ("topologyKey", "whenUnsatisfiable"),
}  # fmt: skip
"""Lists whose items are owned one by one, with the keys that identify them. Any other list is owned as a whole."""
_ATOMIC = frozenset(
    {"nodeSelector", "fieldRef", "secretKeyRef", "configMapKeyRef", "resourceFieldRef", "labelSelector"}
)
_FROM_ADMISSION = ("priority", "preemptionPolicy", "serviceAccount", "serviceAccountName", "tolerations")
"""Fields of a spec that no manager owns unless it gave them."""
_OF_KUBELET = ("ContainersReady", "Initialized", "PodReadyToStartContainers", "Ready")
_METADATA = ("annotations", "generateName", "labels", "ownerReferences")


def manager_name(field_manager: str, user_agent: str) -> str:
    """The manager of a request: as given, or the product of the client."""
    return (field_manager or user_agent.partition("/")[0] or "unknown")[:_LONGEST_NAME]


def of_new_pod(manager: str, given: Json, pod: Json) -> Managers:
    """The entry of who created a pod. `given` is the spec of the request, `pod` the object with its defaults."""
    meta = {name: pod["metadata"][name] for name in _METADATA if pod["metadata"].get(name)}
    spec = {name: value for name, value in pod["spec"].items() if name in given or name not in _FROM_ADMISSION}
    parts = [f'"f:metadata":{_fields(meta)}'] if meta else []
    fields = _object("", [*parts, f'"f:spec":{_fields(spec)}'])
    return (_entry(to_json(manager), fields.encode("ascii"), b""),)


def with_kubelet(managers: Managers, status: Json) -> Managers:
    """The entries after a kubelet has reported this status."""
    present = {item.get("type"): item for item in status.get("conditions") or []}
    owned = [(kind, present[kind]) for kind in _OF_KUBELET if kind in present]
    conditions = tuple([(kind, "message" in item, "reason" in item) for kind, item in owned])
    others = tuple([name for name in status if name not in ("conditions", "qosClass")])
    fields = _kubelet_fields(conditions, others, status.get("podIP", ""), status.get("phase") != "Pending")
    return (*managers[:1], _entry(b'"kubelet"', fields, b',"subresource":"status"'))


def _entry(manager: bytes, fields: bytes, subresource: bytes) -> bytes:
    return b'{"manager":%s,"operation":"Update","apiVersion":"v1","time":"%s","fieldsType":"FieldsV1","fieldsV1":%s%s}' % (
        manager, clock.now_text().encode("ascii"), fields, subresource
    )  # fmt: skip


@lru_cache(maxsize=256)
def _kubelet_fields(
    conditions: tuple[tuple[str, bool, bool], ...], others: tuple[str, ...], address: str, has_run: bool
) -> bytes:
    """The fields of a status. `has_run`: the kubelet, not the creation, has set the phase."""
    fields: Json = {f"f:{name}": {} for name in others if name != "phase" or has_run}
    if address:
        fields["f:podIPs"] = {".": {}, f'k:{{"ip":"{address}"}}': {".": {}, "f:ip": {}}}
    fields["f:conditions"] = {
        f'k:{{"type":"{kind}"}}': _condition(has_message, has_reason) for kind, has_message, has_reason in conditions
    }
    return to_json({"f:status": dict(sorted(fields.items()))})


def _condition(has_message: bool, has_reason: bool) -> Json:
    optional = {"message": has_message, "reason": has_reason}
    names = ("lastProbeTime", "lastTransitionTime", "message", "reason", "status", "type")
    return {".": {}, **{f"f:{name}": {} for name in names if optional.get(name, True)}}


def _object(first: str, members: Sequence[str]) -> str:
    return f"{{{first}{','.join(members)}}}"


def _fields(value: Json, first: str = "") -> str:
    """JSON text: the fields below an object, after `first`."""
    if _LEAVES.issuperset(map(type, value.values())):
        return _leaves(tuple(value), first)
    fields = [f"{_key('f:', name)}:{_owned(name, value[name])}" for name in sorted(value)]
    return _object(first, fields)


def _owned(name: str, value: Any) -> str:
    """JSON text: what is owned below one field."""
    if not value or not isinstance(value, (dict, list)):
        return "{}"
    if isinstance(value, dict):
        return "{}" if name in _ATOMIC else _fields(value, _ITSELF)
    keys = _KEYS.get(name)
    if keys is None or not all(isinstance(item, dict) for item in value):
        return "{}"
    items = [f"{_item(keys, item)}:{_fields(item, _ITSELF)}" for item in value]
    return _object("" if name == "containers" else _ITSELF, items)


def _item(keys: tuple[str, ...], item: Json) -> str:
    """JSON text: the key of one item of a list."""
    return _key("k:", to_json({key: item.get(key) for key in keys}).decode("ascii"))


@lru_cache(maxsize=4096)
def _leaves(names: tuple[str, ...], first: str) -> str:
    return _object(first, [f"{_key('f:', name)}:{{}}" for name in sorted(names)])


@lru_cache(maxsize=4096)
def _key(prefix: str, name: str) -> str:
    return to_json(prefix + name).decode("ascii")
