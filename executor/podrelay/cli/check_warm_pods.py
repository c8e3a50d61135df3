"""What `airflow podrelay check` says about warm pods: are the options sane, and can a pod of the template be one?"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

from airflow.providers.cncf.kubernetes.kube_config import KubeConfig

from podrelay import pod_command
from podrelay.cli.check_kubernetes import namespaces_of
from podrelay.cli.check_result import Passed
from podrelay.settings import Settings

# Pods that live shorter are mostly starting, where they are kept without tasks.
_IDLE_LEAST_S = 60.0


def check_warm_pods(team: str | None, settings: Settings, kube_config: KubeConfig, template_ok: bool) -> Passed:
    """Render a pod as a launcher does, with the pod_mutation_hook, and ask whether it may wait for its task.

    :param template_ok: False: look at the options only.
    :raises ManifestError: there can be no pod.
    """
    kept = (
        f"{settings.warm_pods_min} to {settings.warm_pods_max} without a task, each for {settings.warm_pod_idle_s:g} s"
    )
    return Passed(kept, tuple(_warnings(team, settings, kube_config, template_ok)))


def _warnings(team: str | None, settings: Settings, kube_config: KubeConfig, template_ok: bool) -> Iterator[str]:
    if settings.warm_pods_min and settings.warm_pod_idle_s < _IDLE_LEAST_S:
        yield (
            f"[podrelay] warm_pod_idle_s = {settings.warm_pod_idle_s:g} ends and replaces {settings.warm_pods_min} pods "
            "(warm_pods_min) that often, also while no task runs: make it longer."
        )
    if not template_ok:
        return
    # Loaded by name: the executor's side does not depend on the workers.
    manifests: Any = importlib.import_module("podrelay_workers.launcher.pod_manifest")
    shapes: Any = importlib.import_module("podrelay_workers.launcher.warm_pool.shape")
    renderer = manifests.ManifestRenderer(settings.deployment, team, kube_config=kube_config)
    args = pod_command.with_argument("{}")
    obstacle = shapes.obstacle_of(args, renderer.render_sample(namespaces_of(kube_config)[0]))
    if obstacle:
        yield f"no task with the configured template gets a warm pod: {obstacle}."
