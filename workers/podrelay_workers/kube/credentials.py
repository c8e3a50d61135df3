"""The address of the API server and the credentials for it, from `[kubernetes_executor]`. Used by `client` and `connection`.

The provider's own code builds the client configuration, so that in_cluster, config_file, cluster_context, verify_ssl,
ssl_ca_cert and the client factories mean exactly what they mean to the stock executor.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import os
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import aiohttp
from requests.utils import should_bypass_proxies

from podrelay.errors import ConfigError
from podrelay.impersonation import Headers, impersonation, kubeconfig_path, kubeconfig_user
from podrelay.teams import client_factory_of, team_options
from podrelay_workers.kube.authorization import Authorization
from podrelay_workers.kube.client_headers import headers_of_client, merged
from podrelay_workers.kube.send_guard import GuardedConnector
from podrelay_workers.kube.unbounded_call import until_returned

log = logging.getLogger(__name__)

CONNECT_S = 10.0  # a reachable node accepts a connection in far less
REQUEST_S = 60.0  # the API server's own time limit for one request


@dataclass(frozen=True)
class Credentials:
    """The Kubernetes client's `configuration`, which holds the credentials and refreshes them by its hooks.

    `client` is the user's client itself, whose headers are sent with every request; `impersonated` are those of a kubeconfig.

    `request_s` and `connect_s` bound one request; `read_s` bounds the silence within it, None if not configured (a watch
    sets its own limit). `authority` is the certificate authority of the server as it was loaded.
    """

    configuration: Any = field(repr=False)
    team: str | None = None
    connect_s: float = CONNECT_S
    request_s: float = REQUEST_S
    read_s: float | None = None
    keepalive: tuple[tuple[int, int, int], ...] = ()
    authority: bytes = field(default=b"", repr=False)
    client: Any = field(default=None, repr=False)
    impersonated: tuple[tuple[str, str], ...] = ()

    @property
    def host(self) -> str:
        return str(self.configuration.host).rstrip("/")

    async def headers(self) -> dict[str, str]:
        """The authorization headers of one request; the client's hook has read a rotated token file again.

        :raises Unauthorized: the client's hook fails or hangs, and there are none of before.
        """
        return await self.authorization.headers()

    @cached_property
    def authorization(self) -> Authorization:
        return Authorization(self.configuration)

    async def all_headers(self, user_agent: str, request: dict[str, str]) -> Headers:
        """The headers of one request: those of the user's client, of the request itself, and the authorization."""
        authorization = await self.headers()
        own = headers_of_client(self.client, user_agent)
        return merged(own, self.impersonated, request.items(), authorization.items())

    def session(self, limit: int) -> aiohttp.ClientSession:
        """A new pool of connections.

        :raises ConfigError: a certificate or key cannot be read.
        """
        options: dict[str, Any] = {}
        if self.keepalive and "socket_factory" in inspect.signature(aiohttp.TCPConnector.__init__).parameters:
            options["socket_factory"] = self._socket
        connector = GuardedConnector(limit=limit, ssl=self.tls, keepalive_timeout=30.0, **options)
        # A pod may be as large as etcd allows (1.5 MB): one watch event should not need many reads.
        return aiohttp.ClientSession(connector=connector, read_bufsize=2**20)

    @cached_property
    def proxy(self) -> str | None:
        """The configured proxy, else the environment's for this host; looked up once.

        aiohttp's own `trust_env` uses a thread twice per request, which costs as much as all the rest of the request.
        """
        configured = self.configuration.proxy
        if configured:
            # A blocking client stores the environment's NO_PROXY; the proxy of a kubeconfig has no exemptions.
            exempt = getattr(self.configuration, "no_proxy", None)
            return None if exempt and should_bypass_proxies(self.host, no_proxy=exempt) else str(configured)
        if should_bypass_proxies(self.host, no_proxy=None):  # supports networks such as 10.0.0.0/8, urllib does not
            return None
        found = getproxies().get(urlsplit(self.host).scheme)
        return found if found and found.startswith("http") else None

    def request_options(self) -> dict[str, Any]:
        """Options that every request needs besides URL, headers and timeout."""
        options: dict[str, Any] = {}
        if self.proxy:
            options["proxy"] = self.proxy
            if self.configuration.proxy_headers:
                options["proxy_headers"] = self.configuration.proxy_headers
        name = getattr(self.configuration, "tls_server_name", None)
        if name and self.host.startswith("https"):
            options["server_hostname"] = name
        return options

    def _socket(self, address: tuple[Any, ...]) -> socket.socket:
        new = socket.socket(family=address[0], type=address[1], proto=address[2])
        for level, option, value in self.keepalive:
            new.setsockopt(level, option, value)
        return new

    @cached_property
    def tls(self) -> ssl.SSLContext | bool:
        """:raises ConfigError: a certificate or key cannot be read."""
        if not self.host.startswith("https"):
            return True
        configuration = self.configuration
        try:
            context = ssl.create_default_context(cafile=configuration.ssl_ca_cert or None)
            if configuration.cert_file:
                context.load_cert_chain(configuration.cert_file, keyfile=configuration.key_file)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"Cannot read the certificates for the Kubernetes API server ({error}): check [kubernetes_executor] "
                "ssl_ca_cert and the kubeconfig in [kubernetes_executor] config_file."
            ) from error
        if not configuration.verify_ssl:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        elif getattr(configuration, "disable_strict_ssl_verification", False):
            context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        return context


