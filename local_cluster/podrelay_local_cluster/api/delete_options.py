"""Pure: the options of a deletion, read from the body and the query of its request; used by `core_api`."""

from __future__ import annotations

from typing import Any

from multidict import MultiMapping

from podrelay_local_cluster.http.query import integer, is_dry_run
from podrelay_local_cluster.objects.decoding import decoded
from podrelay_local_cluster.objects.errors import invalid_options, invalid_value, unsupported_value
from podrelay_local_cluster.objects.schema import DELETE_OPTIONS
from podrelay_local_cluster.registry.pods import DeleteOptions

_POLICIES = ("Foreground", "Background", "Orphan")


def parse_delete_options(query: MultiMapping[str], body: Any) -> DeleteOptions:
    """Parameters of the query override the body's `DeleteOptions`. Raises `StatusError` 400 or 422."""
    body = decoded(body or {}, DELETE_OPTIONS)
    _check_propagation(query, body)
    preconditions, grace_s = body.get("preconditions") or {}, body.get("gracePeriodSeconds")
    if "gracePeriodSeconds" in query:
        grace_s = integer(query, "gracePeriodSeconds")
    dry_run = is_dry_run(query.getall("dryRun", []) or body.get("dryRun") or [], "DeleteOptions")
    return DeleteOptions(grace_s, preconditions, dry_run)


def _check_propagation(query: MultiMapping[str], body: dict[str, Any]) -> None:
    """Pods have no dependents here, but a wrong option is refused as elsewhere."""
    policy = query.get("propagationPolicy") or body.get("propagationPolicy")
    if policy is None:
        return
    if body.get("orphanDependents") is not None or "orphanDependents" in query:
        rule = "orphanDependents and deletionPropagation cannot be both set"
        raise invalid_options("DeleteOptions", invalid_value("propagationPolicy", policy, rule))
    if policy not in _POLICIES:
        raise invalid_options("DeleteOptions", unsupported_value("propagationPolicy", policy, (*_POLICIES, "nil")))
