"""The client of the API server, as the provider makes it from `[kubernetes_executor]`. Imports Airflow and client libraries.

The provider's own code builds the client configuration, so that in_cluster, config_file, cluster_context, verify_ssl,
ssl_ca_cert and the client factories mean exactly what they mean to the stock executor. Used by `credential_loader`, in a
process of its own, and by `credentials` where a client factory needs the client itself.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from airflow.providers.common.compat.sdk import AirflowConfigException, conf

from podrelay.errors import ConfigError
from podrelay.impersonation import impersonation, kubeconfig_path, kubeconfig_user
from podrelay.teams import client_factory_of, has_client_factory, team_options
from podrelay_workers.kube.authorization import headers_of
from podrelay_workers.kube.credentials import CONNECT_S, Credentials
from podrelay_workers.kube.plain_configuration import File, PlainConfiguration


async def load(team: str | None) -> Credentials:
    """It may take any time: an exec plugin or a client factory may wait for a login.

    The configuration is a `PlainConfiguration`, except where only the client itself can renew it.

    :raises ConfigError: no kubeconfig, unknown context, not inside a cluster, a factory that cannot be imported.
    """
    try:
        client = await _client(team)
        user = {} if has_client_factory(team) else kubeconfig_user()
        impersonated = tuple(impersonation(user))
        _check_plugin(user, client.configuration)
    except ConfigError as error:
        raise ConfigError(f"Cannot use {source(team)}: {error}.") from error
    except AirflowConfigException as error:
        raise ConfigError(f"Cannot use [kubernetes_executor]: {error}") from error
    except (Exception, SystemExit) as error:  # noqa: BLE001 - kubeconfig loaders and factories may raise anything
        raise ConfigError(_remedy(error, source(team))) from error
    authority = _read(client.configuration.ssl_ca_cert or os.devnull)
    configuration = None if has_client_factory(team) else _plain(client.configuration, authority)
    credentials = Credentials(
        configuration or client.configuration,
        team,
        keepalive=_keepalive(),
        authority=authority,
        client=None if configuration else client,
        impersonated=impersonated,
        **_timeouts(team),
    )
    scheme = urlsplit(credentials.proxy or "http:").scheme
    if scheme not in ("http", "https"):
        raise ConfigError(f"Only an HTTP proxy is supported, not {scheme}: change proxy-url in the kubeconfig.")
    with contextlib.suppress(ConfigError):  # raised again where it is used
        credentials.tls  # noqa: B018 - reads files, which may take any time
    return credentials


def _plain(found: Any, authority: bytes) -> PlainConfiguration | None:
    """The configuration as plain data, with the content of its files; None if it has a hook of the user's own."""
    hook = found.refresh_api_key_hook
    in_cluster = getattr(hook, "__module__", "").endswith(".incluster_config")
    if hook is not None and not in_cluster:
        return None
    authorization = headers_of(found).get("Authorization", "").strip()
    return PlainConfiguration(
        host=found.host,
        verify_ssl=found.verify_ssl,
        disable_strict_ssl_verification=getattr(found, "disable_strict_ssl_verification", False),
        ssl_ca_cert=authority or found.ssl_ca_cert,
        cert_file=_content(found.cert_file),
        key_file=_content(found.key_file),
        tls_server_name=getattr(found, "tls_server_name", None),
        proxy=found.proxy,
        no_proxy=getattr(found, "no_proxy", None),
        proxy_headers=found.proxy_headers,
        authorization=authorization,
        token_file=_token_file(authorization, in_cluster),
    )


def source(team: str | None) -> str:
    """The option that the credentials come from."""
    for option in ("async_client_factory", "client_factory"):
        if factory := client_factory_of(team, option):
            return f"[kubernetes_executor] {option} = {factory}"
    if conf.getboolean("kubernetes_executor", "in_cluster", fallback=True):
        return "the service account of this pod"
    path = kubeconfig_path() or "~/.kube/config"
    return f"[kubernetes_executor] config_file = {path}"


def _check_plugin(user: dict[str, Any], configuration: Any) -> None:
    """:raises ConfigError: an exec plugin failed, which the client library only logs."""
    plugin = user.get("exec")
    if isinstance(plugin, dict) and not (configuration.api_key or configuration.cert_file):
        raise ConfigError(f"its exec plugin {plugin.get('command')} gave no credentials; the log above may say why")


def _content(path: str | None) -> File:
    """What a file holds; its path if it cannot be read, which is reported where it is used."""
    return (_read(path) or path) if path else None


