"""`airflow podrelay check`: tries each thing that podrelay needs, before a scheduler has to find out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
from podrelay.store.connection import connect
from podrelay.teams import kube_client_of, kube_config_of

# What each process does in Kubernetes: (verb, resource), as in the Roles under docker/.
NEEDED: dict[str, tuple[tuple[str, str], ...]] = {
    "launcher": (("create", "pods"), ("get", "pods"), ("patch", "pods"), ("delete", "pods")),
    "watcher": (("get", "pods"), ("list", "pods"), ("watch", "pods"), ("get", "pods/log"), ("list", "events")),
}
_ANSWER_S = 10.0


@dataclass(frozen=True)
class Check:
    """One thing that was tried; `detail` says what was found, or what to change."""

    what: str
    ok: bool
    detail: str


def run_checks(team: str | None, process: str | None = None) -> Iterator[Check]:
    """Try everything, also when something before it failed.

    :param process: ask for the permissions of this one only: `launcher` or `watcher`.
    """
    settings: list[Settings] = []

    def options() -> str:
        settings.append(load_settings(conf, conf.get("core", "fernet_key", fallback="")))
        return f"deployment {settings[0].deployment}"

    yield _try("[podrelay] options", options)
    if settings:
        yield _try("sealing key", lambda: repr(PayloadCipher(settings[0].fernet_key)))
        yield _try("Redis", lambda: _redis(settings[0]))
    yield _try("pod template", lambda: _template(kube_config_of(team)))
    yield _try("Kubernetes", lambda: _kubernetes(team, kube_config_of(team), (process,) if process else tuple(NEEDED)))


def _try(what: str, step: Callable[[], str]) -> Check:
    try:
        return Check(what, True, step())
    except PodrelayError as error:
        return Check(what, False, str(error))
    except Exception as error:  # noqa: BLE001  a check that cannot be made has failed; say how
        return Check(what, False, f"{type(error).__name__}: {error}")


def _redis(settings: Settings) -> str:
    with connect(settings, timeout_s=5.0) as client:
        warnings = check_redis(client)
        client.set(RedisKeys(settings.deployment).check, "1", ex=5)
    return "; ".join(warnings) or "answers and can be written to"


def _template(kube_config: KubeConfig) -> str:
    path = kube_config.pod_template_file
    if not path:
        raise ConfigError("[kubernetes_executor] pod_template_file is empty: name a file that holds a pod.")
    if not Path(path).is_file():
        raise ConfigError(f"[kubernetes_executor] pod_template_file: there is no file {path}.")
    import yaml

    document = yaml.safe_load(Path(path).read_text("utf-8"))
    containers = (document or {}).get("spec", {}).get("containers") if isinstance(document, dict) else None
    if not containers:
        raise ConfigError(f"[kubernetes_executor] pod_template_file: {path} has no spec.containers.")
    if document["spec"].get("restartPolicy") != "Never":
        raise ConfigError(f"[kubernetes_executor] pod_template_file: {path} must say restartPolicy: Never.")
    return str(path)


def _kubernetes(team: str | None, kube_config: KubeConfig, processes: tuple[str, ...]) -> str:
    """Ask the API server what this user may do, without doing it."""
    try:
        core = kube_client_of(team)
    except Exception as error:
        raise ConfigError(
            f"[kubernetes_executor] config_file, cluster_context or in_cluster: no client can be made ({error})."
        ) from error
    namespaces = [name.strip() for name in kube_config.multi_namespace_mode_namespace_list or ()]
    if not namespaces:
        namespaces = [""] if kube_config.multi_namespace_mode else [kube_config.executor_namespace]
    refused: dict[str, list[str]] = {}
    for namespace in namespaces:
        for verb, what in sorted({item for process in processes for item in NEEDED[process]}):
            if not _may(core, namespace, verb, what):
                lacking = " and ".join(process for process in processes if (verb, what) in NEEDED[process])
                refused.setdefault(lacking, []).append(f"{verb} {what} in {namespace or 'all namespaces'}")
    if refused:
        told = "; ".join(f"{', '.join(items)} (for the {process})" for process, items in refused.items())
        hint = "" if len(processes) == 1 else ". With a user for each process, check each: --process launcher, watcher"
        raise ConfigError(f"the Role of this user lacks: {told}{hint}")
    return (
        f"{' and '.join(processes)} may do their work in {', '.join(name or 'all namespaces' for name in namespaces)}"
    )


def _may(core: Any, namespace: str, verb: str, what: str) -> bool:
    from kubernetes import client

    resource, _, subresource = what.partition("/")
    review = client.V1SelfSubjectAccessReview(
        spec=client.V1SelfSubjectAccessReviewSpec(
            resource_attributes=client.V1ResourceAttributes(
                namespace=namespace, verb=verb, resource=resource, subresource=subresource or None
            )
        )
    )
    try:
        answer = client.AuthorizationV1Api(core.api_client).create_self_subject_access_review(
            review, _request_timeout=_ANSWER_S
        )
    except client.ApiException as error:
        # A server without the authorization API, as the local cluster: nothing to ask. It says so in a Status.
        if error.status == 404 and '"Status"' in str(error.body):
            return True
        raise
    return bool(answer.status.allowed)
