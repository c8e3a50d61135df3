"""Pure: the checks of a real API server on names, labels, pods, and changes of a pod's spec.

`decoding` has refused values of a wrong JSON type. An invalid value is 422, with one cause per field.
"""

from __future__ import annotations

import re
from typing import Any

from podrelay_local_cluster.objects.errors import (
    FieldError,
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

_ENV_NAME = re.compile(r"[ -<>-~]+")
_MAX_ANNOTATIONS_BYTES = 256 * 1024
_FINALIZERS = ("orphan", "foregroundDeletion", "kubernetes")
_DNS_POLICIES = ("ClusterFirstWithHostNet", "ClusterFirst", "Default", "None")


def check_metadata(resource: str, metadata: Json) -> list[FieldError]:
    """Check name, labels and annotations."""
    errors = _name(resource, metadata.get("name"))
    labels = metadata.get("labels") or {}
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
    annotations = metadata.get("annotations") or {}
    for key in annotations:
        errors += qualified_name("metadata.annotations", key.lower())
    if sum(len(key.encode()) + len(value.encode()) for key, value in annotations.items()) > _MAX_ANNOTATIONS_BYTES:
        errors.append(too_long("metadata.annotations", _MAX_ANNOTATIONS_BYTES))
    return errors


def _name(resource: str, name: str | None) -> list[FieldError]:
    if not name:
        return [required("metadata.name", "name or generateName is required")]
    limit, pattern, rule = (MAX_NAME, SUBDOMAIN, SUBDOMAIN_RULE)
    if resource == "namespaces":
        limit, pattern, rule = (MAX_LABEL, LABEL, LABEL_RULE)
    if len(name) > limit:
        return [invalid_value("metadata.name", name, f"must be no more than {limit} characters")]
    return [] if pattern.fullmatch(name) else [invalid_value("metadata.name", name, rule)]


def _owners(metadata: Json) -> list[FieldError]:
    names = {"apiVersion": "version", "kind": "kind", "name": "name", "uid": "uid"}
    return [
        invalid_value(f"metadata.ownerReferences.{field}", "", f"{name} must not be empty")
        for owner in metadata.get("ownerReferences") or []
        for field, name in names.items()
        if not owner.get(field)
    ]


def check_pod(pod: Json) -> None:
    """Raises `StatusError` 422 with every cause found."""
    spec = pod.get("spec") or {}
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
