"""Pure: the checks of a real API server on names, labels, pods, and changes of a pod's spec.

A value of the wrong JSON type is 400, because it cannot be decoded. An invalid value is 422, with one cause per field.
"""

from __future__ import annotations

import re
from typing import Any

from podrelay_local_cluster.objects.errors import (
    FieldError,
    bad_request,
    duplicate_value,
    forbidden_value,
    invalid,
    invalid_value,
    required,
    too_long,
    unsupported_value,
)
from podrelay_local_cluster.objects.json_text import Json
from podrelay_local_cluster.objects.names import (
    LABEL,
    LABEL_RULE,
    LABEL_VALUE,
    LABEL_VALUE_RULE,
    MAX_LABEL,
    MAX_NAME,
    SUBDOMAIN,
    SUBDOMAIN_RULE,
    qualified_name,
)
from podrelay_local_cluster.objects.pod_parts import (
    check_env_from,
    check_env_source,
    check_mounts,
    check_tolerations,
    check_volumes,
)
from podrelay_local_cluster.objects.pod_resources import check_resources
from podrelay_local_cluster.objects.quantity import is_quantity

_ENV_NAME = re.compile(r"[ -<>-~]+")
_MAX_ANNOTATIONS_BYTES = 256 * 1024
_FINALIZERS = ("orphan", "foregroundDeletion", "kubernetes")
_DNS_POLICIES = ("ClusterFirstWithHostNet", "ClusterFirst", "Default", "None")


def check_metadata(resource: str, metadata: Json) -> list[FieldError]:
    """Check name, labels and annotations. Raises `StatusError` 400 for a wrong type."""
    errors = _name(resource, metadata.get("name"))
    labels = _string_map(metadata, "labels")
    for key, value in labels.items():
        errors += qualified_name("metadata.labels", key)
        if len(value) > MAX_LABEL:
            errors.append(invalid_value("metadata.labels", value, f"must be no more than {MAX_LABEL} characters"))
        elif not LABEL_VALUE.fullmatch(value):
            errors.append(invalid_value("metadata.labels", value, LABEL_VALUE_RULE))
    for index, finalizer in enumerate(metadata.get("finalizers") or []):
        errors += qualified_name("metadata.finalizers", finalizer)
        if "/" not in finalizer and finalizer not in _FINALIZERS:
            rule = "name is neither a standard finalizer name nor is it fully qualified"
            errors.append(invalid_value(f"metadata.finalizers[{index}]", finalizer, rule))
    errors += _owners(metadata)
    annotations = _string_map(metadata, "annotations")
    for key in annotations:
        errors += qualified_name("metadata.annotations", key.lower())
    if sum(len(key.encode()) + len(value.encode()) for key, value in annotations.items()) > _MAX_ANNOTATIONS_BYTES:
        errors.append(too_long("metadata.annotations", _MAX_ANNOTATIONS_BYTES))
    return errors


def _name(resource: str, name: object) -> list[FieldError]:
    if not name:
        return [required("metadata.name", "name or generateName is required")]
    if not isinstance(name, str):
        raise bad_request("metadata.name must be a string")
    limit, pattern, rule = (MAX_NAME, SUBDOMAIN, SUBDOMAIN_RULE)
    if resource == "namespaces":
        limit, pattern, rule = (MAX_LABEL, LABEL, LABEL_RULE)
    if len(name) > limit:
        return [invalid_value("metadata.name", name, f"must be no more than {limit} characters")]
    return [] if pattern.fullmatch(name) else [invalid_value("metadata.name", name, rule)]


def _owners(metadata: Json) -> list[FieldError]:
    owners = metadata.get("ownerReferences") or []
    if not isinstance(owners, list) or not all(isinstance(owner, dict) for owner in owners):
        raise bad_request("ownerReferences must be a list of objects")
    names = {"apiVersion": "version", "kind": "kind", "name": "name", "uid": "uid"}
    for owner in owners:
        if not all(isinstance(owner.get(field, ""), str) for field in names):
            raise bad_request("the fields of an owner reference must be strings")
    return [
        invalid_value(f"metadata.ownerReferences.{field}", "", f"{name} must not be empty")
        for owner in owners
        for field, name in names.items()
        if not owner.get(field)
    ]


