"""Everything that depends on the team: Kubernetes options and client, cluster, namespaces, tags of metrics.

The options of a team do not fall back to the global ones (AIP-67). Used by the executor, the command line, launchers and
watchers. Those run without Airflow: only the functions that read its configuration import it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from podrelay.errors import ConfigError
from podrelay.protocol.identifiers import DEFAULT_CLUSTER

if TYPE_CHECKING:
    from airflow.providers.cncf.kubernetes.kube_config import KubeConfig

_SECTION = "kubernetes_executor"


def kube_config_of(team: str | None) -> KubeConfig:
    """`[kubernetes_executor]` as the provider reads it.

    :raises ConfigError: an option is invalid.
    """
    from airflow.exceptions import AirflowConfigException
    from airflow.providers.cncf.kubernetes.kube_config import KubeConfig

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
    """A blocking Kubernetes client, constructed as the stock executor constructs it.

    Each of its requests carries what a `client_factory` put on it, or whom the kubeconfig impersonates.

    :raises ConfigError: the kubeconfig impersonates nobody that can be meant.
    """
    from airflow.providers.cncf.kubernetes import kube_client
    from airflow.providers.common.compat.sdk import conf

    from podrelay.impersonation import impersonate

    if client_factory_of(team, "client_factory"):
        return conf.getimport(_SECTION, "client_factory", **team_options(team))()
    client = kube_client.get_kube_client()
    impersonate(client.api_client)
    return client


def client_factory_of(team: str | None, option: str) -> str | None:
    """What `client_factory` or `async_client_factory` names."""
    from airflow.providers.common.compat.sdk import conf

    return conf.get(_SECTION, option, fallback=None, **team_options(team)) or None


def has_client_factory(team: str | None) -> bool:
    """Must the client itself be in the process that uses it? A factory may put anything on it."""
    return any(client_factory_of(team, option) for option in ("async_client_factory", "client_factory"))


def team_options(team: str | None) -> dict[str, str]:
    """Arguments that make Airflow's configuration read the options of a team."""
    return {"team_name": team} if team else {}
