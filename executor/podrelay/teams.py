"""Everything that depends on the team: Kubernetes options and client, cluster, namespaces, tags of metrics.

The options of a team do not fall back to the global ones (AIP-67). Used by the executor, the command line, launchers and
watchers.
"""

from __future__ import annotations

from typing import Any

from airflow.exceptions import AirflowConfigException
from airflow.providers.cncf.kubernetes.kube_config import KubeConfig

from podrelay.errors import ConfigError
from podrelay.protocol.identifiers import DEFAULT_CLUSTER


def kube_config_of(team: str | None) -> KubeConfig:
    """`[kubernetes_executor]` as the provider reads it.

    :raises ConfigError: an option is invalid.
    """
    try:
        if team is None:
            return KubeConfig()
        from airflow.executors.base_executor import ExecutorConf  # Airflow 3.2 and later

        return KubeConfig(executor_conf=ExecutorConf(team))
    except (AirflowConfigException, ValueError) as error:
        raise ConfigError(f"[kubernetes_executor] is invalid: {error}") from error


def cluster_of(team: str | None) -> str:
    """The name of the cluster that runs the pods of a team."""
    return team or DEFAULT_CLUSTER


def metric_tags(team: str | None) -> dict[str, str]:
    """Tags of every metric, as the stock executor sets them."""
    return {"team_name": team} if team else {}


def watched_namespaces(kube_config: KubeConfig) -> tuple[str | None, ...]:
    """The namespaces whose pods the watcher follows; (None,) means all namespaces."""
    if not kube_config.multi_namespace_mode:
        return (kube_config.kube_namespace or "default",)
    names = dict.fromkeys(
        filter(None, (item.strip() for item in kube_config.multi_namespace_mode_namespace_list or ()))
    )
    return tuple(names) or (None,)


def kube_client_of(team: str | None) -> Any:
    """A blocking Kubernetes client, constructed as the stock executor constructs it."""
    from airflow.providers.cncf.kubernetes import kube_client

    factory = getattr(kube_client, "_get_executor_kube_client", None)
    return factory(team_name=team) if factory else kube_client.get_kube_client()
