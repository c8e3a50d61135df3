"""Pure: JSON merge patch (RFC 7396), JSON patch (RFC 6902) and strategic merge patch (API conventions, "Patch operations").

No function changes its arguments. The result shares with the original everything that the patch does not touch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from podrelay_local_cluster.objects.decoding import decoded
from podrelay_local_cluster.objects.errors import StatusError, bad_request
from podrelay_local_cluster.objects.json_text import Json

MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
JSON_PATCH = "application/json-patch+json"

# Lists that a strategic merge patch merges by a key of their items (patchStrategy=merge in the types of the core group);
# every other list is replaced as a whole.
_MERGE_KEYS = {
    "conditions": "type",
    "containers": "name",
    "env": "name",
    "ephemeralContainers": "name",
    "hostAliases": "ip",
    "hostIPs": "ip",
    "imagePullSecrets": "name",
    "initContainers": "name",
    "ownerReferences": "uid",
    "podIPs": "ip",
    "ports": "containerPort",
    "resourceClaims": "name",
    "schedulingGates": "name",
    "topologySpreadConstraints": "topologyKey",
    "volumeDevices": "devicePath",
    "volumeMounts": "mountPath",
    "volumes": "name",
}
_MERGED_SETS = frozenset({"finalizers"})
_OPERATION_LIST = [{"op": str, "path": str, "from": str}]


def apply(content_type: str, original: Json, patch: Any) -> Json:
    """Apply `patch` by the rules of its media type. Raises `StatusError` 400 for a malformed patch, 422 for a failing one."""
    if content_type == JSON_PATCH:
        return json_patch(original, patch)
    if not isinstance(patch, dict):
        raise bad_request("a merge patch must be a JSON object")
    return merge_patch(original, patch) if content_type == MERGE else strategic_merge_patch(original, patch)


def merge_patch(original: Any, patch: Any) -> Any:
    """RFC 7396: null removes, objects are merged, everything else is replaced."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(original) if isinstance(original, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge_patch(merged.get(key), value)
    return merged


def strategic_merge_patch(original: Json, patch: Json) -> Json:
    """A merge patch that merges lists with a merge key item by item and follows `$patch` directives."""
    directive = patch.get("$patch")
    if directive == "replace":
        return {key: value for key, value in patch.items() if key != "$patch"}
    if directive == "delete":
        return {}
    merged = dict(original)
    for key, value in patch.items():
        if key.startswith("$deleteFromPrimitiveList/"):
            field = key.partition("/")[2]
            merged[field] = [item for item in merged.get(field) or [] if item not in value]
        elif key.startswith("$"):
            continue  # hints on order and on retained keys: this server needs neither
        elif value is None:
            merged.pop(key, None)
        elif isinstance(value, dict):
            current = merged.get(key)
            merged[key] = strategic_merge_patch(current if isinstance(current, dict) else {}, value)
        elif isinstance(value, list):
            merged[key] = _merge_list(key, merged.get(key) or [], value)
        else:
            merged[key] = value
    return merged


def _merge_list(field: str, original: list[Any], patch: list[Any]) -> list[Any]:
    if field in _MERGED_SETS:
        return original + [item for item in patch if item not in original]
    merge_key = _MERGE_KEYS.get(field)
    if merge_key is None or not all(isinstance(item, dict) for item in patch):
        return patch
    if any(item.get("$patch") == "replace" for item in patch):
        return [item for item in patch if "$patch" not in item]
    merged = list(original)
    for item in patch:
        if merge_key not in item:
            raise bad_request(f"map: {item} does not contain declared merge key: {merge_key}")
        place = next((i for i, old in enumerate(merged) if old.get(merge_key) == item[merge_key]), None)
        if item.get("$patch") == "delete":
            merged = [old for old in merged if old.get(merge_key) != item[merge_key]]
        elif place is None:
            merged.append(strategic_merge_patch({}, item))
        else:
            merged[place] = strategic_merge_patch(merged[place], item)
    return merged


def json_patch(original: Json, operations: Any) -> Json:
    """RFC 6902. A failing ``test`` or a missing path is `StatusError` 422, as on a real API server."""
    document: Any = copy.deepcopy(original)
    for operation in decoded(operations, _OPERATION_LIST, "patch") or []:
        apply_one = _OPERATIONS.get(operation.get("op") or "")
        if apply_one is None or operation.get("path") is None:
            raise bad_request(f"not a JSON patch operation: {operation}")
        try:
            document = apply_one(document, operation)
        except (KeyError, IndexError, ValueError, TypeError, AttributeError) as exc:
            text = f"the server rejected our request due to an error in our request: {operation['path']}: {exc!r}"
            raise StatusError(422, "Invalid", text) from exc
    if not isinstance(document, dict):
        raise bad_request("the patched document is no object")
    return document


def _pointer(path: str) -> list[str]:
    if path and not path.startswith("/"):
        raise ValueError("a JSON pointer starts with /")
    return [part.replace("~1", "/").replace("~0", "~") for part in path.split("/")[1:]]


def _parent(document: Any, path: str) -> tuple[Any, str]:
    *parents, last = _pointer(path)
    for part in parents:
        document = document[int(part)] if isinstance(document, list) else document[part]
    return document, last


def _value_at(document: Any, path: str) -> Any:
    if not path:
        return document
    parent, last = _parent(document, path)
    return parent[int(last)] if isinstance(parent, list) else parent[last]


def _set(document: Any, path: str, value: Any) -> Any:
    if not path:
        return value
    parent, last = _parent(document, path)
    if not isinstance(parent, list):
        parent[last] = value
    elif last == "-":
        parent.append(value)
    elif 0 <= int(last) <= len(parent):
        parent.insert(int(last), value)
    else:
        raise IndexError(last)
    return document


def _add(document: Any, operation: Mapping[str, Any]) -> Any:
    return _set(document, operation["path"], copy.deepcopy(operation["value"]))


def _remove(document: Any, operation: Mapping[str, Any]) -> Any:
    parent, last = _parent(document, operation["path"])
    del parent[int(last) if isinstance(parent, list) else last]
    return document


def _replace(document: Any, operation: Mapping[str, Any]) -> Any:
    _value_at(document, operation["path"])
    parent, last = _parent(document, operation["path"])
    parent[int(last) if isinstance(parent, list) else last] = copy.deepcopy(operation["value"])
    return document


def _move(document: Any, operation: Mapping[str, Any]) -> Any:
    value = _value_at(document, operation["from"])
    return _set(_remove(document, {"path": operation["from"]}), operation["path"], value)


def _copy(document: Any, operation: Mapping[str, Any]) -> Any:
    return _set(document, operation["path"], copy.deepcopy(_value_at(document, operation["from"])))


def _test(document: Any, operation: Mapping[str, Any]) -> Any:
    if _value_at(document, operation["path"]) != operation["value"]:
        raise ValueError("testing value failed")
    return document


_OPERATIONS: dict[str, Callable[[Any, Mapping[str, Any]], Any]] = {
    "add": _add,
    "remove": _remove,
    "replace": _replace,
    "move": _move,
    "copy": _copy,
    "test": _test,
}
