"""Pure: the options of a deletion, read from the body and the query of its request; used by `core_api`."""

from __future__ import annotations

import contextlib
from typing import Any

from multidict import MultiMapping

from podrelay_local_cluster.http.query import is_dry_run
from podrelay_local_cluster.objects.errors import bad_request, invalid_options, invalid_value, unsupported_value
from podrelay_local_cluster.registry.pods import DeleteOptions

_POLICIES = ("Foreground", "Background", "Orphan")


def parse_delete_options(query: MultiMapping[str], body: Any) -> DeleteOptions:
    """Parameters of the query override the body's `DeleteOptions`. Raises `StatusError` 400 or 422."""
    body = body or {}
    if not isinstance(body, dict):
        raise bad_request("the body is not a DeleteOptions object")
    _check_propagation(query, body)
    preconditions = body.get("preconditions") or {}
    grace_s = _grace_s(query, body)
    if not isinstance(preconditions, dict):
        raise bad_request("preconditions must be an object")
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


def _grace_s(query: MultiMapping[str], body: dict[str, Any]) -> int | None:
    grace_s: Any = body.get("gracePeriodSeconds")
    if "gracePeriodSeconds" in query:
        grace_s = query["gracePeriodSeconds"]
        with contextlib.suppress(ValueError):
            grace_s = int(grace_s)
    if grace_s is not None and (not isinstance(grace_s, int) or isinstance(grace_s, bool)):
        raise bad_request(f"gracePeriodSeconds must be an integer: {grace_s}")
    return grace_s