def _string_map(parent: Json, field: str) -> dict[str, str]:
    values = parent.get(field) or {}
    if not isinstance(values, dict) or not all(isinstance(value, str) for value in values.values()):
        raise bad_request(f"{field} must be an object whose values are strings")
    return values


def check_pod(pod: Json) -> None:
    """Raises `StatusError` 422 with every cause found, or 400 for a wrong JSON type."""
    spec = pod.get("spec") or {}
    _check_types(spec)
    errors = check_metadata("pods", pod["metadata"])
    errors += _check_containers(spec)
    if spec.get("restartPolicy") is not None and spec["restartPolicy"] not in ("Always", "OnFailure", "Never"):
        errors.append(unsupported_value("spec.restartPolicy", spec["restartPolicy"], ("Always", "OnFailure", "Never")))
    grace_s = spec.get("terminationGracePeriodSeconds")
    if grace_s is not None and grace_s < 0:
        errors.append(
            invalid_value("spec.terminationGracePeriodSeconds", grace_s, "must be greater than or equal to 0")
        )
    deadline_s = spec.get("activeDeadlineSeconds")
    if deadline_s is not None and not 1 <= deadline_s <= 2**31 - 1:
        errors.append(
            invalid_value("spec.activeDeadlineSeconds", deadline_s, "must be between 1 and 2147483647, inclusive")
        )
    errors += check_volumes(spec.get("volumes") or [])
    errors += check_tolerations(spec.get("tolerations") or [])
    errors += _check_dns(spec)
    for key, value in (spec.get("nodeSelector") or {}).items():
        errors += qualified_name("spec.nodeSelector", key)
        if len(value) > MAX_LABEL or not LABEL_VALUE.fullmatch(value):
            errors.append(invalid_value("spec.nodeSelector", value, LABEL_VALUE_RULE))
    if errors:
        raise invalid("pods", pod["metadata"].get("name") or "", errors)


def _check_dns(spec: Json) -> list[FieldError]:
    errors: list[FieldError] = []
    policy, hostname = spec.get("dnsPolicy"), spec.get("hostname")
    if policy and policy not in _DNS_POLICIES:
        errors.append(unsupported_value("spec.dnsPolicy", policy, _DNS_POLICIES))
    elif policy == "None" and not spec.get("dnsConfig"):
        errors.append(required("spec.dnsConfig", "must provide `dnsConfig` when `dnsPolicy` is None"))
    if hostname and len(hostname) > MAX_LABEL:
        errors.append(invalid_value("spec.hostname", hostname, f"must be no more than {MAX_LABEL} characters"))
    elif hostname and not LABEL.fullmatch(hostname):
        errors.append(invalid_value("spec.hostname", hostname, LABEL_RULE))
    return errors


def _check_types(spec: Json) -> None:
    _check_lists(spec, ("containers", "initContainers", "volumes", "tolerations"))
    for field in ("terminationGracePeriodSeconds", "activeDeadlineSeconds"):
        value = spec.get(field)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
            raise bad_request(f"spec.{field} must be an integer")
    for field in ("dnsPolicy", "hostname"):
        if not isinstance(spec.get(field) or "", str):
            raise bad_request(f"spec.{field} must be a string")
    _string_map(spec, "nodeSelector")
    for container in (spec.get("containers") or []) + (spec.get("initContainers") or []):
        _check_container_types(container)


def _check_lists(parent: Json, fields: tuple[str, ...]) -> None:
    for field in fields:
        items = parent.get(field) or []
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise bad_request(f"{field} must be a list of objects")


def _check_container_types(container: Json) -> None:
    for field in ("command", "args"):
        words = container.get(field) or []
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise bad_request(f"{field} of a container must be a list of strings")
    for field in ("image", "name", "workingDir"):
        if not isinstance(container.get(field) or "", str):
            raise bad_request(f"{field} of a container must be a string")
    _check_lists(container, ("volumeMounts", "envFrom"))
    for item in container.get("env") or []:
        if not isinstance(item, dict) or not isinstance(item.get("value") or "", str):
            raise bad_request("env of a container must be a list of objects whose values are strings")
        divisor = ((item.get("valueFrom") or {}).get("resourceFieldRef") or {}).get("divisor")
        if not is_quantity(divisor):
            raise bad_request("resourceFieldRef.divisor: quantities must match the regular expression of a quantity")
    resources = container.get("resources") or {}
    for kind in ("requests", "limits"):
        for name, quantity in (resources.get(kind) or {}).items():
            if not is_quantity(quantity):
                raise bad_request(
                    f"resources.{kind}.{name}: quantities must match the regular expression of a quantity"
                )


