"""Which process may do what in Redis: keys, channels and commands. Pure.

`airflow podrelay acl` prints it as users of Redis, `podrelay.store.permissions` compares a user with it, and
docs/architecture.md has the keys in one table for people. Tests compare this module with that page and with the scripts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

from podrelay.protocol import redis_keys
from podrelay.protocol.redis_keys import RedisKeys

# `status` is `airflow podrelay status`, which schedulers may run as well. `dashboard` sees the pages of rq-dashboard,
# `operator` may use the buttons too, and `airflow podrelay drain`. `task` is a warm pod, and with it the code of its task.
# `airflow podrelay check` runs as the process whose machine it checks.
Role = Literal["scheduler", "launcher", "watcher", "status", "dashboard", "operator", "task"]
ROLES: tuple[Role, ...] = get_args(Role)
# One user serves all clusters of a deployment, except these, which serve one.
OF_ONE_CLUSTER: tuple[Role, ...] = ("launcher", "watcher")
ALL_CLUSTERS = "*"


@dataclass(frozen=True)
class KeyAccess:
    """Who may write, and who may only read, the keys of a pattern. A writer may read as well: scripts need both rights."""

    pattern: str
    writers: frozenset[str]
    readers: frozenset[str]


def escaped(name: str) -> str:
    """A name as a part of a pattern that matches only this name."""
    return re.sub(r"([*?\[\]\\])", r"\\\1", name)


def example(pattern: str) -> str:
    """A key that the pattern matches."""
    return re.sub(r"\\(.)", r"\1", pattern.replace("*", "0"))


def _keys(pattern: str, writers: str = "", readers: str = "") -> KeyAccess:
    return KeyAccess(pattern, frozenset(writers.split()), frozenset(readers.split()))


def key_table(deployment: str, cluster: str) -> list[KeyAccess]:
    """Every key of a deployment, as `podrelay.protocol.redis_keys` spells it.

    :param cluster: the name of one, or ALL_CLUSTERS.
    """
    keys, cluster = RedisKeys(escaped(deployment)), cluster if cluster == ALL_CLUSTERS else escaped(cluster)
    queues = (keys.launch_queue(cluster) + "*", keys.cleanup_queue(cluster))
    everyone = "scheduler launcher watcher"
    table = [
        _keys(keys.launch("*"), everyone, "status"),
        _keys(keys.current, "scheduler", "launcher"),
        _keys(keys.results, everyone, "status"),
        _keys(keys.unacknowledged, everyone, "status"),
        _keys(keys.live(cluster), "launcher watcher", "scheduler"),
        _keys(keys.watch(cluster), "watcher", "scheduler status"),
        _keys(keys.rollups(cluster), "watcher", "status"),
        _keys(keys.drain(cluster, "*"), "operator", "launcher"),
        _keys(keys.log_requests(cluster), "scheduler watcher"),
        _keys(keys.throttle(cluster), "launcher", "scheduler watcher status"),
        _keys(keys.fair_queues(cluster), "scheduler launcher", "watcher status"),
        _keys(keys.warm_pods(cluster), "launcher"),
        _keys(keys.warm_idle(cluster, "*"), "launcher"),
        _keys(keys.warm_shapes(cluster), "launcher"),
        _keys(keys.warm_arrivals(cluster), "launcher"),
        _keys(keys.warm_state(cluster), "launcher", "scheduler watcher status"),
        _keys(keys.mailbox_prefix + "*", "launcher task"),
        _keys(keys.quarantine, everyone, "status"),
        _keys(keys.key_rings, everyone, "status"),
        _keys(keys.schedulers, "scheduler", "watcher status"),
        _keys(keys.epoch, everyone),
        _keys(keys.check, everyone),
        _keys(keys.never_written, everyone),
        _keys(redis_keys.RQ_QUEUES, "scheduler launcher operator", "dashboard"),
        # Ids of other users of RQ hold no `_`; those of other deployments do.
        _keys(f"{redis_keys.RQ_JOB_PREFIX}*_*", "scheduler launcher operator", "dashboard"),
        _keys(f"{redis_keys.RQ_RESULTS_PREFIX}*_*", "launcher operator", "dashboard"),
        _keys(redis_keys.RQ_SUSPENDED, "", "scheduler launcher watcher status"),
        _keys(redis_keys.RQ_WORKERS, "launcher", "dashboard operator"),
        _keys(keys.worker(cluster, "*"), "launcher", "scheduler watcher status dashboard operator"),
        _keys(f"{redis_keys.RQ_COMPACTED_PREFIX}*", "operator"),
        _keys(f"{redis_keys.RQ_EXECUTIONS_PREFIX}*_*", "operator"),
        _keys(f"{redis_keys.RQ_EXECUTION_PREFIX}*_*", "operator"),
    ]
    for queue in queues:
        table += [
            _keys(redis_keys.rq_queue(queue), "scheduler launcher operator", "watcher status dashboard"),
            _keys(redis_keys.rq_started(queue), "launcher operator", "scheduler watcher status dashboard"),
            _keys(redis_keys.rq_scheduled(queue), "scheduler launcher operator", "watcher status dashboard"),
            _keys(redis_keys.rq_finished(queue), "launcher operator", "dashboard"),
            _keys(redis_keys.rq_failed(queue), "launcher operator", "scheduler watcher status dashboard"),
            _keys(redis_keys.rq_deferred(queue), "operator", "dashboard"),
            _keys(redis_keys.rq_canceled(queue), "operator", "dashboard"),
            _keys(redis_keys.rq_workers(queue), "launcher", "scheduler watcher status operator"),
        ]
    return table


def channels(role: Role, deployment: str, cluster: str) -> list[str]:
    """The patterns of the channels that a role publishes to, or subscribes to."""
    if role not in ("scheduler", "launcher", "operator"):
        return []
    return [RedisKeys(escaped(deployment)).wake(cluster if cluster == ALL_CLUSTERS else escaped(cluster))]


_OF_ALL = "announce quarantine permissions "
_READ = "read_stream read_entries log_requests "
SCRIPTS: dict[Role, frozenset[str]] = {
    "scheduler": frozenset(
        f"{_OF_ALL}{_READ}offer acknowledge withdraw survey read_launches announce_scheduler".split()
    ),
    "launcher": frozenset(
        f"{_OF_ALL}claim renew reap finish throttle publish assign deliver take_back keep_warm warm_pool".split()
    ),
    "watcher": frozenset(f"{_OF_ALL}{_READ}publish restore live lead read_rollups read_steps roll_up".split()),
}

# Logging in (AUTH, HELLO) needs no right.
_CONNECT = "client|setname ping "
_RUN_SCRIPTS = "evalsha script|load "
_CHECK = "info set hgetall hlen memory|usage time "
# What `podrelay.store.overview` and `status` send; the leading watcher reads the overview too.
_OVERVIEW = (
    "exists hgetall hlen hmget hstrlen lindex llen memory|usage pttl scard smembers time xlen xrevrange zcard zrange "
)
_STATUS = f"{_OVERVIEW}hget lpos zscore "
# What rq-dashboard 0.9 sends for its pages.
_PAGES = "exec exists hget hgetall hmget llen lrange multi scard smembers type xlen xrevrange zcard zrange zscore "

_COMMANDS: dict[Role, str] = {
    "scheduler": f"{_RUN_SCRIPTS}{_CHECK}{_STATUS}"
    "del expire get hdel hget hset hsetnx lpop ltrim persist publish rpush sadd xadd xrange xrevrange zadd "
    "zrangebyscore zrem zscan zscore",
    "launcher": f"{_RUN_SCRIPTS}{_CHECK}"
    "client|info del exec exists expire getrange "
    "hdel hexists hget hincrby hincrbyfloat hkeys hmget hset hsetnx hstrlen llen lpop lpush mget multi "
    "publish rpush sadd scard smembers srem subscribe xadd zadd zcard zpopmin zrange zrangebyscore zrem zremrangebyrank "
    "zremrangebyscore zscore",
    "watcher": f"{_RUN_SCRIPTS}{_CHECK}{_OVERVIEW}"
    "del exists expire get hdel hget hkeys hlen hmget hset hstrlen lpop ltrim rpush xadd xrange xrevrange zadd zrem zscan",
    "status": _STATUS,
    "dashboard": _PAGES,
    "operator": f"{_PAGES}{_RUN_SCRIPTS}"
    "del expire hset hstrlen info lpop lrem memory|usage persist pttl publish rename rpush sadd set watch zrem "
    "zremrangebyscore",
    "task": "blmove del expire lindex set",
}
COMMANDS: dict[Role, tuple[str, ...]] = {
    role: tuple(sorted(set((_CONNECT + commands).split()))) for role, commands in _COMMANDS.items()
}

# For each command of the processes one whole call, to ask a server whether it is allowed (`podrelay.store.permissions`): K
# stands for a key, C for a channel.
CALLS: dict[str, str] = {
    "client|info": "client info", "client|setname": "client setname x", "del": "del K", "evalsha": "evalsha x 0",
    "exec": "exec", "exists": "exists K", "expire": "expire K 1", "get": "get K",
    "getrange": "getrange K 0 0", "hdel": "hdel K f",
    "hexists": "hexists K f", "hget": "hget K f", "hgetall": "hgetall K", "hincrby": "hincrby K f 1",
    "hincrbyfloat": "hincrbyfloat K f 1", "hkeys": "hkeys K", "hlen": "hlen K",
    "hmget": "hmget K f", "hset": "hset K f v", "hsetnx": "hsetnx K f v",
    "hstrlen": "hstrlen K f", "info": "info", "lindex": "lindex K 0", "llen": "llen K", "lpop": "lpop K",
    "lpos": "lpos K v", "lpush": "lpush K v", "ltrim": "ltrim K 0 0",
    "memory|usage": "memory usage K", "mget": "mget K", "multi": "multi", "persist": "persist K",
    "ping": "ping", "pttl": "pttl K", "publish": "publish C 1", "rpush": "rpush K v", "sadd": "sadd K v",
    "scard": "scard K", "script|load": "script load x", "set": "set K v", "smembers": "smembers K", "srem": "srem K v",
    "subscribe": "subscribe C", "time": "time", "type": "type K", "xadd": "xadd K * f v", "xlen": "xlen K",
    "xrange": "xrange K - +", "xrevrange": "xrevrange K + -", "zadd": "zadd K 1 v", "zcard": "zcard K",
    "zpopmin": "zpopmin K", "zrange": "zrange K 0 0", "zrangebyscore": "zrangebyscore K 0 0", "zrem": "zrem K v",
    "zremrangebyrank": "zremrangebyrank K 0 0", "zremrangebyscore": "zremrangebyscore K 0 0", "zscan": "zscan K 0",
    "zscore": "zscore K v",
}  # fmt: skip


def rules(role: Role, deployment: str, cluster: str, *, read_only_patterns: bool = True, select: bool = False) -> str:
    """The rules of a role's user in the syntax of `ACL SETUSER`, behind the password.

    :param read_only_patterns: use `%R~`, which Redis 6.2 does not know.
    :param select: the database is another than 0.
    """
    read = "%R~" if read_only_patterns else "~"
    patterns = [
        ("~" if role in item.writers else read) + item.pattern
        for item in key_table(deployment, cluster)
        if role in item.writers | item.readers
    ]
    commands = [*COMMANDS[role], *(["select"] if select else [])]
    return " ".join(
        [
            "resetchannels",
            *(f"&{name}" for name in channels(role, deployment, cluster)),
            *patterns,
            "-@all",
            *(f"+{name}" for name in commands),
        ]
    )
