"""Where the API server is and how to be let in, as `[kubernetes_executor]` says. Used by `pods_api`.

The provider's own client construction decides, so that in_cluster, config_file, cluster_context, verify_ssl,
ssl_ca_cert and the client factories mean exactly what they mean to the stock executor.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import socket
import ssl
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import aiohttp
from requests.utils import should_bypass_proxies

from podrelay.errors import ConfigError
from podrelay_workers.kube.send_guard import GuardedConnector

CONNECT_S = 10.0  # a node that answers at all accepts a connection in far less
REQUEST_S = 60.0  # what the API server allows itself for one request


@dataclass(frozen=True)
class Credentials:
    """One way in. `configuration` is the Kubernetes client's: it holds credentials and refreshes them by its hooks.

    `request_s` and `connect_s` bound one request; `read_s` bounds the silence inside one, None where nothing is set (a watch
    has a bound of its own).
    `authority` is what the server was to be known by when this was read.
    """

    configuration: Any = field(repr=False)
    team: str | None = None
    connect_s: float = CONNECT_S
    request_s: float = REQUEST_S
    read_s: float | None = None
    keepalive: tuple[tuple[int, int, int], ...] = ()
    authority: bytes = field(default=b"", repr=False)

    @property
    def host(self) -> str:
        return str(self.configuration.host).rstrip("/")

    async def headers(self) -> dict[str, str]:
        """Credentials of one request; the client's hook reads a rotated token file again by itself."""
        refresh = getattr(self.configuration, "refresh_api_key_hook", None)
        if refresh is not None:
            result = refresh(self.configuration)
            if inspect.isawaitable(result):
                await result
        keys = self.configuration.api_key
        # The two client libraries name the same entry differently.
        name = next((name for name in ("BearerToken", "authorization") if keys.get(name)), None)
        if name is not None:
            prefix = self.configuration.api_key_prefix.get(name)
            return {"Authorization": f"{prefix} {keys[name]}" if prefix else keys[name]}
        if self.configuration.username and self.configuration.password:
            return {"Authorization": self.configuration.get_basic_auth_token()}
        return {}

    def session(self, limit: int) -> aiohttp.ClientSession:
        """A new pool of connections.

        :raises ConfigError: a certificate or key cannot be read.
        """
        options: dict[str, Any] = {}
        if self.keepalive and "socket_factory" in inspect.signature(aiohttp.TCPConnector.__init__).parameters:
            options["socket_factory"] = self._socket
        connector = GuardedConnector(limit=limit, ssl=self._tls(), keepalive_timeout=30.0, **options)
        # A pod may be as large as etcd allows (1.5 MB): one watch event should not need many reads.
        return aiohttp.ClientSession(connector=connector, read_bufsize=2**20)

    @cached_property
    def proxy(self) -> str | None:
        """The configured proxy, else the environment's for this host. Looked up once: aiohttp's own `trust_env` asks a
        thread twice for each request, which costs as much as all the rest of it.
        """
        configured = self.configuration.proxy
        if configured:
            # A blocking client keeps what the environment's proxy spares beside it; a kubeconfig's spares nothing.
            spared = getattr(self.configuration, "no_proxy", None)
            return None if spared and should_bypass_proxies(self.host, no_proxy=spared) else str(configured)
        if should_bypass_proxies(self.host, no_proxy=None):  # unlike urllib it knows networks, as 10.0.0.0/8
            return None
        found = getproxies().get(urlsplit(self.host).scheme)
        return found if found and found.startswith("http") else None

    def request_options(self) -> dict[str, Any]:
        """What every request of this cluster needs besides URL, headers and timeout."""
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
        made = socket.socket(family=address[0], type=address[1], proto=address[2])
        for level, option, value in self.keepalive:
            made.setsockopt(level, option, value)
        return made

    def _tls(self) -> ssl.SSLContext | bool:
        if not self.host.startswith("https"):
            return True
        configuration = self.configuration
        try:
            context = ssl.create_default_context(cafile=configuration.ssl_ca_cert or None)
            if configuration.cert_file:
                context.load_cert_chain(configuration.cert_file, keyfile=configuration.key_file)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                "The certificates for the Kubernetes API server cannot be read: check [kubernetes_executor] "
                f"ssl_ca_cert and the kubeconfig that [kubernetes_executor] config_file names ({error})."
            ) from error
        if not configuration.verify_ssl:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        elif getattr(configuration, "disable_strict_ssl_verification", False):
            context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        return context


