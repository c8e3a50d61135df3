"""Connections to Redis, always with timeouts; with Sentinel, TLS and ACL users if configured. Used by every process.

The only module that opens connections and that translates Redis errors. Redis Cluster is rejected.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
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

from podrelay.errors import ConfigError, RedisFull, RedisRefused, RedisUnavailable
from podrelay.redis_address import SENTINELS, URL, parse_redis_url
from podrelay.settings import Settings
from podrelay.store import client_options, denials, packed_connections, tls
from podrelay.store.script_table import evalsha, queue_loads
from podrelay.store.scripts import permissions


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
    address, connections = parse_redis_url(settings.redis_url), redis.connection
    options = client_options.general(settings, timeout_s, connections)
    if not settings.redis_sentinels:
        pool = redis.ConnectionPool(**client_options.of_pool(address, options, connections))
        return redis.Redis.from_pool(pool)
    sentinels = redis.Sentinel([], sentinel_kwargs={}, **client_options.of_master(address, options, connections))
    sentinels.sentinels = [
        redis.Redis.from_pool(redis.ConnectionPool(**each))
        for each in client_options.of_sentinels(settings, address, options, connections)
    ]
    return sentinels.master_for(_master(settings))


def borrow_connection(client: redis.Redis) -> Any:
    """A connection of a blocking client, ready for use. Its pool wants it back.

    :raises RedisError: Redis cannot be reached.
    """
    pool = client.connection_pool
    # Before 5.3, redis-py wanted the name of a command, and used it for nothing.
    return pool.get_connection() if _BORROWS_WITHOUT_NAME else pool.get_connection("EVALSHA")


_BORROWS_WITHOUT_NAME = tuple(map(int, redis.__version__.split(".")[:2])) >= (5, 3)


def connect_async(settings: Settings, timeout_s: float | None = None) -> redis.asyncio.Redis:
    """An asyncio client for launchers and watchers. It opens no socket before its first command.

    :raises ConfigError: the address, a file that it names, or the Sentinel options are invalid.
    """
    address, connections = parse_redis_url(settings.redis_url), packed_connections
    options = client_options.general(settings, timeout_s, connections)
    if not settings.redis_sentinels:
        pool = redis.asyncio.ConnectionPool(**client_options.of_pool(address, options, connections))
        return redis.asyncio.Redis.from_pool(pool)
    sentinels = redis.asyncio.sentinel.Sentinel(
        [], sentinel_kwargs={}, **client_options.of_master(address, options, connections)
    )
    sentinels.sentinels = [
        redis.asyncio.Redis.from_pool(redis.asyncio.ConnectionPool(**each))
        for each in client_options.of_sentinels(settings, address, options, connections)
    ]
    return sentinels.master_for(_master(settings), connection_pool_class=_AsyncSentinelPool)


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
        )
    if isinstance(error, NoPermissionError) or (isinstance(error, ResponseError) and denials.is_denial(str(error))):
        return RedisRefused(denials.explain(str(error), user_of(client), URL), cause="denied")
    kind = type(error).__name__
    if is_of_another_type(error):
        return RedisRefused(_cause(error, client), cause=kind)
    return RedisUnavailable(
        _cause(error, client),
        cause=kind,
        # An error of RedisError's own kind is a reply; these three are failures of the connection.
        answered=not isinstance(error, (ConnectionError, TimeoutError, OSError)),
    )


def _cause(error: Exception, client: Any) -> str:
    if isinstance(error, MasterNotFoundError):  # its text quotes clients of redis-py
        return _sentinel_fault(error, client) or (
            f"No Sentinel of {SENTINELS} answers and names a master that is up: check their addresses and "
            "[podrelay] redis_sentinel_master."
        )
    why = _no_database(error) or tls.explain(str(error), connection_options(client))
    if why:
        return why
    kind = type(error).__name__
    said = denials.without_command(str(error))
    # Some errors quote a client or pool, which some releases of redis-py print with its options.
    return f"Redis unavailable ({kind if '<redis.' in said else f'{kind}: {said}'}); check {URL}."


def _sentinel_fault(error: MasterNotFoundError, client: Any) -> str | None:
    """The option that keeps the Sentinels from answering, as far as redis-py's text shows; None: they may just be away."""
    text, options = str(error), list(map(connection_options, _sentinels_of(client)))
    if "AuthenticationError" in text:
        logs_in = any("credential_provider" in each for each in options)
        remedy = "rejects the user or password: check" if logs_in else "requires a password: set"
        return f"Sentinel {remedy} [podrelay] redis_sentinel_username and redis_sentinel_password."
    return next(filter(None, (tls.explain(text, each, tls.SENTINEL) for each in options)), None)


