"""What `airflow podrelay check` asks Kubernetes."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Sequence
from typing import Any

import urllib3
from airflow.providers.cncf.kubernetes.kube_config import KubeConfig

from podrelay.cli.check_result import Passed
from podrelay.errors import ConfigError
from podrelay.settings import Settings
from podrelay.teams import client_factory_of, kube_client_of, watched_namespaces

Permissions = dict[str, tuple[tuple[str, str], ...]]

# What each process does in Kubernetes: (verb, resource), as in docker/kubernetes/base/access.yaml.
REQUIRED_PERMISSIONS: Permissions = {
    "launcher": (("create", "pods"), ("get", "pods"), ("patch", "pods"), ("delete", "pods")),
    "watcher": (("get", "pods"), ("list", "pods"), ("watch", "pods"), ("get", "pods/log"), ("list", "events")),
}
# What launchers do besides with [podrelay] workload_in_secret: docker/kubernetes/components/workload_secrets/access.yaml.
SECRET_PERMISSIONS: tuple[tuple[str, str], ...] = (("create", "secrets"), ("delete", "secrets"))
# And with [podrelay] warm_pods_max: docker/kubernetes/components/warm_pods/access.yaml.
WARM_PERMISSIONS: tuple[tuple[str, str], ...] = (("list", "pods"),)
_REVIEW_TIMEOUT_S = 10.0


def open_client(team: str | None, kube_config: KubeConfig) -> Any:
    """A client that reaches the API server, and finds its namespaces as far as it may look.

    :raises ConfigError: names the options to change.
    """
    try:
        core = kube_client_of(team)
    except Exception as error:
        if warning := async_only(team):
            raise ConfigError(f"{warning[0]} Here no client can be created without it ({error}).") from error
        credentials: Any = importlib.import_module("podrelay_workers.kube.credentials")
        asyncio.run(credentials.load_credentials(team))  # fails in the words of launcher and watcher
        raise ConfigError(
            f"[kubernetes_executor] config_file, cluster_context or in_cluster: cannot create a client ({error})."
        ) from error
    try:
        missing = [name for name in namespaces_of(kube_config) if _is_missing(core, name)]
    except urllib3.exceptions.HTTPError as error:
        reason = getattr(error, "reason", None) or error
        raise ConfigError(
            f"{core.api_client.configuration.host} does not answer ({reason}): check [kubernetes_executor] config_file, "
            "cluster_context and in_cluster."
        ) from error
    if missing:
        raise ConfigError(missing_namespace(missing))
    return core


def async_only(team: str | None) -> tuple[str, ...]:
    """A warning where launchers and watcher use a client that blocking code cannot use."""
    if client_factory_of(team, "client_factory") or not client_factory_of(team, "async_client_factory"):
        return ()
    return (
        "[kubernetes_executor] async_client_factory is for launchers and watcher only: set client_factory too, for this "
        "check and for live logs.",
    )


def namespaces_of(kube_config: KubeConfig) -> list[str]:
    """The namespaces that options name: where pods are created by default, and which are watched."""
    named = [kube_config.executor_namespace, *(name for name in watched_namespaces(kube_config) if name)]
    return list(dict.fromkeys(named))


def missing_namespace(names: Sequence[str]) -> str:
    return (
        f"no namespace {', '.join(names)} in this cluster: create it, or correct [kubernetes_executor] namespace or "
        "multi_namespace_mode_namespace_list."
    )


def _is_missing(core: Any, namespace: str) -> bool:
    """False also if the user may not look: most users have rights within namespaces only."""
    from kubernetes import client

    try:
        core.read_namespace(namespace, _request_timeout=_REVIEW_TIMEOUT_S)
    except client.ApiException as error:
        return is_about_namespace(error)
    return False


def is_about_namespace(error: Any) -> bool:
    """Does this answer say that a namespace does not exist? The 404 page of a gateway does not."""
    return error.status == 404 and '"namespaces' in str(error.body).replace("\\", "")


def required_permissions(kube_config: KubeConfig, settings: Settings | None) -> Permissions:
    """What each process does in Kubernetes with these options. A Secret is deleted only where its pod is kept."""
    launcher = REQUIRED_PERMISSIONS["launcher"]
    if settings is not None and settings.workload_in_secret:
        keeps_pods = not (kube_config.delete_worker_pods and kube_config.delete_worker_pods_on_failure)
        launcher += SECRET_PERMISSIONS if keeps_pods else SECRET_PERMISSIONS[:1]
    if settings is not None and settings.warm_pods_max:
        launcher += WARM_PERMISSIONS
    return {**REQUIRED_PERMISSIONS, "launcher": launcher}


def check_permissions(
    core: Any,
    kube_config: KubeConfig,
    processes: Sequence[str],
    warnings: tuple[str, ...] = (),
    settings: Settings | None = None,
) -> Passed:
    """Asks the API server which permissions the configured user has, without using them."""
    permissions = required_permissions(kube_config, settings)
    # "" stands for all namespaces, in the review as well.
    namespaces = [namespace or "" for namespace in watched_namespaces(kube_config)]
    required = sorted({permission for process in processes for permission in permissions[process]})
    missing = [
        (namespace, verb, resource)
        for namespace in namespaces
        for verb, resource in required
        if not _is_allowed(core, namespace, verb, resource)
    ]
    if missing:
        hint = (
            "" if len(processes) == 1 else " If each process has its own user, run the check with --process for each."
        )
        barred = [
            name for name in namespaces if name and all((name, *permission) in missing for permission in required)
        ]
        if barred:  # a user without rights beyond its namespaces must not learn which others exist
            hint += f" This user may do nothing in {', '.join(barred)}: does it exist?"
        raise ConfigError(
            f"missing permissions: {_listed(missing, processes, permissions)}. Grant them to this user, as in "
            f"{_source_of(missing, processes, permissions)}.{hint}"
        )
    where = ", ".join(namespace or "all namespaces" for namespace in namespaces)
    return Passed(f"{' and '.join(processes)}: all permissions granted in {where}", warnings)


def _source_of(missing: Sequence[tuple[str, str, str]], processes: Sequence[str], permissions: Permissions) -> str:
    """Pure: the manifests that grant these permissions."""
    needed = {(verb, resource) for _, verb, resource in missing}
    of_base = {permission for process in processes for permission in REQUIRED_PERMISSIONS[process]}
    of_launcher = set(permissions["launcher"]) if "launcher" in processes else set()
    granted_by = {
        "base": of_base,
        "components/workload_secrets": of_launcher & set(SECRET_PERMISSIONS),
        "components/warm_pods": of_launcher & set(WARM_PERMISSIONS),
    }
    folders = [folder for folder, granted in granted_by.items() if needed & granted]
    return " and ".join(f"docker/kubernetes/{folder}/access.yaml" for folder in folders)


def _listed(missing: Sequence[tuple[str, str, str]], processes: Sequence[str], permissions: Permissions) -> str:
    """Pure: what the user may not do, by the processes that need it."""
    found: dict[str, list[str]] = {}
    for namespace, verb, resource in missing:
        needed_by = [process for process in processes if (verb, resource) in permissions[process]]
        permission = f"{verb} {resource} in {namespace or 'all namespaces'}"
        found.setdefault(" and ".join(needed_by), []).append(permission)
    return "; ".join(f"{', '.join(items)} (for the {needed_by})" for needed_by, items in found.items())


def _is_allowed(core: Any, namespace: str, verb: str, resource: str) -> bool:
    from kubernetes import client

    kind, _, subresource = resource.partition("/")
    review = client.V1SelfSubjectAccessReview(
        spec=client.V1SelfSubjectAccessReviewSpec(
            resource_attributes=client.V1ResourceAttributes(
                namespace=namespace, verb=verb, resource=kind, subresource=subresource or None
            )
        )
    )
    try:
        answer = client.AuthorizationV1Api(core.api_client).create_self_subject_access_review(
            review, _request_timeout=_REVIEW_TIMEOUT_S
        )
    except client.ApiException as error:
        # A server without the authorization API, such as the local cluster, answers with a Status and grants everything.
        # A 404 page of a gateway holds no Status.
        if error.status == 404 and '"Status"' in str(error.body):
            return True
        raise
    return bool(answer.status.allowed)