def _check_containers(spec: Json) -> list[FieldError]:
    errors: list[FieldError] = []
    if not spec.get("containers"):
        errors.append(required("spec.containers"))
    names: set[str] = set()
    volumes = {volume.get("name") for volume in spec.get("volumes") or []}
    for field in ("containers", "initContainers"):
        for index, container in enumerate(spec.get(field) or []):
            path = f"spec.{field}[{index}]"
            errors += _check_container(path, container, names, volumes)
            if field == "containers" and container.get("restartPolicy"):
                errors.append(forbidden_value(f"{path}.restartPolicy", "may not be set for non-init containers"))
    return errors


def _check_container(path: str, container: Json, names: set[str], volumes: set[Any]) -> list[FieldError]:
    errors: list[FieldError] = []
    name = container.get("name")
    if not name:
        errors.append(required(f"{path}.name"))
    elif len(name) > MAX_LABEL or not LABEL.fullmatch(name):
        errors.append(invalid_value(f"{path}.name", name, LABEL_RULE))
    elif name in names:
        errors.append(duplicate_value(f"{path}.name", name))
    else:
        names.add(name)
    image = container.get("image")
    if not image:
        errors.append(required(f"{path}.image"))
    elif image != image.strip():
        errors.append(invalid_value(f"{path}.image", image, "must not have leading or trailing whitespace"))
    policy = container.get("imagePullPolicy")
    if policy is not None and policy not in ("Always", "IfNotPresent", "Never"):
        errors.append(unsupported_value(f"{path}.imagePullPolicy", policy, ("Always", "IfNotPresent", "Never")))
    errors += check_mounts(f"{path}.volumeMounts", container.get("volumeMounts") or [], volumes)
    errors += check_env_from(f"{path}.envFrom", container.get("envFrom") or [])
    for index, item in enumerate(container.get("env") or []):
        errors += _check_env(f"{path}.env[{index}]", item)
    errors += check_resources(f"{path}.resources", container.get("resources") or {})
    return errors


def _check_env(path: str, item: Json) -> list[FieldError]:
    if not item.get("name"):
        return [required(f"{path}.name")]
    if not _ENV_NAME.fullmatch(item["name"]):
        rule = "a valid environment variable name must consist only of printable ASCII characters other than '='"
        return [invalid_value(f"{path}.name", item["name"], rule)]
    if item.get("value") and item.get("valueFrom"):
        return [invalid_value(f"{path}.valueFrom", "", "may not be specified when `value` is not empty")]
    if item.get("valueFrom") is not None:
        return list(check_env_source(f"{path}.valueFrom", item["valueFrom"]))
    return []


_CONTAINER_FIELDS = ("containers", "initContainers")
_SPEC_RULE = (
    "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"
    "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),"
    "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
)


def check_pod_update(old: Json, new: Json) -> None:
    """Allow new images, a shorter active deadline and more tolerations, nothing else. Raises `StatusError` 422."""
    before, after = old["spec"], new.get("spec") or {}
    if before is after or before == after:
        return
    check_pod(new)
    errors: list[FieldError] = []
    if _frozen_part(before) != _frozen_part(after):
        errors.append(forbidden_value("spec", _SPEC_RULE))
    old_s, new_s = before.get("activeDeadlineSeconds"), after.get("activeDeadlineSeconds")
    if old_s is not None and (new_s is None or new_s > old_s):
        errors.append(
            invalid_value("spec.activeDeadlineSeconds", new_s, "must be less than or equal to previous value")
        )
    kept = after.get("tolerations") or []
    if any(toleration not in kept for toleration in before.get("tolerations") or []):
        errors.append(
            forbidden_value("spec.tolerations", "existing toleration can not be modified except its tolerationSeconds")
        )
    if errors:
        raise invalid("pods", old["metadata"]["name"], errors)


def _frozen_part(spec: Json) -> Json:
    frozen = {key: value for key, value in spec.items() if key not in ("activeDeadlineSeconds", "tolerations")}
    for field in _CONTAINER_FIELDS:
        if field in frozen:
            frozen[field] = [{**container, "image": ""} for container in frozen[field]]
    return frozen
