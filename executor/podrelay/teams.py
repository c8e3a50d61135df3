"""What a team changes: the options of its executor, its cluster, its namespaces, and the tags of its metrics.

A team's options have no fallback to those without its prefix (AIP-67). Used by the executor, the command line, launchers
and watchers.
"""

from __future__ import annotations

from typing import Any

from airflow.exceptions import AirflowConfigException
from airflow.providers.cncf.kubernetes.kube_config import KubeConfig

from podrelay.errors import ConfigError
from podrelay.protocol.identifiers import DEFAULT_CLUSTER


def kube_config_of(team: str | None) -> KubeConfig:
    """`[kubernetes_executor]` as the provider reads it.

    :raises ConfigError: an option there cannot be used.
    """
    try:
        if team is None:
            return KubeConfig()
        from airflow.executors.base_executor import ExecutorConf  # Airflow 3.2 and later

        return KubeConfig(executor_conf=ExecutorConf(team))
    except (AirflowConfigException, ValueError) as error:
        raise ConfigError(f"[kubernetes_executor] cannot be used: {error}") from error


def cluster_of(team: str | None) -> str:
    """The cluster that runs a team's pods: one of the team's name."""
    return team or DEFAULT_CLUSTER


def metric_tags(team: str | None) -> dict[str, str]:
    """Tags of every metric, as the stock executor sets them."""
    return {"team_name": team} if team else {}


def watched_namespaces(kube_config: KubeConfig) -> tuple[str | None, ...]:
    """The namespaces whose pods the watcher follows; (None,) stands for all of them."""
    if not kube_config.multi_namespace_mode:
        return (kube_config.kube_namespace or "default",)
    listed = dict.fromkeys(
        filter(None, (item.strip() for item in kube_config.multi_namespace_mode_namespace_list or ()))
    )
    return tuple(listed) or (None,)


def kube_client_of(team: str | None) -> Any:
    """The Kubernetes client that the stock executor would use."""
    from airflow.providers.cncf.kubernetes import kube_client

    factory = getattr(kube_client, "_get_executor_kube_client", None)
    return factory(team_name=team) if factory else kube_client.get_kube_client()
