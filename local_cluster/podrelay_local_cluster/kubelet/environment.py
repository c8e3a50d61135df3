"""Pure: the environment and the command line of a container ("Define Environment Variables", "Define a Command").

`$(NAME)` is replaced by a variable defined before it, `$$(NAME)` by the text `$(NAME)`. An undefined name is not replaced.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from podrelay_local_cluster.objects.json_text import Json
from podrelay_local_cluster.objects.quantity import amount

Lookup = Callable[[str, str], Json | None]
"""(resource, name) -> that object of the pod's namespace, or None."""

_REFERENCE = re.compile(r"\$\$|\$\(([^()]*)\)")
_SUBSCRIPT = re.compile(r"metadata\.(labels|annotations)\['([^']*)'\]")

# The field of a volume, the resource that it shows, and the field that names it.
_VOLUME_SOURCES = (("secret", "secrets", "secretName"), ("configMap", "configmaps", "name"))


class MissingReference(Exception):
    """A Secret, ConfigMap or key that the container needs does not exist. The text is that of the kubelet."""


def expand(text: str, variables: Mapping[str, str]) -> str:
    if "$" not in text:
        return text

    def replace(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        return variables.get(match[1], match[0])

    return _REFERENCE.sub(replace, text)


def command_line(container: Json, variables: Mapping[str, str]) -> list[str]:
    """Command and arguments, expanded; empty when the spec leaves both to the image."""
    words = (container.get("command") or []) + (container.get("args") or [])
    return [expand(word, variables) for word in words]


def variables(container: Json, pod: Json, lookup: Lookup) -> dict[str, str]:
    """The variables that the container's spec defines. Raises `MissingReference`."""
    values: dict[str, str] = {}
    for source in container.get("envFrom") or []:
        values.update(_env_from(source, lookup))
    for item in container.get("env") or []:
        if item.get("valueFrom"):
            value = _value_from(item["valueFrom"], container, pod, lookup)
            if value is not None:
                values[item["name"]] = value
        else:
            values[item["name"]] = expand(item.get("value") or "", values)
    return values


def missing_volume_source(spec: Json, lookup: Lookup) -> str:
    """Why a volume of the pod cannot be mounted yet; empty when all of them can."""
    for volume in spec.get("volumes") or []:
        for field, resource, key in _VOLUME_SOURCES:
            source = volume.get(field)
            if source and not source.get("optional") and lookup(resource, source.get(key, "")) is None:
                kind = "secret" if resource == "secrets" else "configmap"
                return (
                    f'MountVolume.SetUp failed for volume "{volume["name"]}" : {kind} "{source.get(key, "")}" not found'
                )
    return ""


def volume_data(volume: Json, lookup: Lookup) -> dict[str, bytes] | None:
    """The files of a Secret or ConfigMap volume by path; None for any other volume."""
    for field, resource, key in _VOLUME_SOURCES:
        source = volume.get(field)
        if source:
            found = lookup(resource, source.get(key, "")) or {}
            data = {name: value.encode() for name, value in (found.get("data") or {}).items()}
            if resource == "secrets":
                data = {name: base64.b64decode(value) for name, value in data.items()}
            binary = (found.get("binaryData") or {}).items()
            data |= {name: base64.b64decode(value) for name, value in binary}
            items = {item.get("key"): item.get("path") for item in source.get("items") or []}
            return {items[name]: value for name, value in data.items() if name in items} if items else data
    return None


def _env_from(source: Json, lookup: Lookup) -> dict[str, str]:
    prefix = source.get("prefix") or ""
    for field, resource in (("configMapRef", "configmaps"), ("secretRef", "secrets")):
        reference = source.get(field)
        if reference:
            data = _data(resource, reference, lookup)
            return {prefix + key: value for key, value in data.items()}
    return {}


def _data(resource: str, reference: Json, lookup: Lookup) -> dict[str, str]:
    """The data of a Secret or ConfigMap; empty for a missing optional object. Raises `MissingReference`."""
    name = reference.get("name", "")
    found = lookup(resource, name)
    if found is None:
        if reference.get("optional"):
            return {}
        raise MissingReference(f'{"secret" if resource == "secrets" else "configmap"} "{name}" not found')
    data = dict(found.get("data") or {})
    if resource == "configmaps":
        return data
    return {key: base64.b64decode(value).decode("utf-8", "replace") for key, value in data.items()}


def _value_from(source: Json, container: Json, pod: Json, lookup: Lookup) -> str | None:
    if source.get("fieldRef"):
        return field_value(pod, source["fieldRef"]["fieldPath"])
    if source.get("resourceFieldRef"):
        return _resource_value(source["resourceFieldRef"], container)
    for field, resource, kind in (
        ("secretKeyRef", "secrets", "Secret"),
        ("configMapKeyRef", "configmaps", "ConfigMap"),
    ):
        reference = source.get(field)
        if not reference:
            continue
        data = _data(resource, reference, lookup)
        if reference["key"] in data:
            return data[reference["key"]]
        if reference.get("optional"):
            return None
        place = f"{pod['metadata']['namespace']}/{reference.get('name', '')}"
        raise MissingReference(f"couldn't find key {reference['key']} in {kind} {place}")
    return None


def field_value(pod: Json, path: str) -> str:
    """A field of the downward API; empty when it is not set."""
    subscript = _SUBSCRIPT.fullmatch(path)
    if subscript:
        return (pod["metadata"].get(subscript[1]) or {}).get(subscript[2], "")
    if path in ("status.podIPs", "status.hostIPs"):
        return ",".join(item["ip"] for item in (pod.get("status") or {}).get(path.partition(".")[2]) or [])
    value: Any = pod
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return "" if value is None else str(value)


def _resource_value(reference: Json, container: Json) -> str:
    kind, _, name = reference.get("resource", "").partition(".")
    quantity = ((container.get("resources") or {}).get(kind) or {}).get(name, "0")
    return str(math.ceil(amount(quantity) / (amount(reference.get("divisor") or "1") or 1)))