async def load_credentials(team: str | None = None, on_wait: Callable[[str], None] | None = None) -> Credentials:
    """Load the credentials that `[kubernetes_executor]` (of the team, if given) refers to.

    It may take any time, which the caller limits: an exec plugin or a client factory may wait for a login.

    :param on_wait: called every few seconds while they are waited for, with what is waited for.
    :raises ConfigError: no kubeconfig, unknown context, not inside a cluster, a factory that cannot be imported.
    """
    logged: set[str] = set()

    def wait(seconds: float, program: str) -> None:
        trouble = f"waiting for the credentials for {seconds:.0f} s: {_source(team)}"
        trouble += f" runs {program}, which has not returned" if program else " has not returned"
        if program not in logged:
            log.warning("No credentials for the API server; %s", trouble)
        logged.add(program)
        if on_wait is not None:
            on_wait(trouble)

    credentials = await until_returned(lambda: asyncio.run(_load(team)), wait)
    if logged:
        log.info("Credentials for the API server loaded")
    return credentials


async def _load(team: str | None) -> Credentials:
    from airflow.providers.common.compat.sdk import AirflowConfigException, conf

    try:
        client = await _client(conf, team)
        user = {} if "factory = " in _source(team) else kubeconfig_user()
        impersonated = tuple(impersonation(user))
        _check_plugin(user, client.configuration)
    except ConfigError as error:
        raise ConfigError(f"Cannot use {_source(team)}: {error}.") from error
    except AirflowConfigException as error:
        raise ConfigError(f"Cannot use [kubernetes_executor]: {error}") from error
    except (Exception, SystemExit) as error:  # noqa: BLE001 - kubeconfig loaders and factories may raise anything
        raise ConfigError(_remedy(conf, error, _source(team))) from error
    configuration = client.configuration
    authority = _read_authority(configuration.ssl_ca_cert)
    credentials = Credentials(
        configuration, team, keepalive=_keepalive(conf), authority=authority, client=client, impersonated=impersonated,
        **_timeouts(conf, team),
    )  # fmt: skip
    scheme = urlsplit(credentials.proxy or "http:").scheme
    if scheme not in ("http", "https"):
        raise ConfigError(f"Only an HTTP proxy is supported, not {scheme}: change proxy-url in the kubeconfig.")
    with contextlib.suppress(ConfigError):  # raised again where it is used
        credentials.tls  # noqa: B018 - reads files, which may take any time
    return credentials


def _source(team: str | None) -> str:
    """The option that the credentials come from."""
    from airflow.providers.common.compat.sdk import conf

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


def _read_authority(path: str | None) -> bytes:
    try:
        return Path(path).read_bytes() if path else b""
    except OSError:  # reported by `Credentials.session`
        return b""


async def _client(conf: Any, team: str | None) -> Any:
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


def _remedy(conf: Any, error: BaseException, source: str) -> str:
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


def _keepalive(conf: Any) -> tuple[tuple[int, int, int], ...]:
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


def _timeouts(conf: Any, team: str | None) -> dict[str, Any]:
    """The `_request_timeout` in kube_client_request_args: one number for the whole request, or [connect, read]."""
    arguments = conf.getjson("kubernetes_executor", "kube_client_request_args", fallback={}, **team_options(team)) or {}
    limit = arguments.get("_request_timeout") if isinstance(arguments, dict) else None
    if isinstance(limit, (int, float)) and limit > 0:
        return {"request_s": float(limit), "read_s": float(limit)}
    if isinstance(limit, (list, tuple)) and len(limit) == 2:
        connect_s, read_s = (float(part) if part else None for part in limit)
        return {"connect_s": connect_s or CONNECT_S, "read_s": read_s}
    return {}
