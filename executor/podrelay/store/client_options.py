"""What the clients of redis-py are made with: address, credentials, TLS and time limits. Used by `connection`. Opens nothing.

Credentials go into objects that print as nothing but their type: redis-py 6 and 7 print the options of a client, passwords
included, wherever a client or a pool is printed.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import redis
from redis.credentials import UsernamePasswordCredentialProvider

from podrelay.errors import ConfigError
from podrelay.redis_address import SENTINELS, URL, RedisAddress
from podrelay.settings import Settings
from podrelay.store import tls

Options = dict[str, Any]


def general(settings: Settings, timeout_s: float | None, connections: Any) -> Options:
    """What holds for each connection to Redis.

    :param connections: redis-py's module of connections, blocking or asyncio.
    """
    limit_s = timeout_s if timeout_s is not None else settings.redis_timeout_s
    return {
        **_quiet(connections),
        "socket_timeout": limit_s,
        "socket_connect_timeout": limit_s,
        "socket_keepalive": True,
        "health_check_interval": 30,
        # A retry inside the client would double the wait of a heartbeat; the callers retry.
        "retry": None,
        "retry_on_timeout": False,
        "client_name": "podrelay",
    }


def of_pool(address: RedisAddress, options: Options, connections: Any) -> Options:
    """For a pool of connections to this address.

    :raises ConfigError: a file of TLS cannot be used.
    """
    if address.tls:
        return {**options, **_tls(address, connections), "connection_class": connections.SSLConnection}
    if "path" not in address.options:
        return {**options, **_hidden(address.options), "connection_class": connections.Connection}
    of_sockets = {name: value for name, value in options.items() if name != "socket_keepalive"}
    return {**of_sockets, **_hidden(address.options), "connection_class": connections.UnixDomainSocketConnection}


def of_master(address: RedisAddress, options: Options, connections: Any) -> Options:
    """For the master that the Sentinels name: user, password, database and TLS are those of redis_url.

    :raises ConfigError: redis_url names a Unix socket, or a file of TLS cannot be used.
    """
    if "path" in address.options:
        raise ConfigError(
            f"{URL} names a Unix socket, and {SENTINELS} is set: write redis:// or rediss:// for the master, or empty it."
        )
    master = {"ssl": True, **_tls(address, connections)} if address.tls else _hidden(address.options)
    for name in ("host", "port"):
        master.pop(name)
    return {**options, **master}


def of_sentinels(settings: Settings, address: RedisAddress, options: Options, connections: Any) -> list[Options]:
    """For a pool of connections to each Sentinel. TLS uses the files and options of redis_url.

    redis-py queries the Sentinels one by one: together they may take no longer than one call to Redis.
    """
    each_s = options["socket_timeout"] / len(settings.redis_sentinels)
    login = {"username": settings.redis_sentinel_username, "password": settings.redis_sentinel_password}
    of_tls = {name: value for name, value in address.options.items() if name.startswith("ssl_")}
    common = {
        **_quiet(connections),
        "socket_timeout": each_s,
        "socket_connect_timeout": each_s,
        "socket_keepalive": True,
        "retry": None,
    }
    scheme, more = ("rediss", of_tls) if settings.redis_sentinel_tls else ("redis", {})
    given = {**more, **{name: value for name, value in login.items() if value}}
    return [
        of_pool(RedisAddress(scheme, {**given, "host": host, "port": port}), common, connections)
        for host, port in settings.redis_sentinels
    ]


def user_of(options: Mapping[str, Any]) -> str:
    """The user as whom a client with these options logs in."""
    provider = options.get("credential_provider")
    return getattr(provider, "username", "") or "default"


def _hidden(options: Mapping[str, Any]) -> Options:
    """The same options, none of which shows a secret when it is printed."""
    found = dict(options)
    user, password, key_password = (found.pop(name, None) for name in ("username", "password", "ssl_password"))
    if user or password:
        found["credential_provider"] = UsernamePasswordCredentialProvider(user, password)
    if key_password:
        found["ssl_password"] = lambda: key_password  # OpenSSL calls it
    return found


def _quiet(connections: Any) -> Options:
    """No command that some servers refuse with each new connection: their counters of errors are for real ones."""
    known = inspect.signature(connections.AbstractConnection.__init__).parameters
    options: Options = {"protocol": 2}
    if "maint_notifications_config" in known:
        from redis.maint_notifications import MaintNotificationsConfig

        options["maint_notifications_config"] = MaintNotificationsConfig(enabled=False)
    if "driver_info" in known:
        return {**options, "driver_info": None}
    return {**options, "lib_name": None, "lib_version": None}


def _tls(address: RedisAddress, connections: Any) -> Options:
    tls.make_context(address.options)  # tries the files
    known = inspect.signature(connections.SSLConnection.__init__).parameters
    for name in address.options:
        if name.startswith("ssl_") and name not in known:
            raise ConfigError(
                f"{URL}: redis-py {redis.__version__} does not know {name}: run `pip install -U redis`, or remove it."
            )
    return _hidden(address.options)
