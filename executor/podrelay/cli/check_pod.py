"""What Kubernetes says to a pod of the template, as `airflow podrelay check` tries it: a dry run, which creates nothing."""

from __future__ import annotations

import importlib
import json
import re
from typing import Any

from airflow.providers.cncf.kubernetes.kube_config import KubeConfig

from podrelay.cli.check_kubernetes import is_about_namespace, missing_namespace, namespaces_of
from podrelay.cli.check_result import Passed
from podrelay.errors import ConfigError
from podrelay.settings import Settings

_TIMEOUT_S = 10.0
# The value of a Warning header: code, agent, text in quotes.
_WARNING = re.compile(r'299 \S+ "((?:[^"\\]|\\.)*)"')


def check_pod(core: Any, team: str | None, settings: Settings, kube_config: KubeConfig) -> Passed:
    """Render a pod as a launcher does, with the pod_mutation_hook, and send it to each namespace as a dry run.

    :raises ConfigError: the API server refuses it.
    :raises ManifestError: it cannot be rendered.
    """
    # Loaded by name: the executor's side does not depend on the workers.
    manifests: Any = importlib.import_module("podrelay_workers.launcher.pod_manifest")
    renderer = manifests.ManifestRenderer(
        settings.deployment, team, kube_config=kube_config, workload_in_secret=settings.workload_in_secret
    )
    namespaces = namespaces_of(kube_config)
    warnings: dict[str, None] = {}
    for namespace in namespaces:
        pod = renderer.render_sample(namespace)
        # A template or a hook may name another namespace.
        warnings |= dict.fromkeys(_dry_run(core, pod.get("metadata", {}).get("namespace") or namespace, pod))
    return Passed(f"a pod of the template would be created in {', '.join(namespaces)}", tuple(warnings))


def _dry_run(core: Any, namespace: str, pod: dict[str, Any]) -> list[str]:
    """The warnings of the API server.

    :raises ConfigError: it refuses the pod.
    """
    from kubernetes import client

    try:
        _, _, headers = core.create_namespaced_pod_with_http_info(
            namespace, pod, dry_run="All", field_validation="Warn", _request_timeout=_TIMEOUT_S
        )
    except client.ApiException as error:
        return [_passing(error, namespace)]
    return [_unescaped(text) for text in _WARNING.findall(_joined(headers, "Warning"))]


def _passing(error: Any, namespace: str) -> str:
    """A refusal that says nothing against the template.

    :raises ConfigError: any other refusal.
    """
    message = _message(error)
    if is_about_namespace(error):
        raise ConfigError(missing_namespace([namespace])) from error
    if error.status == 403 and "exceeded quota" in message:
        return f"the quota of namespace {namespace} is used up now: launches would wait ({message})"
    if "does not support dry run" in message:
        return f"the pod could not be tried in namespace {namespace}: {message}"
    raise ConfigError(
        f"the API server refuses a pod of the template in namespace {namespace} ({error.status}): {message}"
    ) from error


def _message(error: Any) -> str:
    try:
        return str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        return str(error.reason or error)


def _joined(headers: Any, name: str) -> str:
    return ", ".join(value for key, value in headers.items() if key.lower() == name.lower())


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)
