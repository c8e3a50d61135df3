"""Pure: what a typed server makes of null in a body: an empty string in a map or list of strings, an empty object in a list.

On a real API server this follows from decoding JSON into typed fields. A null that a merge patch removes never gets here.
"""

from __future__ import annotations

from typing import Any

from podrelay_local_cluster.objects.json_text import Json

_STRINGS = {
    "metadata": ("labels", "annotations", "finalizers"),
    "spec": ("nodeSelector",),
    "": ("data", "binaryData", "stringData"),
}
_CONTAINER_LISTS = ("containers", "initContainers")


def without_nulls(body: Json) -> Json:
    """The body as decoded. Parts without such a null are the same objects as before."""
    decoded = _with_strings(body, _STRINGS[""])
    for part in ("metadata", "spec"):
        if isinstance(body.get(part), dict):
            decoded = _changed(decoded, part, _with_strings(body[part], _STRINGS[part]))
    if isinstance(decoded.get("spec"), dict):
        decoded = _changed(decoded, "spec", _pod_spec(decoded["spec"]))
    return decoded


def _pod_spec(spec: Json) -> Json:
    for field in _CONTAINER_LISTS:
        containers = spec.get(field)
        if isinstance(containers, list):
            spec = _changed(spec, field, _items([_container(item) for item in _items(containers, {})], {}, containers))
    return spec


def _container(container: Any) -> Any:
    if not isinstance(container, dict):
        return container
    container = _with_strings(container, ("command", "args"))
    if isinstance(container.get("env"), list):
        container = _changed(container, "env", _items(container["env"], {}))
    return container


def _with_strings(parent: Json, fields: tuple[str, ...]) -> Json:
    for field in fields:
        value = parent.get(field)
        if isinstance(value, dict) and None in value.values():
            parent = {**parent, field: {key: "" if item is None else item for key, item in value.items()}}
        elif isinstance(value, list):
            parent = _changed(parent, field, _items(value, ""))
    return parent


def _items(values: list[Any], empty: object, before: list[Any] | None = None) -> list[Any]:
    """The list with `empty` for null; the list `before` (or the one given) itself when nothing differs."""
    before = values if before is None else before
    decoded = [empty if value is None else value for value in values]
    same = len(before) == len(decoded) and all(old is new for old, new in zip(before, decoded, strict=True))
    return before if same else decoded


def _changed(parent: Json, field: str, value: Any) -> Json:
    return parent if value is parent[field] else {**parent, field: value}