async def load_credentials(team: str | None = None) -> Credentials:
    """Read `[kubernetes_executor]` (of the team, where given) and the credentials it leads to.

    :raises ConfigError: no kubeconfig, unknown context, not inside a cluster, a factory that cannot be imported.
    """
    from airflow.providers.common.compat.sdk import AirflowConfigException, conf

    try:
        configuration = await _configuration(conf, team)
    except AirflowConfigException as error:
        raise ConfigError(f"[kubernetes_executor] cannot be used: {error}") from error
    except Exception as error:  # noqa: BLE001 - kubeconfig loaders raise whatever a malformed file makes them
        raise ConfigError(_what_to_change(conf, error)) from error
    authority = _content(configuration.ssl_ca_cert)
    access = Credentials(configuration, team, keepalive=_keepalive(conf), authority=authority, **_timeouts(conf, team))
    scheme = urlsplit(access.proxy or "http:").scheme
    if scheme not in ("http", "https"):
        raise ConfigError(f"A {scheme} proxy cannot be used, only an HTTP proxy: change proxy-url in the kubeconfig.")
    return access


def _content(path: str | None) -> bytes:
    try:
        return Path(path).read_bytes() if path else b""
    except OSError:  # told when the connections are made
        return b""


async def _configuration(conf: Any, team: str | None) -> Any:
    from airflow.providers.cncf.kubernetes import kube_client

    team_options = {"team_name": team} if team else {}
    own_async = conf.get("kubernetes_executor", "async_client_factory", fallback=None, **team_options)
    own_sync = conf.get("kubernetes_executor", "client_factory", fallback=None, **team_options)
    if own_sync and not own_async:
        # The user's factory makes a blocking client: its configuration says all that is needed.
        client = await asyncio.to_thread(conf.getimport("kubernetes_executor", "client_factory", **team_options))
    elif hasattr(kube_client, "_get_executor_async_kube_client"):
        client = await kube_client._get_executor_async_kube_client(team_name=team)
    elif own_async:
        client = conf.getimport("kubernetes_executor", "async_client_factory", **team_options)()
    else:
        client = await kube_client.get_async_kube_client()
    api_client = client.api_client
    closing = api_client.close()  # its connections are not used, ours are
    if inspect.isawaitable(closing):
        await closing
    if not (own_sync or own_async or conf.getboolean("kubernetes_executor", "verify_ssl", fallback=True)):
        # The stock executor's own client lets the option win over the kubeconfig; the asynchronous one does not.
        api_client.configuration.verify_ssl = False
    return api_client.configuration


def _what_to_change(conf: Any, error: Exception) -> str:
    why = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
    if conf.getboolean("kubernetes_executor", "in_cluster", fallback=True):
        return (
            f"No access to Kubernetes from inside a cluster ({why}): run in a pod with a service account, or set "
            "[kubernetes_executor] in_cluster = False and [kubernetes_executor] config_file to a kubeconfig."
        )
    path = conf.get("kubernetes_executor", "config_file", fallback=None) or "~/.kube/config"
    if not any(Path(part).expanduser().exists() for part in path.split(os.pathsep)):
        why = "there is no such file"
    context = conf.get("kubernetes_executor", "cluster_context", fallback=None)
    chosen = f" with [kubernetes_executor] cluster_context = {context}" if context else ""
    return (
        f"No usable kubeconfig: [kubernetes_executor] config_file = {path}{chosen} cannot be used ({why}). "
        "Name a kubeconfig that exists and holds that context."
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
    """`_request_timeout` of kube_client_request_args: one number for the whole request, or [connect, read]."""
    team_options = {"team_name": team} if team else {}
    arguments = conf.getjson("kubernetes_executor", "kube_client_request_args", fallback={}, **team_options) or {}
    limit = arguments.get("_request_timeout") if isinstance(arguments, dict) else None
    if isinstance(limit, (int, float)) and limit > 0:
        return {"request_s": float(limit), "read_s": float(limit)}
    if isinstance(limit, (list, tuple)) and len(limit) == 2:
        connect_s, read_s = (float(part) if part else None for part in limit)
        return {"connect_s": connect_s or CONNECT_S, "read_s": read_s}
    return {}
