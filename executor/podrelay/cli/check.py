"""`airflow podrelay check`: tries each thing that podrelay needs before a scheduler depends on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airflow.configuration import conf
from airflow.providers.cncf.kubernetes.kube_config import KubeConfig

from podrelay.errors import ConfigError, PodrelayError
from podrelay.protocol.encryption import PayloadCipher
from podrelay.protocol.redis_keys import RedisKeys
from podrelay.settings import Settings, load_settings
from podrelay.store.connection import check as check_redis
from podrelay.store.connection import connect, redis_errors
from podrelay.store.key_rings import REMEDY, announce, key_ring, mismatches, read_rings
from podrelay.store.script_table import evaluate
from podrelay.teams import kube_client_of, kube_config_of, watched_namespaces

# What each process does in Kubernetes: (verb, resource), as in docker/kubernetes/access.yaml.
REQUIRED_PERMISSIONS: dict[str, tuple[tuple[str, str], ...]] = {
    "launcher": (("create", "pods"), ("get", "pods"), ("patch", "pods"), ("delete", "pods")),
    "watcher": (("get", "pods"), ("list", "pods"), ("watch", "pods"), ("get", "pods/log"), ("list", "events")),
}
_REDIS_TIMEOUT_S = 5.0
_REVIEW_TIMEOUT_S = 10.0
_TEMPLATE = "[kubernetes_executor] pod_template_file"


@dataclass(frozen=True)
class Check:
    """The result of one check; `detail` is what was found or, where it failed, what to change."""

    name: str
    ok: bool
    detail: str


def run_checks(team: str | None, process: str | None = None) -> Iterator[Check]:
    """Run every check, also after one has failed.

    :param process: check the permissions of this process only, `launcher` or `watcher`; None checks both.
    """
    settings: list[Settings] = []

    def options() -> str:
        settings.append(load_settings(conf, conf.get("core", "fernet_key", fallback="")))
        return f"deployment {settings[0].deployment}"

    yield _try("[podrelay] options", options)
    if settings:
        yield _try("Fernet key", lambda: _fernet_key(settings[0]))
        yield _try("Redis", lambda: _redis(settings[0]))
        yield _try("Fernet keys of all processes", lambda: _key_rings(settings[0]))
    yield _try("pod template", lambda: _template(kube_config_of(team)))
    processes = (process,) if process else tuple(REQUIRED_PERMISSIONS)
    yield _try("Kubernetes", lambda: _kubernetes(team, kube_config_of(team), processes))


def _try(name: str, step: Callable[[], str]) -> Check:
    try:
        return Check(name, True, step())
    except PodrelayError as error:
        return Check(name, False, str(error))
    except Exception as error:  # noqa: BLE001  a check that cannot be made has failed, for whatever reason
        return Check(name, False, f"{type(error).__name__}: {error}")


def _fernet_key(settings: Settings) -> str:
    PayloadCipher(settings.fernet_key)
    return "valid"


def _redis(settings: Settings) -> str:
    with connect(settings, timeout_s=_REDIS_TIMEOUT_S) as client:
        warnings = check_redis(client)
        with redis_errors():
            client.set(RedisKeys(settings.deployment).check, "1", ex=5)
    return "; ".join(warnings) or "reachable and writable"


def _key_rings(settings: Settings) -> str:
    """Compares the keys of the processes that run with those of this configuration, by their fingerprints."""
    keys, own = RedisKeys(settings.deployment), key_ring("this configuration", PayloadCipher(settings.fernet_key))
    with connect(settings, timeout_s=_REDIS_TIMEOUT_S) as client, redis_errors():
        rings = read_rings(evaluate(client, announce(keys, None)))
    found = mismatches([*rings, own])
    if found:
        raise ConfigError(f"{'; '.join(found)}. {REMEDY}")
    return f"the same in {len(rings)} running processes" if rings else "no process runs to compare with"


def _template(kube_config: KubeConfig) -> str:
    path = kube_config.pod_template_file
    if not path:
        raise ConfigError(f"{_TEMPLATE} is empty: set it to the path of a file that holds a pod.")
    if not Path(path).is_file():
        raise ConfigError(f"{_TEMPLATE}: no file {path}.")
    import yaml

    document = yaml.safe_load(Path(path).read_text("utf-8"))
    containers = (document or {}).get("spec", {}).get("containers") if isinstance(document, dict) else None
    if not containers:
        raise ConfigError(f"{_TEMPLATE}: {path} has no spec.containers.")
    if document["spec"].get("restartPolicy") != "Never":
        raise ConfigError(f"{_TEMPLATE}: spec.restartPolicy in {path} must be Never.")
    return str(path)


def _kubernetes(team: str | None, kube_config: KubeConfig, processes: Sequence[str]) -> str:
    """Asks the API server which permissions the configured user has, without using them."""
    try:
        core = kube_client_of(team)
    except Exception as error:
        raise ConfigError(
            f"[kubernetes_executor] config_file, cluster_context or in_cluster: cannot create a client ({error})."
        ) from error
    # "" stands for all namespaces, in the review as well.
    namespaces = [namespace or "" for namespace in watched_namespaces(kube_config)]
    missing = _missing_permissions(core, namespaces, processes)
    if missing:
        listed = "; ".join(f"{', '.join(items)} (for the {needed_by})" for needed_by, items in missing.items())
        hint = (
            "" if len(processes) == 1 else " If each process has its own user, run the check with --process for each."
        )
        raise ConfigError(
            f"missing permissions: {listed}. Grant them to this user, as in docker/kubernetes/access.yaml.{hint}"
        )
    where = ", ".join(namespace or "all namespaces" for namespace in namespaces)
    return f"{' and '.join(processes)}: all permissions granted in {where}"


def _missing_permissions(core: Any, namespaces: Sequence[str], processes: Sequence[str]) -> dict[str, list[str]]:
    """What the user may not do, by the processes that need it."""
    missing: dict[str, list[str]] = {}
    required = sorted({permission for process in processes for permission in REQUIRED_PERMISSIONS[process]})
    for namespace in namespaces:
        for verb, resource in required:
            if not _is_allowed(core, namespace, verb, resource):
                needed_by = [process for process in processes if (verb, resource) in REQUIRED_PERMISSIONS[process]]
                permission = f"{verb} {resource} in {namespace or 'all namespaces'}"
                missing.setdefault(" and ".join(needed_by), []).append(permission)
    return missing


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