def _read(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""


def _token_file(authorization: str, in_cluster: bool) -> str | None:
    """The absolute path of the file that the token was read from."""
    if in_cluster:
        from kubernetes_asyncio.config import incluster_config

        return str(incluster_config.SERVICE_TOKEN_FILENAME)
    named = kubeconfig_user().get("tokenFile")
    if not isinstance(named, str) or not authorization:
        return None
    from kubernetes.config import kube_config

    # Relative to the kubeconfig that names it: one of several, perhaps.
    kubeconfigs = (kubeconfig_path() or kube_config.KUBE_CONFIG_DEFAULT_LOCATION).split(os.pathsep)
    paths = [Path(part).expanduser().absolute().parent / named for part in kubeconfigs]
    return next((str(path) for path in paths if path.is_file() and _bearer(path) == authorization), None)


def _bearer(path: Path) -> str:
    return f"Bearer {_read(path).decode(errors='replace').strip()}"


async def _client(team: str | None) -> Any:
    """The `ApiClient` of either library; closed, because only its configuration and its headers are used."""
    from airflow.providers.cncf.kubernetes import kube_client

    own_async, own_sync = (client_factory_of(team, option) for option in ("async_client_factory", "client_factory"))
    if own_sync and not own_async:
        client = conf.getimport("kubernetes_executor", "client_factory", **team_options(team))()
    elif hasattr(kube_client, "_get_executor_async_kube_client"):
        client = await kube_client._get_executor_async_kube_client(team_name=team)
    elif own_async:
        client = conf.getimport("kubernetes_executor", "async_client_factory", **team_options(team))()
    else:
        client = await kube_client.get_async_kube_client()
    api_client = client.api_client
    closing = api_client.close()
    if inspect.isawaitable(closing):
        await closing
    if not (own_sync or own_async or conf.getboolean("kubernetes_executor", "verify_ssl", fallback=True)):
        # In the stock executor's client the option overrides the kubeconfig; in the asynchronous client it does not.
        api_client.configuration.verify_ssl = False
    return api_client


def _remedy(error: BaseException, source: str) -> str:
    why = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
    if "factory = " in source:
        return f"No client for Kubernetes: {source} failed ({type(error).__name__}: {why})."
    if conf.getboolean("kubernetes_executor", "in_cluster", fallback=True):
        return (
            f"No access to Kubernetes from inside a cluster ({why}): run in a pod with a service account, or set "
            "[kubernetes_executor] in_cluster = False and [kubernetes_executor] config_file to a kubeconfig."
        )
    path = kubeconfig_path() or "~/.kube/config"
    if not any(Path(part).expanduser().exists() for part in path.split(os.pathsep)):
        why = "no such file"
    context = conf.get("kubernetes_executor", "cluster_context", fallback=None)
    chosen = f" with [kubernetes_executor] cluster_context = {context}" if context else ""
    return (
        f"No usable kubeconfig: [kubernetes_executor] config_file = {path}{chosen} cannot be used ({why}). "
        "Set it to a kubeconfig that exists and has that context."
    )


def _keepalive() -> tuple[tuple[int, int, int], ...]:
    section = "kubernetes_executor"
    if not conf.getboolean(section, "enable_tcp_keepalive", fallback=True):
        return ()
    options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    for option, name, default in (
        ("TCP_KEEPIDLE", "tcp_keep_idle", 120),
        ("TCP_KEEPINTVL", "tcp_keep_intvl", 30),
        ("TCP_KEEPCNT", "tcp_keep_cnt", 6),
    ):
        number = getattr(socket, option, None)
        if number is not None:
            options.append((socket.IPPROTO_TCP, number, conf.getint(section, name, fallback=default)))
    return tuple(options)


def _timeouts(team: str | None) -> dict[str, Any]:
    """The `_request_timeout` in kube_client_request_args: one number for the whole request, or [connect, read]."""
    arguments = conf.getjson("kubernetes_executor", "kube_client_request_args", fallback={}, **team_options(team)) or {}
    limit = arguments.get("_request_timeout") if isinstance(arguments, dict) else None
    if isinstance(limit, (int, float)) and limit > 0:
        return {"request_s": float(limit), "read_s": float(limit)}
    if isinstance(limit, (list, tuple)) and len(limit) == 2:
        connect_s, read_s = (float(part) if part else None for part in limit)
        return {"connect_s": connect_s or CONNECT_S, "read_s": read_s}
    return {}
