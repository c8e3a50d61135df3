"""Pure: the checks of a real API server on the volumes, environment sources and tolerations of a pod."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from podrelay_local_cluster.objects.errors import (
    FieldError,
    duplicate_value,
    forbidden_value,
    invalid_value,
    not_found_value,
    required,
    unsupported_value,
)
from podrelay_local_cluster.objects.json_text import Json
from podrelay_local_cluster.objects.names import LABEL, LABEL_RULE, SUBDOMAIN, SUBDOMAIN_RULE, qualified_name

# The field that names what a volume shows, by the kind of volume.
_SOURCE_NAMES = {"secret": "secretName", "configMap": "name", "persistentVolumeClaim": "claimName"}
_ENV_SOURCES = ("fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef")
_KEY_SOURCES = ("configMapKeyRef", "secretKeyRef")
_LIST_SOURCES = ("configMapRef", "secretRef")
_FIELDS = (
    "metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName",
    "status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs",
)  # fmt: skip
# Known to the server, but no value of a variable.
_OTHER_FIELDS = ("metadata.annotations", "metadata.labels", "spec.restartPolicy", "spec.schedulerName", "status.phase")
_SUBSCRIPT = re.compile(r"metadata\.(?:labels|annotations)\['.*'\]")
_OPERATORS, _EFFECTS = ("Equal", "Exists"), ("NoSchedule", "PreferNoSchedule", "NoExecute")


def check_volumes(volumes: Sequence[Json]) -> Iterator[FieldError]:
    names: set[str] = set()
    for index, volume in enumerate(volumes):
        path, name = f"spec.volumes[{index}]", volume.get("name")
        if not name:
            yield required(f"{path}.name")
        elif name in names:
            yield duplicate_value(f"{path}.name", name)
        elif not LABEL.fullmatch(name):
            yield invalid_value(f"{path}.name", name, LABEL_RULE)
        names.add(name or "")
        sources = [kind for kind, source in volume.items() if kind != "name" and source is not None]
        for kind in sources[1:]:
            yield forbidden_value(f"{path}.{kind}", "may not specify more than 1 volume type")
        for kind in sources[:1]:
            field = _SOURCE_NAMES.get(kind)
            if field and not volume[kind].get(field):
                yield required(f"{path}.{kind}.{field}")


def check_mounts(path: str, mounts: Sequence[Json], volumes: set[Any]) -> Iterator[FieldError]:
    taken: set[str] = set()
    for index, mount in enumerate(mounts):
        if mount.get("name") not in volumes:
            yield not_found_value(f"{path}[{index}].name", mount.get("name"))
        target = mount.get("mountPath")
        if not target:
            yield required(f"{path}[{index}].mountPath")
        elif target in taken:
            yield invalid_value(f"{path}[{index}].mountPath", target, "must be unique")
        taken.add(target or "")


def check_env_source(path: str, source: Json) -> Iterator[FieldError]:
    """Check `valueFrom` of a variable."""
    given = [kind for kind in _ENV_SOURCES if source.get(kind) is not None]
    if not given:
        *others, last = (f"`{kind}`" for kind in _ENV_SOURCES)
        yield invalid_value(path, "", f"must specify one of: {', '.join(others)} or {last}")
    elif len(given) > 1:
        yield invalid_value(path, "", "may not have more than one field specified at a time")
    if "fieldRef" in given:
        yield from _field(f"{path}.fieldRef.fieldPath", source["fieldRef"].get("fieldPath"))
    for kind in (kind for kind in given if kind in _KEY_SOURCES):
        if not SUBDOMAIN.fullmatch(source[kind].get("name") or ""):
            yield invalid_value(f"{path}.{kind}.name", source[kind].get("name") or "", SUBDOMAIN_RULE)
        if not source[kind].get("key"):
            yield required(f"{path}.{kind}.key")


def _field(path: str, field: str | None) -> Iterator[FieldError]:
    if not field:
        yield required(path)
    elif field in _OTHER_FIELDS:
        yield unsupported_value(path, field, _FIELDS)
    elif field not in _FIELDS and not _SUBSCRIPT.fullmatch(field):
        yield invalid_value(path, field, f"error converting fieldPath: field label not supported: {field}")


def check_env_from(path: str, sources: Sequence[Json]) -> Iterator[FieldError]:
    for index, source in enumerate(sources):
        given = [kind for kind in _LIST_SOURCES if source.get(kind) is not None]
        if not given:
            yield invalid_value(path, "", "must specify one of: `configMapRef` or `secretRef`")
        elif len(given) > 1:
            yield invalid_value(path, "", "may not have more than one field specified at a time")
        for kind in given:
            if not source[kind].get("name"):
                yield required(f"{path}[{index}].{kind}.name")


def check_tolerations(tolerations: Sequence[Json]) -> Iterator[FieldError]:
    for index, toleration in enumerate(tolerations):
        path, key = f"spec.tolerations[{index}]", toleration.get("key")
        operator, effect = toleration.get("operator") or "Equal", toleration.get("effect")
        if key:
            yield from qualified_name(f"{path}.key", key)
        elif operator != "Exists":
            rule = 'operator must be Exists when `key` is empty, which means "match all values and all keys"'
            yield invalid_value(f"{path}.operator", operator, rule)
        if operator not in _OPERATORS:
            yield unsupported_value(f"{path}.operator", operator, _OPERATORS)
        elif operator == "Exists" and toleration.get("value"):
            rule = "value must be empty when `operator` is 'Exists'"
            yield invalid_value(f"{path}.operator", toleration["value"], rule)
        if effect and effect not in _EFFECTS:
            yield unsupported_value(f"{path}.effect", effect, _EFFECTS)
        elif toleration.get("tolerationSeconds") is not None and effect != "NoExecute":
            rule = "effect must be 'NoExecute' when `tolerationSeconds` is set"
            yield invalid_value(f"{path}.effect", effect or "", rule)
