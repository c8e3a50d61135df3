"""The address of the API server and the credentials for it, from `[kubernetes_executor]`. Used by `client` and `connection`.

The provider's own code decides what the options mean (`provider_client`). It runs in a short-lived process, because Airflow
and both client libraries need four times the memory of the rest of a worker; only a client factory's client must be here.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import math
import socket
import ssl
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import aiohttp

from podrelay.errors import ConfigError
from podrelay_workers.kube.authorization import Authorization
from podrelay_workers.kube.client_headers import Headers, headers_of_client, merged
from podrelay_workers.kube.loader_process import LoaderDied, LoaderProcess
from podrelay_workers.kube.memory_file import path_of
from podrelay_workers.kube.plain_configuration import PlainConfiguration
from podrelay_workers.kube.send_guard import GuardedConnector
from podrelay_workers.kube.unbounded_call import until_returned
from podrelay_workers.runtime.airflow_child import load_here

log = logging.getLogger(__name__)

CONNECT_S = 10.0  # a reachable node accepts a connection in far less
REQUEST_S = 60.0  # the API server's own time limit for one request
# What an exec plugin gave is renewed after this share of its lifetime: for a login of 15 minutes, 90 s before its end.
_USED_SHARE = 0.9
# A loader that died is started again after this time.
_RESTART_S = 2.0


@dataclass(frozen=True)
class Credentials:
    """A `configuration` that holds the credentials and refreshes them by its hook: plain data, or that of a user's client.

    `client` is the user's client itself, whose headers are sent with every request; `impersonated` are those of a kubeconfig.

    `request_s` and `connect_s` bound one request; `read_s` bounds the silence within it, None if not configured (a watch
    sets its own limit). `authority` is the certificate authority of the server as it was loaded. From `renew_at_s` on, by the
    monotonic clock, others should be loaded: these expire soon.
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
    renew_at_s: float = math.inf

    @property
    def host(self) -> str:
        return str(self.configuration.host).rstrip("/")

    @property
    def _is_https(self) -> bool:
        return urlsplit(self.host).scheme == "https"

    async def headers(self) -> dict[str, str]:
        """The authorization headers of one request; the client's hook has read a rotated token file again.

        :raises Unauthorized: the client's hook fails or hangs, and there are none of before.
        """
        return await self.authorization.headers()

    @cached_property
    def authorization(self) -> Authorization:
        return Authorization(self.configuration)

    async def all_headers(self, user_agent: str, request: dict[str, str]) -> Headers:
        """The headers of one request: those of the user's client, of the request itself, and the authorization.

        It is the same list as long as nothing of them changes: do not change it.
        """
        authorization = await self.headers()
        client = self.client
        own = _without_client(user_agent) if client is None else tuple(headers_of_client(client, user_agent))
        return self._merged(own, self.impersonated, tuple(request.items()), tuple(authorization.items()))

    @cached_property
    def _merged(self) -> Callable[..., Headers]:
        return lru_cache(maxsize=16)(merged)  # a worker sends few kinds of requests

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
            return None if exempt and _is_exempt(self.host, exempt) else str(configured)
        found = getproxies().get(urlsplit(self.host).scheme, "")
        return found if found.startswith("http") and not _is_exempt(self.host, None) else None

    def request_options(self) -> dict[str, Any]:
        """Options that every request needs besides URL, headers and timeout."""
        options: dict[str, Any] = {}
        if self.proxy:
            options["proxy"] = self.proxy
            if self.configuration.proxy_headers:
                options["proxy_headers"] = self.configuration.proxy_headers
        name = getattr(self.configuration, "tls_server_name", None)
        if name and self._is_https:
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
        if not self._is_https:
            return True
        configuration = self.configuration
        try:
            with path_of(configuration.ssl_ca_cert or None) as path:
                context = ssl.create_default_context(cafile=path)
            if configuration.cert_file:
                with path_of(configuration.cert_file) as path, path_of(configuration.key_file) as key:
                    context.load_cert_chain(str(path), keyfile=key)
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


@lru_cache(maxsize=4)  # one for each role in this process
def _without_client(user_agent: str) -> tuple[tuple[str, str], ...]:
    return tuple(headers_of_client(None, user_agent))


