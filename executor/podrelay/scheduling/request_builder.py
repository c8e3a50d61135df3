"""Workload -> LaunchRequest: validates the executor_config and puts what a launcher needs side by side.

The workload's own JSON leaves out executor_config and external_executor_id, so both travel beside it.
"""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from airflow.providers.cncf.kubernetes.kube_config import KubeConfig
from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator

from podrelay import compat
from podrelay.protocol.messages import LaunchRequest
from podrelay.teams import watched_namespaces

log = logging.getLogger(__name__)


class InvalidExecutorConfig(ValueError):
    """The executor_config of a task is not one that the stock executor would accept."""


def request_for(
    workload: Any,
    launch_id: str,
    owner: str,
    kube_config: KubeConfig,
    *,
    cluster: str,
    team: str | None,
    executor_config: Any = None,
    queue: str | None = None,
    attempt: int = 0,
    known_by_id: bool = False,
) -> LaunchRequest:
    """Everything a launcher needs to make the pod.

    :raises InvalidExecutorConfig: only this task can be blamed, and only it fails.
    """
    kind = compat.kind_of(workload)
    override, template = _pod_options(executor_config)
    extra = _coordinator_extra(queue)
    image = None
    if extra.get("worker_container_repository") and extra.get("worker_container_tag"):
        image = f"{extra['worker_container_repository']}:{extra['worker_container_tag']}"
    ti = getattr(workload, "ti", None)
    namespace = ((override or {}).get("metadata") or {}).get("namespace") or kube_config.executor_namespace
    return LaunchRequest(
        launch_id=launch_id,
        attempt=attempt,
        kind=kind or "task",  # type: ignore[arg-type]
        subject=compat.subject_of(workload),
        key=(ti.dag_id, ti.task_id, ti.run_id, ti.try_number, ti.map_index) if ti is not None else (),
        owner=owner,
        args=compat.args_of(workload),
        cluster=cluster,
        team=team,
        namespace=namespace,
        pod_override=override,
        pod_template_file=extra.get("pod_template_file") or template,
        image=image,
        priority=ti.priority_weight if ti is not None else _CALLBACK_PRIORITY,
        not_after_s=compat.token_end_s(workload.token),
        known_by_id=known_by_id and kind == "task",
    )


def with_new_token(request: LaunchRequest, workload: Any, generator: Any) -> tuple[LaunchRequest, Any]:
    """The same launch with a token that begins its life now, and the workload that holds it."""
    fresh = compat.with_new_token(workload, generator)
    return replace(request, args=compat.args_of(fresh), not_after_s=compat.token_end_s(fresh.token)), fresh


def watches(kube_config: KubeConfig, namespace: str) -> bool:
    """Does the watcher follow the pods of this namespace? Those of others it asks for one by one."""
    watched = watched_namespaces(kube_config)
    return watched == (None,) or namespace in watched


# Callbacks complete work that is already done, and connection tests have a person waiting: Airflow puts them first.
_CALLBACK_PRIORITY = 1 << 30


def _pod_options(executor_config: Any) -> tuple[dict[str, Any] | None, str | None]:
    """pod_override as plain JSON, and pod_template_file."""
    if executor_config is None or executor_config == {}:
        return None, None
    try:
        pod = PodGenerator.from_obj(executor_config)
        override = PodGenerator.serialize_pod(pod) if pod is not None else None
        json.dumps(override, allow_nan=False)  # a pod may hold values that no wire carries
        template = executor_config.get("pod_template_file") if executor_config else None
    except Exception as error:  # noqa: BLE001  whatever a user put there fails this task and no other
        raise InvalidExecutorConfig(f"{type(error).__name__}: {error}") from error
    if template is not None and not isinstance(template, (str, Path)):
        raise InvalidExecutorConfig(f"pod_template_file is a {type(template).__name__}, not a path")
    if override is not None and not _is_pod(override):
        raise InvalidExecutorConfig("pod_override is not made of the types that Kubernetes knows")
    return override, str(template) if template is not None else None


def _is_pod(override: Any) -> bool:
    return (
        isinstance(override, dict)
        and all(isinstance(override.get(part, {}), dict) for part in ("metadata", "spec"))
        and isinstance((override.get("metadata") or {}).get("namespace", ""), str)
    )


def _coordinator_extra(queue: str | None) -> dict[str, Any]:
    """What the coordinator of this queue declares (Airflow 3.3 and later); a broken declaration counts as none."""
    if not queue:
        return {}
    try:
        from airflow.sdk.exceptions import AirflowConfigException
        from airflow.sdk.execution_time.coordinator import get_coordinator_manager
    except ImportError:
        return {}
    try:
        return dict(get_coordinator_manager().extra_for_queue(queue) or {})
    except (AirflowConfigException, ValueError):
        log.warning("Ignoring the coordinator of queue %s: its [sdk] configuration is invalid", queue, exc_info=True)
        return {}
