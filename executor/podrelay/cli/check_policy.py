"""What `airflow podrelay check` says about `[podrelay] pod_policy`: does it allow a pod of the template?"""

from __future__ import annotations

import importlib
from typing import Any

from airflow.providers.cncf.kubernetes.kube_config import KubeConfig

from podrelay.cli.check_kubernetes import namespaces_of
from podrelay.cli.check_result import Passed
from podrelay.settings import Settings
from podrelay.teams import watched_namespaces


def check_policy(team: str | None, settings: Settings, kube_config: KubeConfig, template_ok: bool) -> Passed:
    """Render a pod as a launcher does, with the pod_mutation_hook, and apply the policy to it.

    :param template_ok: False: read the policy only.
    :raises ConfigError: the option is wrong.
    :raises ManifestError: the policy forbids a pod of the template, or there can be none.
    """
    # Loaded by name: the executor's side does not depend on the workers.
    policies: Any = importlib.import_module("podrelay_workers.launcher.pod_policy")
    policy = policies.load_pod_policy(settings.pod_policy, watched_namespaces(kube_config))
    if not policy.rules:
        return Passed("off: every pod is allowed")
    rules = f"{len(policy.rules)} rules"
    if not template_ok:
        return Passed(f"{rules}; no pod of the template to try them on")
    manifests: Any = importlib.import_module("podrelay_workers.launcher.pod_manifest")
    renderer = manifests.ManifestRenderer(settings.deployment, team, kube_config=kube_config, policy=policy)
    namespaces = namespaces_of(kube_config)
    for namespace in namespaces:
        renderer.render_sample(namespace)
    return Passed(f"{rules}, which allow a pod of the template in {', '.join(namespaces)}")
