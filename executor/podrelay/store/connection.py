"""Connections to Redis, always with timeouts; with Sentinel, TLS and ACL users if configured. Used by every process.

The only module that opens connections and that translates Redis errors. Redis Cluster is rejected.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import redis
import redis.asyncio
import redis.asyncio.sentinel
from redis.connection import SSLConnection
from redis.exceptions import (
    AuthenticationError,
    ConnectionError,
    NoPermissionError,
    OutOfMemoryError,
    RedisError,
    ResponseError,
    TimeoutError,
)
from redis.sentinel import MasterNotFoundError

from podrelay.errors import ConfigError, RedisFull, RedisUnavailable
from podrelay.redis_address import SENTINELS, URL, RedisAddress, parse_redis_url
from podrelay.settings import Settings
from podrelay.store import tls


class _AsyncSentinelPool(redis.asyncio.sentinel.SentinelConnectionPool):
    """Closes the connections to the Sentinels as well when the client is closed; redis-py leaves them open."""

    async def disconnect(self, inuse_connections: bool = True) -> None:
        await super().disconnect(inuse_connections)
        if inuse_connections:
            for sentinel in self.sentinel_manager.sentinels:
                await sentinel.aclose()


# In the text of any refusal for lack of memory. redis-py only recognises the error if no script caused it (Redis 6.2).
_FULL = "command not allowed when used memory"


def connect(settings: Settings, timeout_s: float | None = None) -> redis.Redis:
    """A blocking client for the scheduler and the command line. It opens no socket before its first command.

    :raises ConfigError: the address, a file that it names, or the Sentinel options are invalid.
    """
    address = parse_redis_url(settings.redis_url)
    connections = redis.connection
    options = _options(settings, timeout_s, connections)
    if settings.redis_sentinels:
        sentinels = redis.Sentinel(
            settings.redis_sentinels, **_sentinel_options(settings, address, options, connections)
        )
        return sentinels.master_for(_master(settings))
    pool = redis.ConnectionPool(**_pool_options(address, options, connections))
    return redis.Redis.from_pool(pool)


def connect_async(settings: Settings, timeout_s: float | None = None) -> redis.asyncio.Redis:
    """An asyncio client for launchers and watchers. It opens no socket before its first command.

    :raises ConfigError: the address, a file that it names, or the Sentinel options are invalid.
    """
    address = parse_redis_url(settings.redis_url)
    connections = redis.asyncio.connection
    options = _options(settings, timeout_s, connections)
    if settings.redis_sentinels:
        sentinels = redis.asyncio.sentinel.Sentinel(
            settings.redis_sentinels, **_sentinel_options(settings, address, options, connections)
        )
        return sentinels.master_for(_master(settings), connection_pool_class=_AsyncSentinelPool)
    pool = redis.asyncio.ConnectionPool(**_pool_options(address, options, connections))
    return redis.asyncio.Redis.from_pool(pool)


def check(client: redis.Redis) -> list[str]:
    """Inspect the server once, at start.

    :return: warnings for the log, each with a remedy.
    :raises RedisUnavailable: Redis failed; a scheduler continues, launches are retained.
    :raises ConfigError: this server, user or password can never work.
    """
    try:
        server = client.info("server")
        memory = client.info("memory")
        persistence = client.info("persistence")
    except RedisError as error:
        if why := _final_cause(error, client):
            raise ConfigError(why) from error
        raise unavailable(error, client) from error
    _require_usable(server)
    warnings = []
    if _uses_tls(client) and connection_options(client).get("ssl_cert_reqs") == "none":
        warnings.append(
            f"Any server can pretend to be Redis: {URL} says ssl_cert_reqs=none. Write ssl_ca_certs=/path/ca.pem instead."
        )
    policy = memory.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        warnings.append(
            f"Redis may evict launches, which delays them: its maxmemory-policy is {policy}. Set it to noeviction."
        )
    if not persistence.get("aof_enabled") and "rdb_last_save_time" in persistence and not _saves(client):
        warnings.append(
            "Redis persists nothing: after a restart of Redis, schedulers offer all launches again. "
            "Set appendonly yes to avoid that."
        )
    return warnings


def _require_usable(server: dict[str, Any]) -> None:
    if server.get("redis_mode") == "cluster":
        raise ConfigError(
            "[podrelay] redis_url names a Redis Cluster: use a standalone Redis or one with Sentinel "
            "(podrelay changes several keys in one atomic step, which Redis Cluster does not allow)."
        )
    version = tuple(int(part) for part in str(server.get("redis_version", "0")).split(".")[:2])
    if version < (6, 2):
        raise ConfigError(
            f"[podrelay] redis_url: Redis {server.get('redis_version')} is too old; version 6.2 or later is required."
        )


def unavailable(error: Exception, client: Any = None) -> RedisUnavailable:
    """The podrelay error for a Redis or socket error; raise it `from` the original. The only such mapping.

    :param client: where it arose; the message then names the TLS files in use.
    """
    if isinstance(error, AuthenticationError):
        return RedisUnavailable(f"{URL}: Redis rejects the user or password ({error}).", cause="password")
    if isinstance(error, OutOfMemoryError) or _FULL in str(error):
        return RedisFull(
            "Redis is full: it has reached its maxmemory and accepts no new launches. Raise maxmemory, or free memory "
            "(docs/redis.md says what goes on meanwhile).",
            cause="full",
            answered=True,
        )
    if isinstance(error, NoPermissionError) or (isinstance(error, ResponseError) and _is_denial(str(error))):
        return RedisUnavailable(
            f"Redis denies a command to the user of {URL} ({error}); docs/redis.md lists the rules it needs.",
            cause="denied",
            answered=True,
        )
    kind = type(error).__name__
    return RedisUnavailable(
        _cause(error, client),
        cause=kind,
        # An error of RedisError's own kind is a reply; these three are failures of the connection.
        answered=not isinstance(error, (ConnectionError, TimeoutError, OSError)),
    )


def _cause(error: Exception, client: Any) -> str:
    if isinstance(error, MasterNotFoundError):  # its text quotes clients of redis-py
        return (
            f"No Sentinel of {SENTINELS} answers and names a master that is up: check their addresses and "
            "[podrelay] redis_sentinel_master."
        )
    why = _no_database(error) or tls.explain(str(error), connection_options(client))
    if why:
        return why
    kind = type(error).__name__
    # Some errors quote a client or pool, which old releases of redis-py print with its password.
    text = kind if "<redis." in str(error) else f"{kind}: {error}"
    return f"Redis unavailable ({text}); check {URL}."


def _is_denial(text: str) -> bool:
    """Inside a script, a missing right is a plain error: the text of Redis up to 6.2 and 7, and of Valkey."""
    return "The user executing the script can't" in text or "ACL failure in script" in text


def connection_options(client: Any) -> Mapping[str, Any]:
    return client.connection_pool.connection_kwargs if client is not None else {}


def _uses_tls(client: redis.Redis) -> bool:
    return issubclass(client.connection_pool.connection_class, SSLConnection)


def _final_cause(error: RedisError, client: redis.Redis) -> str | None:
    """Why Redis can never work like this, as far as its answer or a second connection shows."""
    options = connection_options(client)
    if isinstance(error, AuthenticationError):
        return str(unavailable(error))
    known = _no_database(error) or tls.explain(str(error), options)
    if known or not isinstance(error, (redis.ConnectionError, redis.TimeoutError)):
        return known
    return tls.diagnose(options, _uses_tls(client), options["socket_connect_timeout"])


def _no_database(error: Exception) -> str | None:
    if "DB index" not in str(error):
        return None
    return f"{URL}: Redis has no database of this number ({error}). Write 0, or raise `databases` in redis.conf."


@contextmanager
def redis_errors(client: Any = None) -> Iterator[None]:
    """Translate Redis and socket errors inside the block, blocking or asyncio.

    :raises RedisUnavailable: for each of them.
    """
    try:
        yield
    except (RedisError, OSError) as error:
        raise unavailable(error, client) from error


def _saves(client: redis.Redis) -> bool:
    try:
        return bool(client.config_get("save").get("save"))
    except RedisError:  # managed services often forbid CONFIG, and then configure persistence themselves
        return True


def _options(settings: Settings, timeout_s: float | None, connections: Any) -> dict[str, Any]:
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


def _quiet(connections: Any) -> dict[str, Any]:
    """No command that some servers refuse with each new connection: their counters of errors are for real ones.

    :param connections: redis-py's module of connections, blocking or asyncio.
    """
    known = inspect.signature(connections.AbstractConnection.__init__).parameters
    options: dict[str, Any] = {"protocol": 2}
    if "maint_notifications_config" in known:
        from redis.maint_notifications import MaintNotificationsConfig

        options["maint_notifications_config"] = MaintNotificationsConfig(enabled=False)
    if "driver_info" in known:
        return {**options, "driver_info": None}
    return {**options, "lib_name": None, "lib_version": None}


def _pool_options(address: RedisAddress, options: dict[str, Any], connections: Any) -> dict[str, Any]:
    if address.tls:
        return {**options, **_tls_options(address, connections), "connection_class": connections.SSLConnection}
    if "path" not in address.options:
        return {**options, **address.options, "connection_class": connections.Connection}
    of_sockets = {name: value for name, value in options.items() if name != "socket_keepalive"}
    return {**of_sockets, **address.options, "connection_class": connections.UnixDomainSocketConnection}


def _tls_options(address: RedisAddress, connections: Any) -> dict[str, Any]:
    tls.make_context(address.options)  # tries the files
    known = inspect.signature(connections.SSLConnection.__init__).parameters
    for name in address.options:
        if name.startswith("ssl_") and name not in known:
            raise ConfigError(
                f"{URL}: redis-py {redis.__version__} does not know {name}: run `pip install -U redis`, or remove it."
            )
    return address.options


def _sentinel_options(
    settings: Settings, address: RedisAddress, options: dict[str, Any], connections: Any
) -> dict[str, Any]:
    """Options for the Sentinels, and for the master those of redis_url: user, password, database, TLS.

    redis-py queries the Sentinels one by one: together they may take no longer than one call to Redis.
    """
    if "path" in address.options:
        raise ConfigError(
            f"{URL} names a Unix socket, and {SENTINELS} is set: write redis:// or rediss:// for the master, or empty it."
        )
    master = {"ssl": True, **_tls_options(address, connections)} if address.tls else dict(address.options)
    for name in ("host", "port"):
        master.pop(name)
    each_s = options["socket_timeout"] / len(settings.redis_sentinels)
    sentinels = {
        **_quiet(connections),
        "socket_timeout": each_s,
        "socket_connect_timeout": each_s,
        "socket_keepalive": True,
        "retry": None,
    }
    return {"sentinel_kwargs": sentinels, **options, **master}


def _master(settings: Settings) -> str:
    if not settings.redis_sentinel_master:
        raise ConfigError(
            "[podrelay] redis_sentinel_master is empty: set it to the name of the master that the Sentinels monitor."
        )
    return settings.redis_sentinel_master
