"""The resources that this server keeps, and facts about them that several packages need."""

from __future__ import annotations

KIND_OF_RESOURCE = {
    "namespaces": "Namespace",
    "nodes": "Node",
    "pods": "Pod",
    "secrets": "Secret",
    "configmaps": "ConfigMap",
    "events": "Event",
    "resourcequotas": "ResourceQuota",
    "serviceaccounts": "ServiceAccount",
}
CLUSTER_WIDE = frozenset({"namespaces", "nodes"})
NAMESPACED = frozenset(KIND_OF_RESOURCE) - CLUSTER_WIDE

TERMINAL_PHASES = frozenset({"Succeeded", "Failed"})
"""Phases that a pod never leaves."""

DEFAULT_GRACE_S = 30
"""`terminationGracePeriodSeconds` of a pod that sets none."""
