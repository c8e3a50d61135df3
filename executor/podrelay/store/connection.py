"""Connections to Redis, always with timeouts; with Sentinel, TLS and ACL users if configured. Used by every process.

The only module that opens connections and that translates Redis errors. Redis Cluster is rejected.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis
import redis.asyncio
import redis.asyncio.sentinel
from redis.connection import SSLConnection, parse_url
from redis.exceptions import (
    AuthenticationError,
    ConnectionError,
    NoPermissionError,
    OutOfMemoryError,
    RedisError,
    ResponseError,
    TimeoutError,
)

from podrelay.errors import ConfigError, RedisFull, RedisUnavailable
from podrelay.settings import Settings

_UNUSABLE = (
    "[podrelay] redis_url is invalid: write redis://user:password@host:port/database. In user and password write "
    "/ ? # @ and % as %2F %3F %23 %40 and %25; options after ? must be known to redis-py."
)


# In the text of any refusal for lack of memory. redis-py only recognises the error if no script caused it (Redis 6.2).
_FULL = "command not allowed when used memory"


def connect(settings: Settings, timeout_s: float | None = None) -> redis.Redis:
    """A blocking client for the scheduler and the command line. It opens no socket before its first command.

    :raises ConfigError: the address or the Sentinel options are invalid.
    """
    options = _options(settings, timeout_s)
    try:
        if settings.redis_sentinels:
            sentinels = redis.Sentinel(settings.redis_sentinels, **_sentinel_options(settings, options))
            return sentinels.master_for(_master(settings))
        return redis.Redis.from_url(settings.redis_url, **options)
    except ValueError:
        raise ConfigError(_UNUSABLE) from None  # its text may contain a part of the password


def connect_async(settings: Settings, timeout_s: float | None = None) -> redis.asyncio.Redis:
    """An asyncio client for launchers and watchers. It opens no socket before its first command.

    :raises ConfigError: the address or the Sentinel options are invalid.
    """
    options = _options(settings, timeout_s)
    try:
        if settings.redis_sentinels:
            sentinels = redis.asyncio.sentinel.Sentinel(
                settings.redis_sentinels, **_sentinel_options(settings, options)
            )
            return sentinels.master_for(_master(settings))
        return redis.asyncio.Redis.from_url(settings.redis_url, **options)
    except ValueError:
        raise ConfigError(_UNUSABLE) from None  # its text may contain a part of the password


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
    except AuthenticationError as error:
        raise ConfigError(str(unavailable(error))) from error
    except RedisError as error:
        raise unavailable(error) from error
    _require_usable(server)
    warnings = []
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


def unavailable(error: Exception) -> RedisUnavailable:
    """The podrelay error for a Redis or socket error; raise it `from` the original. The only such mapping."""
    if isinstance(error, AuthenticationError):
        text = f"[podrelay] redis_url: Redis rejects the user or password ({error})."
        return RedisUnavailable(text, cause="password")
    if isinstance(error, OutOfMemoryError) or _FULL in str(error):
        return RedisFull(
            "Redis is full: it has reached its maxmemory and accepts no new launches. Raise maxmemory, or free memory "
            "(docs/redis.md says what goes on meanwhile).",
            cause="full",
            answered=True,
        )
    if isinstance(error, NoPermissionError) or (isinstance(error, ResponseError) and _is_denial(str(error))):
        return RedisUnavailable(
            f"Redis denies a command to the user of [podrelay] redis_url ({error}); docs/redis.md lists the rules it needs.",
            cause="denied",
            answered=True,
        )
    return RedisUnavailable(
        f"Redis unavailable ({type(error).__name__}: {error}); check [podrelay] redis_url.",
        cause=type(error).__name__,
        # An error of RedisError's own kind is a reply; these three are failures of the connection.
        answered=not isinstance(error, (ConnectionError, TimeoutError, OSError)),
    )


def _is_denial(text: str) -> bool:
    """Inside a script, a missing right is a plain error: the text of Redis up to 6.2 and 7, and of Valkey."""
    return "The user executing the script can't" in text or "ACL failure in script" in text


@contextmanager
def redis_errors() -> Iterator[None]:
    """Translate Redis and socket errors inside the block, blocking or asyncio.

    :raises RedisUnavailable: for each of them.
    """
    try:
        yield
    except (RedisError, OSError) as error:
        raise unavailable(error) from error


def _saves(client: redis.Redis) -> bool:
    try:
        return bool(client.config_get("save").get("save"))
    except RedisError:  # managed services often forbid CONFIG, and then configure persistence themselves
        return True


def _options(settings: Settings, timeout_s: float | None) -> dict[str, Any]:
    limit_s = timeout_s if timeout_s is not None else settings.redis_timeout_s
    return {
        "socket_timeout": limit_s,
        "socket_connect_timeout": limit_s,
        "socket_keepalive": True,
        "health_check_interval": 30,
        # A retry inside the client would double the wait of a heartbeat; the callers retry.
        "retry": None,
        "retry_on_timeout": False,
        "client_name": "podrelay",
    }


def _sentinel_options(settings: Settings, options: dict[str, Any]) -> dict[str, Any]:
    """Options for the Sentinels, and for the master those of redis_url: user, password, database, TLS.

    redis-py queries the Sentinels one by one: together they may take no longer than one call to Redis.
    """
    master = parse_url(settings.redis_url)
    if master.pop("connection_class", None) is SSLConnection:
        master["ssl"] = True
    for name in ("host", "port", "path"):
        master.pop(name, None)
    each_s = options["socket_timeout"] / len(settings.redis_sentinels)
    sentinels = {"socket_timeout": each_s, "socket_connect_timeout": each_s, "socket_keepalive": True, "retry": None}
    return {"sentinel_kwargs": sentinels, **master, **options}


def _master(settings: Settings) -> str:
    if not settings.redis_sentinel_master:
        raise ConfigError(
            "[podrelay] redis_sentinel_master is empty: set it to the name of the master that the Sentinels monitor."
        )
    return settings.redis_sentinel_master
