"""Checks of a new object against other objects: namespace, service account, quota.

Follows the admission plugins NamespaceLifecycle, ServiceAccount and ResourceQuota: same order, codes and messages, because
clients distinguish refusals by them.
"""

from __future__ import annotations

from typing import Protocol

from podrelay_local_cluster.objects.errors import StatusError, forbidden, not_found
from podrelay_local_cluster.objects.json_text import Json
from podrelay_local_cluster.objects.quantity import amount
from podrelay_local_cluster.objects.record import Record
from podrelay_local_cluster.objects.resources import TERMINAL_PHASES
from podrelay_local_cluster.storage.store import ObjectStore

DEFAULT_ACCOUNT = "default"
_COUNTED = ("pods", "count/pods")


class PodLimits(Protocol):
    """Limits that a test sets without a ResourceQuota object."""

    def pod_limit(self, namespace: str) -> int | None:
        """The most pods that the namespace may hold; None for no limit."""


def check_namespace(store: ObjectStore, namespace: str, resource: str, name: str) -> None:
    """Raises `StatusError` 404 for a missing namespace, 403 for a terminating one."""
    record = store.get("namespaces", "", namespace)
    if record is None:
        raise not_found("namespaces", namespace)
    if record.is_being_deleted:
        text = f"namespace {namespace} is being terminated"
        cause = {"reason": "NamespaceTerminating", "message": text, "field": "metadata.namespace"}
        reason = f"unable to create new content in namespace {namespace} because it is being terminated"
        raise forbidden(resource, name, reason, [cause])


def check_service_account(store: ObjectStore, pod: Json) -> None:
    """Raises `StatusError` 403 for an account that the pod's namespace does not have."""
    namespace = pod["metadata"]["namespace"]
    account = pod["spec"].get("serviceAccountName") or DEFAULT_ACCOUNT
    if account != DEFAULT_ACCOUNT and store.get("serviceaccounts", namespace, account) is None:
        reason = f'error looking up service account {namespace}/{account}: serviceaccount "{account}" not found'
        raise forbidden("pods", pod["metadata"]["name"], reason)


def check_quota(store: ObjectStore, limits: PodLimits, pod: Json) -> list[Json]:
    """The quota objects with this pod counted. Raises `StatusError` 403 for a quota that is used up or not counted yet.

    Only the number of pods is limited. A quota takes effect through its status, which a controller writes on a real
    cluster; this server only keeps the count in it. A quota without status limits nothing.
    """
    namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
    quotas = store.records("resourcequotas", namespace)
    limit = limits.pod_limit(namespace)
    if not quotas and limit is None:
        return []
    pods = store.iterate("pods", namespace)
    used = sum(1 for record in pods if record.obj["status"].get("phase") not in TERMINAL_PHASES)
    if limit is not None and used >= limit:
        raise _exceeded(name, "local-cluster", {"pods": limit}, used)
    counted = [_counted(record, name, used) for record in quotas]
    return [quota for quota in counted if quota is not None]


def _counted(record: Record, name: str, used: int) -> Json | None:
    """The quota with one more pod; None for a quota that does not limit pods. Raises `StatusError` 403."""
    status = record.obj.get("status") or {}
    hard = {key: int(amount(value)) for key, value in (status.get("hard") or {}).items() if key in _COUNTED}
    if not hard:
        return None
    if set(hard) - set(status.get("used") or {}):
        raise forbidden("pods", name, f"status unknown for quota: {record.name}, resources: {','.join(sorted(hard))}")
    full = {key: value for key, value in hard.items() if used >= value}
    if full:
        raise _exceeded(name, record.name, full, used)
    return {**record.obj, "status": {**status, "used": {**status["used"], **dict.fromkeys(hard, str(used + 1))}}}


def _exceeded(name: str, quota: str, full: dict[str, int], used: int) -> StatusError:
    def amounts(of: dict[str, int]) -> str:
        return ",".join(f"{key}={value}" for key, value in sorted(of.items()))

    requested, have = amounts(dict.fromkeys(full, 1)), amounts(dict.fromkeys(full, used))
    return forbidden(
        "pods", name, f"exceeded quota: {quota}, requested: {requested}, used: {have}, limited: {amounts(full)}"
    )
