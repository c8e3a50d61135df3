"""The JSON types of what clients send, as `decoding` applies them: everything behind it may rely on them.

A field that is not named here may hold anything, because nothing reads it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Quantity:
    """A quantity of a resource, as text or number."""


@dataclass(frozen=True)
class Each:
    """An object with values of this schema under any name."""

    values: Any


QUANTITY = Quantity()
_TEXTS = Each(str)

# A schema: a type, a list of one schema, a dict of fields, `Each`, or `QUANTITY`. Any value may be null.
_METADATA = {
    "name": str, "generateName": str, "namespace": str, "uid": str, "resourceVersion": str, "creationTimestamp": str,
    "deletionTimestamp": str, "deletionGracePeriodSeconds": int, "labels": _TEXTS, "annotations": _TEXTS,
    "finalizers": [str], "ownerReferences": [{"apiVersion": str, "kind": str, "name": str, "uid": str}],
}  # fmt: skip
_REFERENCE = {"name": str, "key": str, "optional": bool}
_CONTAINER = {
    "name": str, "image": str, "command": [str], "args": [str], "workingDir": str, "imagePullPolicy": str,
    "restartPolicy": str, "terminationMessagePath": str, "terminationMessagePolicy": str,
    "env": [
        {
            "name": str, "value": str,
            "valueFrom": {
                "fieldRef": {"fieldPath": str}, "secretKeyRef": _REFERENCE, "configMapKeyRef": _REFERENCE,
                "resourceFieldRef": {"resource": str, "containerName": str, "divisor": QUANTITY}, "fileKeyRef": {},
            },
        }
    ],
    "envFrom": [{"prefix": str, "configMapRef": _REFERENCE, "secretRef": _REFERENCE}],
    "resources": {"requests": Each(QUANTITY), "limits": Each(QUANTITY)},
    "volumeMounts": [{"name": str, "mountPath": str}],
}  # fmt: skip
_POD_SPEC = {
    "containers": [_CONTAINER], "initContainers": [_CONTAINER], "ephemeralContainers": [{"name": str}],
    "restartPolicy": str, "nodeName": str, "hostname": str, "dnsPolicy": str, "dnsConfig": {},
    "serviceAccountName": str, "serviceAccount": str, "schedulerName": str, "terminationGracePeriodSeconds": int,
    "activeDeadlineSeconds": int, "nodeSelector": _TEXTS, "hostNetwork": bool, "affinity": {}, "securityContext": {},
    "volumes": [
        {"name": str, "secret": {"secretName": str, "optional": bool}, "configMap": _REFERENCE,
         "persistentVolumeClaim": {"claimName": str}}
    ],
    "tolerations": [{"key": str, "operator": str, "value": str, "effect": str, "tolerationSeconds": int}],
}  # fmt: skip
_STATE = {
    "running": {"startedAt": str}, "waiting": {"reason": str, "message": str},
    "terminated": {"exitCode": int, "signal": int, "reason": str, "message": str, "startedAt": str, "finishedAt": str},
}  # fmt: skip
_CONTAINER_STATUS = {
    "name": str, "image": str, "restartCount": int, "ready": bool, "containerID": str, "state": _STATE, "lastState": _STATE,
}  # fmt: skip
CONDITIONS = [{"type": str, "status": str, "reason": str, "message": str, "lastTransitionTime": str}]
_POD_STATUS = {
    "phase": str, "reason": str, "message": str, "startTime": str, "podIP": str, "hostIP": str, "qosClass": str,
    "conditions": CONDITIONS, "podIPs": [{"ip": str}], "hostIPs": [{"ip": str}],
    "containerStatuses": [_CONTAINER_STATUS], "initContainerStatuses": [_CONTAINER_STATUS],
    "ephemeralContainerStatuses": [_CONTAINER_STATUS],
}  # fmt: skip
_PARTS: dict[str, dict[str, Any]] = {
    "pods": {"spec": _POD_SPEC, "status": _POD_STATUS},
    "namespaces": {"spec": {"finalizers": [str]}, "status": {"phase": str}},
    "secrets": {"data": _TEXTS, "stringData": _TEXTS, "type": str, "immutable": bool},
    "configmaps": {"data": _TEXTS, "binaryData": _TEXTS, "immutable": bool},
    "resourcequotas": {
        "spec": {"hard": Each(QUANTITY), "scopes": [str]},
        "status": {"hard": Each(QUANTITY), "used": Each(QUANTITY)},
    },
    "serviceaccounts": {
        "secrets": [{"name": str}], "imagePullSecrets": [{"name": str}], "automountServiceAccountToken": bool
    },
}  # fmt: skip
DELETE_OPTIONS = {
    "gracePeriodSeconds": int, "propagationPolicy": str, "orphanDependents": bool, "dryRun": [str],
    "preconditions": {"uid": str, "resourceVersion": str},
}  # fmt: skip


def of_object(resource: str) -> dict[str, Any]:
    """The schema of one object of this resource."""
    return {"apiVersion": str, "kind": str, "metadata": _METADATA, "spec": {}, "status": {}, **_PARTS.get(resource, {})}
