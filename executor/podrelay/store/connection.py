"""Connections to Redis: timeouts always, Sentinel, TLS and ACL users where configured, Redis Cluster refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis
import redis.asyncio
import redis.asyncio.sentinel
from redis.connection import SSLConnection, parse_url
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError

from podrelay.errors import ConfigError, RedisUnavailable
from podrelay.settings import Settings

_UNUSABLE = (
    "[podrelay] redis_url is not a usable address: redis://user:password@host:port/database, where / ? # @ and % of user and "
    "password are written as %2F %3F %23 %40 and %25, and options behind ? have the values that redis-py knows."
)


def connect(settings: Settings, timeout_s: float | None = None) -> redis.Redis:
    """A blocking client, for the scheduler and the command line. Opens no socket before its first command."""
    options = _options(settings, timeout_s)
    try:
        if settings.redis_sentinels:
            sentinels = redis.Sentinel(settings.redis_sentinels, **_under_sentinels(settings, options))
            return sentinels.master_for(_master(settings))
        return redis.Redis.from_url(settings.redis_url, **options)
    except ValueError:
        raise ConfigError(_UNUSABLE) from None  # its text may hold a part of the password


def connect_async(settings: Settings, timeout_s: float | None = None) -> redis.asyncio.Redis:
    """The same for launchers and watchers, whose loops are asyncio."""
    options = _options(settings, timeout_s)
    try:
        if settings.redis_sentinels:
            sentinels = redis.asyncio.sentinel.Sentinel(settings.redis_sentinels, **_under_sentinels(settings, options))
            return sentinels.master_for(_master(settings))
        return redis.asyncio.Redis.from_url(settings.redis_url, **options)
    except ValueError:
        raise ConfigError(_UNUSABLE) from None  # its text may hold a part of the password


def check(client: redis.Redis) -> list[str]:
    """Look at the server once, at start. Returns warnings for the log, each with what to change.

    :raises RedisUnavailable: it does not answer; a scheduler goes on, the work waits.
    :raises ConfigError: it answers, and what it says can never work.
    """
    try:
        server = client.info("server")
        memory = client.info("memory")
        persistence = client.info("persistence")
    except AuthenticationError as error:
        raise ConfigError(str(unavailable(error))) from error
    except RedisError as error:
        raise unavailable(error) from error
    if server.get("redis_mode") == "cluster":
        raise ConfigError(
            "[podrelay] redis_url names a Redis Cluster: use a standalone Redis or one under Sentinel "
            "(several keys change in one step here, which Cluster cannot do)."
        )
    version = tuple(int(part) for part in str(server.get("redis_version", "0")).split(".")[:2])
    if version < (6, 2):
        raise ConfigError(f"[podrelay] redis_url: Redis {server.get('redis_version')} is too old, 6.2 is needed.")
    warnings = []
    policy = memory.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        warnings.append(
            f"Redis may evict launches: its maxmemory-policy is {policy}; set it to noeviction. "
            "(Evicted launches are handed over again, but late.)"
        )
    if not persistence.get("aof_enabled") and "rdb_last_save_time" in persistence and not _saves(client):
        warnings.append(
            "Redis keeps nothing on disk: after its restart launches are handed over again from the schedulers' memory. "
            "Set appendonly yes to spare that."
        )
    return warnings


def unavailable(error: Exception) -> RedisUnavailable:
    """The podrelay error for a Redis or socket error; raise it `from` the original. The only such mapping."""
    if isinstance(error, AuthenticationError):
        return RedisUnavailable(f"[podrelay] redis_url: Redis rejects the user or password ({error}).")
    if isinstance(error, NoPermissionError):
        return RedisUnavailable(
            f"Redis denies a command to the user of [podrelay] redis_url ({error}); docs/redis.md lists what it must be allowed."
        )
    return RedisUnavailable(f"Redis unavailable ({type(error).__name__}: {error}); check [podrelay] redis_url.")


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
    except RedisError:  # CONFIG is often forbidden in managed services, which then persist by themselves
        return True


def _options(settings: Settings, timeout_s: float | None) -> dict[str, Any]:
    limit_s = timeout_s if timeout_s is not None else settings.redis_timeout_s
    return {
        "socket_timeout": limit_s,
        "socket_connect_timeout": limit_s,
        "socket_keepalive": True,
        "health_check_interval": 30,
        # A retry inside the client would double the time that a heartbeat waits; the callers retry by themselves.
        "retry": None,
        "retry_on_timeout": False,
        "client_name": "podrelay",
    }


def _under_sentinels(settings: Settings, options: dict[str, Any]) -> dict[str, Any]:
    """How the Sentinels are asked, and what redis_url says of the master: user, password, database, TLS.

    The Sentinels are asked one after the other, and together they may take no longer than one call to Redis.
    """
    of_master = parse_url(settings.redis_url)
    if of_master.pop("connection_class", None) is SSLConnection:
        of_master["ssl"] = True
    for name in ("host", "port", "path"):
        of_master.pop(name, None)
    each_s = options["socket_timeout"] / len(settings.redis_sentinels)
    of_sentinels = {"socket_timeout": each_s, "socket_connect_timeout": each_s, "socket_keepalive": True, "retry": None}
    return {"sentinel_kwargs": of_sentinels, **of_master, **options}


def _master(settings: Settings) -> str:
    if not settings.redis_sentinel_master:
        raise ConfigError("[podrelay] redis_sentinel_master is empty: name the master that the Sentinels watch.")
    return settings.redis_sentinel_master
