"""Whom a kubeconfig impersonates: `as`, `as-groups`, `as-uid` and `as-user-extra`, which both client libraries ignore.

Used by launchers and watchers, and by the blocking client of `airflow podrelay check` and live logs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from podrelay.errors import ConfigError

Headers = list[tuple[str, str]]


def impersonation(user: Mapping[str, Any]) -> Headers:
    """Pure: the headers for the user of a kubeconfig.

    :raises ConfigError: fields of the wrong type, or groups without a user.
    """
    name, uid = user.get("as") or "", user.get("as-uid") or ""
    groups, extra = user.get("as-groups") or [], user.get("as-user-extra") or {}
    fits = isinstance(name, str) and isinstance(uid, str) and _are_texts(groups)
    if not fits or not isinstance(extra, dict) or not all(_are_texts(values) for values in extra.values()):
        raise ConfigError("as, as-groups, as-uid or as-user-extra of its user has the wrong type")
    if not name:
        if groups or uid or extra:
            raise ConfigError("as-groups, as-uid and as-user-extra of its user need as")
        return []
    found = [("Impersonate-User", name)]
    if uid:
        found.append(("Impersonate-Uid", uid))
    found += [("Impersonate-Group", group) for group in groups]
    for key, values in extra.items():
        found += [(f"Impersonate-Extra-{quote(str(key).lower(), safe='')}", value) for value in values]
    return found


def _are_texts(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def kubeconfig_path() -> str | None:
    """What `[kubernetes_executor] config_file` holds; None for the client library's default."""
    from airflow.providers.common.compat.sdk import conf

    return conf.get("kubernetes_executor", "config_file", fallback=None) or None


def kubeconfig_user() -> dict[str, Any]:
    """The entry of the user in the kubeconfig of `[kubernetes_executor]`; empty inside a cluster, which has none."""
    from airflow.providers.common.compat.sdk import conf

    if conf.getboolean("kubernetes_executor", "in_cluster", fallback=True):
        return {}
    from kubernetes.config import kube_config

    found = kube_config.KubeConfigMerger(kubeconfig_path() or kube_config.KUBE_CONFIG_DEFAULT_LOCATION).config
    document = found.value if found is not None else {}
    context = conf.get("kubernetes_executor", "cluster_context", fallback=None) or document.get("current-context")
    of_context = _named(document, "contexts", context).get("context") or {}
    return _named(document, "users", of_context.get("user")).get("user") or {}


def _named(document: Any, kind: str, name: Any) -> Any:
    items = [getattr(item, "value", item) for item in document.get(kind) or []]  # merged entries are ConfigNodes
    return next((item for item in items if item.get("name") == name), {})


def impersonate(api_client: Any) -> None:
    """Let each request of a blocking `ApiClient` carry the kubeconfig's headers; its default headers cannot repeat a name.

    :raises ConfigError: the kubeconfig's fields cannot be meant.
    """
    try:
        headers = impersonation(kubeconfig_user())
    except ConfigError as error:
        path = kubeconfig_path() or "~/.kube/config"
        raise ConfigError(f"Cannot use [kubernetes_executor] config_file = {path}: {error}.") from error
    if headers:
        manager = api_client.rest_client.pool_manager
        pools = manager.pool_classes_by_scheme
        manager.pool_classes_by_scheme = {scheme: _sending(pool, headers) for scheme, pool in pools.items()}


def _sending(pool: Any, added: Headers) -> Any:
    """A class of connection pools like `pool` that adds headers."""
    import urllib3

    class Impersonating(pool):
        def urlopen(
            self, method: str, url: str, body: Any = None, headers: Any = None, *args: Any, **options: Any
        ) -> Any:
            sent = urllib3.HTTPHeaderDict(self.headers if headers is None else headers)
            for name, _ in added:
                sent.discard(name)  # there already if urllib3 tries again
            for name, value in added:
                sent.add(name, value)
            return super().urlopen(method, url, body, sent, *args, **options)

    return Impersonating
