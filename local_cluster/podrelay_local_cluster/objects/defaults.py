"""Pure: the defaults that a real API server sets when it creates a pod, and a pod's quality-of-service class.

Service-account token volumes are not added, because no service account of this cluster has a token.
"""

from __future__ import annotations

from podrelay_local_cluster.objects.json_text import Json
from podrelay_local_cluster.objects.quantity import canonical_values

_POD_SPEC = {
    "restartPolicy": "Always",
    "terminationGracePeriodSeconds": 30,
    "dnsPolicy": "ClusterFirst",
    "schedulerName": "default-scheduler",
    "enableServiceLinks": True,
    "preemptionPolicy": "PreemptLowerPriority",
    "priority": 0,
}
_CONTAINER = {
    "terminationMessagePath": "/dev/termination-log",
    "terminationMessagePolicy": "File",
}
_NODE_TOLERATIONS = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
_TOLERATION_S = 300


def pod_spec(spec: Json) -> Json:
    """A copy of the spec with all defaults set."""
    filled = {**_POD_SPEC, **{key: value for key, value in spec.items() if value is not None}}
    filled.setdefault("securityContext", {})
    account = filled.get("serviceAccountName") or filled.get("serviceAccount") or "default"
    filled["serviceAccountName"] = filled["serviceAccount"] = account
    filled["containers"] = [_container(container) for container in filled["containers"]]
    if filled.get("initContainers"):
        filled["initContainers"] = [_container(container) for container in filled["initContainers"]]
    filled["tolerations"] = _tolerations(filled.get("tolerations") or [])
    return filled


def _container(container: Json) -> Json:
    filled = {**_CONTAINER, **{key: value for key, value in container.items() if value is not None}}
    filled["resources"] = _resources(filled.get("resources") or {})
    filled.setdefault("imagePullPolicy", _pull_policy(filled.get("image", "")))
    if filled.get("env"):
        filled["env"] = [_env(item) for item in filled["env"]]
    return filled


def _resources(resources: Json) -> Json:
    """Canonical quantities. What is limited and not requested is requested up to its limit."""
    filled = {
        key: canonical_values(values) if key in ("requests", "limits") else values
        for key, values in resources.items()
        if values is not None
    }
    if filled.get("limits"):
        filled["requests"] = {**filled["limits"], **filled.get("requests", {})}
    return filled


def _env(item: Json) -> Json:
    reference = (item.get("valueFrom") or {}).get("fieldRef")
    if not reference or "apiVersion" in reference:
        return item
    return {**item, "valueFrom": {**item["valueFrom"], "fieldRef": {"apiVersion": "v1", **reference}}}


def _pull_policy(image: str) -> str:
    name = image.rpartition("/")[2]
    tag = name.partition(":")[2]
    return "IfNotPresent" if "@" in name or tag not in ("", "latest") else "Always"


def _tolerations(tolerations: list[Json]) -> list[Json]:
    filled = list(tolerations)
    for key in _NODE_TOLERATIONS:
        known = any(
            item.get("key") in (key, None, "") and item.get("effect") in ("NoExecute", None, "") for item in filled
        )
        if not known:
            filled.append({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": _TOLERATION_S})
    return filled


def qos_class(spec: Json) -> str:
    """Guaranteed, Burstable or BestEffort ("Pod Quality of Service Classes")."""
    containers = spec["containers"] + (spec.get("initContainers") or [])
    wanted = [(c.get("resources") or {}) for c in containers]
    if not any(resources.get("requests") or resources.get("limits") for resources in wanted):
        return "BestEffort"
    for resources in wanted:
        limits = resources.get("limits") or {}
        requests = {**limits, **(resources.get("requests") or {})}
        if not {"cpu", "memory"} <= set(limits) or any(requests[name] != limits[name] for name in ("cpu", "memory")):
            return "Burstable"
    return "Guaranteed"