def _sentinels_of(client: Any) -> list[Any]:
    manager = getattr(client.connection_pool, "sentinel_manager", None) if client is not None else None
    return list(manager.sentinels) if manager is not None else []


def is_of_another_type(error: object) -> bool:
    """Did a command meet a key of another type than podrelay gives it? Scripts delete such a key (prelude.lua)."""
    return isinstance(error, ResponseError) and "WRONGTYPE" in str(error)


def unless_of_another_type(replies: Iterable[Any], instead: Any) -> Iterator[Any]:
    """The replies of a pipeline that was executed without raising errors, with `instead` for keys of another type.

    :raises ResponseError: any other error, for instance of a Redis that is still loading its data.
    """
    for reply in replies:
        if isinstance(reply, Exception) and not is_of_another_type(reply):
            raise reply
        yield instead if isinstance(reply, Exception) else reply


def close(client: redis.Redis) -> None:
    """Close every socket of a blocking client, those to the Sentinels included."""
    for each in (client, *_sentinels_of(client)):
        each.connection_pool.disconnect()


def connection_options(client: Any) -> Mapping[str, Any]:
    return client.connection_pool.connection_kwargs if client is not None else {}


def user_of(client: Any) -> str:
    """The user as whom a client logs in."""
    return client_options.user_of(connection_options(client))


def _uses_tls(client: redis.Redis) -> bool:
    return issubclass(client.connection_pool.connection_class, SSLConnection)


def _final_cause(error: RedisError, client: redis.Redis) -> str | None:
    """Why Redis can never work like this, as far as its answer or a second connection shows."""
    options = connection_options(client)
    if isinstance(error, AuthenticationError):
        return str(unavailable(error))
    if isinstance(error, MasterNotFoundError):
        return _sentinel_fault(error, client) or next(
            filter(None, map(_diagnose_sentinel, _sentinels_of(client))), None
        )
    known = _no_database(error) or tls.explain(str(error), options)
    if known or not isinstance(error, (redis.ConnectionError, redis.TimeoutError)):
        return known
    return tls.diagnose(options, _uses_tls(client), options["socket_connect_timeout"])


def _diagnose_sentinel(sentinel: redis.Redis) -> str | None:
    options = connection_options(sentinel)
    return tls.diagnose(options, _uses_tls(sentinel), options["socket_connect_timeout"], tls.SENTINEL)


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


def denied_calls(client: redis.Redis, calls: Sequence[Sequence[str]]) -> set[int]:
    """Which of these commands the user of this client may not run: their positions, from 1 on. Nothing is run, and no
    denial is logged; Redis 6.2 cannot say.

    :raises RedisError: Redis failed, or refuses to run scripts.
    """
    call = permissions(calls)
    queue_loads(client.pipeline(transaction=False), [call.name]).execute()
    return set(map(int, evalsha(client, call) or ()))


def _saves(client: redis.Redis) -> bool:
    try:
        if denied_calls(client, [["config", "get", "save"]]):  # asked first: a denial would stand in Redis' ACL LOG
            return True
        return bool(client.config_get("save").get("save"))
    except RedisError:  # managed services often forbid CONFIG, and then configure persistence themselves
        return True


def _master(settings: Settings) -> str:
    if not settings.redis_sentinel_master:
        raise ConfigError(
            "[podrelay] redis_sentinel_master is empty: set it to the name of the master that the Sentinels monitor."
        )
    return settings.redis_sentinel_master
