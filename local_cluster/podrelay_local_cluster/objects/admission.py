"""What a real API server asks of a new object beside its own text: namespace, service account, quota.

After the admission plugins NamespaceLifecycle, ServiceAccount and ResourceQuota: their order, codes and words, which clients
tell refusals apart by.
"""

from __future__ import annotations

from typing import Any, Protocol

from podrelay_local_cluster.kubelet.pod_status import TERMINAL_PHASES
from podrelay_local_cluster.objects.errors import ApiError, forbidden, not_found
from podrelay_local_cluster.storage.store import ObjectStore

Json = dict[str, Any]

DEFAULT_ACCOUNT = "default"
_COUNTED = ("pods", "count/pods")


class Quota(Protocol):
    """A limit that a test sets without an object."""

    def pod_limit(self, namespace: str) -> int | None: ...


def check_namespace(store: ObjectStore, namespace: str, resource: str, name: str) -> None:
    """Raises `ApiError` 404 for a namespace that is not there, 403 for one that is being terminated."""
    record = store.get("namespaces", "", namespace)
    if record is None:
        raise not_found("namespaces", namespace)
    if "deletionTimestamp" in record.obj["metadata"]:
        text = f"namespace {namespace} is being terminated"
        cause = {"reason": "NamespaceTerminating", "message": text, "field": "metadata.namespace"}
        why = f"unable to create new content in namespace {namespace} because it is being terminated"
        raise forbidden(resource, name, why, [cause])


def check_service_account(store: ObjectStore, pod: Json) -> None:
    """Raises `ApiError` 403 where the pod names an account that its namespace does not have."""
    namespace = pod["metadata"]["namespace"]
    account = pod["spec"].get("serviceAccountName") or DEFAULT_ACCOUNT
    if account != DEFAULT_ACCOUNT and store.get("serviceaccounts", namespace, account) is None:
        why = f'error looking up service account {namespace}/{account}: serviceaccount "{account}" not found'
        raise forbidden("pods", pod["metadata"]["name"], why)


def check_quota(store: ObjectStore, quota: Quota, pod: Json) -> list[Json]:
    """The quota objects with this pod counted. Raises `ApiError` 403 where one is used up, or not counted yet.

    Only numbers of pods are limited. A quota is in force by its status, which a controller writes; of that, this server
    does the counting.
    """
    namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
    quotas = store.records("resourcequotas", namespace)
    limit = quota.pod_limit(namespace)
    if not quotas and limit is None:
        return []
    pods = store.unordered("pods", namespace)
    used = sum(1 for record in pods if record.obj["status"].get("phase") not in TERMINAL_PHASES)
    if limit is not None and used >= limit:
        raise _exceeded(name, "local-cluster", {"pods": limit}, used)
    counted = []
    for record in quotas:
        status = record.obj.get("status") or {}
        hard = {key: int(value) for key, value in (status.get("hard") or {}).items() if key in _COUNTED}
        if not hard:
            continue
        if set(hard) - set(status.get("used") or {}):
            raise forbidden(
                "pods", name, f"status unknown for quota: {record.name}, resources: {','.join(sorted(hard))}"
            )
        full = {key: value for key, value in hard.items() if used >= value}
        if full:
            raise _exceeded(name, record.name, full, used)
        counted.append(
            {**record.obj, "status": {**status, "used": {**status["used"], **dict.fromkeys(hard, str(used + 1))}}}
        )
    return counted


def _exceeded(name: str, quota: str, full: dict[str, int], used: int) -> ApiError:
    def amounts(of: dict[str, int]) -> str:
        return ",".join(f"{key}={value}" for key, value in sorted(of.items()))

    asked, have = amounts(dict.fromkeys(full, 1)), amounts(dict.fromkeys(full, used))
    return forbidden(
        "pods", name, f"exceeded quota: {quota}, requested: {asked}, used: {have}, limited: {amounts(full)}"
    )