async def load_credentials(
    team: str | None = None,
    on_wait: Callable[[str], None] | None = None,
    first_load: LoaderProcess | None = None,
) -> Credentials:
    """Load the credentials that `[kubernetes_executor]` (of the team, if given) refers to.

    It may take any time, which the caller limits: an exec plugin or a client factory may wait for a login.

    :param on_wait: called every few seconds while they are waited for, with what is waited for.
    :param first_load: a loader that runs already.
    :raises ConfigError: no kubeconfig, unknown context, not inside a cluster, a factory that cannot be imported.
    """
    waiting = _Waiting(on_wait)
    credentials = None
    # Where the client library is imported already, as in the command line, another process saves nothing.
    if first_load is not None or "kubernetes_asyncio" not in sys.modules:
        credentials = await _load_in_process(team, waiting, first_load)
    if credentials is None:
        credentials = await _load_here(team, waiting)
    if waiting.logged:
        log.info("Credentials for the API server loaded")
    return credentials


class _Waiting:
    """Reports what is waited for; each source and program is logged once."""

    def __init__(self, on_wait: Callable[[str], None] | None) -> None:
        self._on_wait = on_wait
        self.logged: set[str] = set()

    def log_once(self, text: str, cause: object, about: str | None = None) -> None:
        known = str(cause) if about is None else about
        if known not in self.logged:
            log.warning(text, cause)
        self.logged.add(known)

    def report(self, seconds: float, source: str, program: str) -> None:
        trouble = f"waiting for the credentials for {seconds:.0f} s: {source}"
        trouble += f" runs {program}, which has not returned" if program else " has not returned"
        self.log_once("No credentials for the API server; %s", trouble, about=f"{source} {program}")
        if self._on_wait is not None:
            self._on_wait(trouble)


async def _load_in_process(team: str | None, waiting: _Waiting, first: LoaderProcess | None) -> Credentials | None:
    """What a loader finds; None if the client must be in this process."""
    began_s = time.monotonic()
    while True:
        try:
            return await _answer(first or LoaderProcess.start(team), team, waiting)
        except LoaderDied as error:
            waiting.log_once("The process that loads the credentials for the API server gave no answer (%s)", error)
        first = None
        waiting.report(time.monotonic() - began_s, "the process that reads [kubernetes_executor]", "")
        await asyncio.sleep(_RESTART_S)


async def _answer(loader: LoaderProcess, team: str | None, waiting: _Waiting) -> Credentials | None:
    async with contextlib.aclosing(loader.messages()) as messages:
        async for message in messages:
            if "waiting" in message:
                waiting.report(**message["waiting"])
            elif "error" in message:
                raise ConfigError(message["error"])
            else:
                return _of_json(team, message["credentials"]) if "credentials" in message else None
    raise AssertionError("unreachable: the messages end with an error")


async def _load_here(team: str | None, waiting: _Waiting) -> Credentials:
    """Load it in this process, in a thread: the user's client factory makes a client, and its hooks stay in use."""
    source = "a client factory"

    def load() -> Credentials:
        nonlocal source
        provider: Any = load_here("podrelay_workers.kube.provider_client")
        source = provider.source(team)
        return asyncio.run(provider.load(team))

    return await until_returned(load, lambda seconds, program: waiting.report(seconds, source, program))


def _of_json(team: str | None, values: dict[str, Any]) -> Credentials:
    configuration = PlainConfiguration.of_json(values["configuration"])
    authority = configuration.ssl_ca_cert
    return Credentials(
        configuration,
        team,
        keepalive=tuple((level, option, value) for level, option, value in values["keepalive"]),
        authority=authority if isinstance(authority, bytes) else b"",
        impersonated=tuple((name, value) for name, value in values["impersonated"]),
        renew_at_s=_renew_at_s(values["lifetime_s"]),
        **values["limits"],
    )


def _renew_at_s(lifetime_s: float | None) -> float:
    """Pure but for the clock: what has expired already, by a clock that is wrong perhaps, is used until it is rejected."""
    return time.monotonic() + _USED_SHARE * lifetime_s if lifetime_s and lifetime_s > 0 else math.inf


def _is_exempt(host: str, no_proxy: str | None) -> bool:
    """Is this host spared by NO_PROXY (None: of the environment)? It may name networks, which urllib does not support."""
    from requests.utils import should_bypass_proxies  # takes 10 MB: only where there is a proxy

    return bool(should_bypass_proxies(host, no_proxy=no_proxy))
