"""What `airflow podrelay status` reads from Redis: queues, launchers, the watcher, throttles, and the ledger of one launch.

Every figure is a count that Redis keeps. Launches are never scanned, so a long backlog does not slow the command down.
`status_text` renders the result for a terminal; `--json` prints it as it is.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import redis
from airflow.configuration import conf
from redis.exceptions import RedisError

from podrelay.protocol import identifiers, redis_keys
from podrelay.protocol.messages import Json
from podrelay.protocol.redis_keys import RedisKeys
from podrelay.protocol.redis_values import number_of, text
from podrelay.settings import load_settings
from podrelay.store.connection import connect, is_of_another_type, unavailable
from podrelay.store.key_rings import announced, mismatches
from podrelay.store.liveness import registered_launchers

# A command may wait longer than a heartbeat of the scheduler.
_TIMEOUT_S = 5.0
# A refused clean-up is tried again sooner than this.
_REFUSED_CLEANUP_S = 900.0
# As in prelude.lua: what is longer was not written by podrelay.
_PAUSE_MOST_S, _LEASE_MOST_S = 600.0, 600.0
# The latest entries of the quarantine whose reasons are counted, the reasons shown, and the characters of each.
_QUARANTINE_READ, _REASONS_MOST, _REASON_MAX = 1000, 20, 200
# Fields of `throttle:<cluster>`: until when which jobs wait.
_PAUSES = {"until": "all launches", "cleanup_until": "all clean-ups"}


def overview(team: str | None, now_s: float) -> Json:
    """The state of one cluster. Keys that end in `_s_ago` are seconds (float), None for never.

    :raises RedisUnavailable: Redis does not answer.
    """
    client, keys = _open()
    cluster = team or identifiers.DEFAULT_CLUSTER
    try:
        return {
            "deployment": keys.deployment,
            "cluster": cluster,
            "queues": _queues(client, keys, cluster),
            "launchers": _launchers(client, keys, cluster),
            "watcher": _watcher(client, keys, cluster, now_s),
            "throttle": _throttles(_hash(client, keys.throttle(cluster)), now_s),
            "refused_cleanups": _refused_cleanups(_hash(client, keys.throttle(cluster)), now_s),
            "suspended": bool(client.exists(redis_keys.RQ_SUSPENDED)),
            "key_mismatches": mismatches(_unless_of_another_type(lambda: announced(client, keys), [])),
            "unacknowledged": _count(client.zcard, keys.unacknowledged),
            "results": _count(client.xlen, keys.results),
            "quarantine": _count(client.xlen, keys.quarantine),
            "quarantine_reasons": _quarantine_reasons(client, keys),
        }
    except RedisError as error:
        raise unavailable(error, client) from error


def describe_launch(launch_or_pod: str) -> dict[str, str]:
    """The ledger entry of one launch, without its encrypted result; empty if the ledger does not hold it.

    :param launch_or_pod: a launch id or the name of a pod.
    :raises RedisUnavailable: Redis does not answer.
    """
    client, keys = _open()
    try:
        entry = _hash(client, keys.launch(launch_or_pod))
        if not entry and (launch := identifiers.launch_of_pod(launch_or_pod)):
            entry = _hash(client, keys.launch(launch[0]))
    except RedisError as error:
        raise unavailable(error, client) from error
    entry.pop("result", None)
    return entry


def _open() -> tuple[redis.Redis, RedisKeys]:
    settings = load_settings(conf, conf.get("core", "fernet_key", fallback=""))
    return connect(settings, timeout_s=_TIMEOUT_S), RedisKeys(settings.deployment)


def _queues(client: redis.Redis, keys: RedisKeys, cluster: str) -> dict[str, dict[str, int]]:
    """The counts of each queue that holds anything; those of the two standard queues always."""
    always = (keys.launch_queue(cluster), keys.cleanup_queue(cluster))
    counts = {queue: _counts(client, queue) for queue in _queue_names(client, keys, cluster)}
    return {queue: found for queue, found in counts.items() if queue in always or any(found.values())}


def _queue_names(client: redis.Redis, keys: RedisKeys, cluster: str) -> list[str]:
    """The queue of each level followed by its fair queues, the most urgent level first; then the clean-up queue."""
    fair_queues = sorted(_hash(client, keys.fair_queues(cluster)).items())
    launches = [
        queue
        for level_queue in keys.launch_queues(cluster)
        for queue in (
            level_queue,
            *(name for name, of in fair_queues if of == level_queue and name.startswith(f"{of}.")),
        )
    ]
    return [*launches, keys.cleanup_queue(cluster)]


def _counts(client: redis.Redis, queue: str) -> dict[str, int]:
    return {
        "queued": _count(client.llen, redis_keys.rq_queue(queue)),
        "started": _count(client.zcard, redis_keys.rq_started(queue)),
        "waiting": _count(client.zcard, redis_keys.rq_scheduled(queue)),
        "failed": _count(client.zcard, redis_keys.rq_failed(queue)),
    }


def _launchers(client: redis.Redis, keys: RedisKeys, cluster: str) -> list[Json]:
    return [
        {
            "name": launcher.name,
            "state": launcher.state,
            "alive": launcher.alive,
            "last_update_s_ago": launcher.last_seen_s,
        }
        for launcher in registered_launchers(client, keys, cluster)
    ]


def _watcher(client: redis.Redis, keys: RedisKeys, cluster: str, now_s: float) -> Json:
    """The leader, empty once its lease has expired by Redis' clock, and what it last reported."""
    watch = _hash(client, keys.watch(cluster))
    seconds, micros = client.time()
    left_s = number_of(watch.get("expires")) - (seconds + micros / 1e6)
    leads = 0.0 < left_s <= _LEASE_MOST_S
    return {
        "leader": watch.get("leader", "") if leads else "",
        "pods": int(number_of(watch.get("pods"))),
        "listed_s_ago": _ago(watch.get("t_listed"), now_s),
        "event_s_ago": _ago(watch.get("t_event"), now_s),
        "trouble": watch.get("trouble", "") if leads else "",
    }


def _throttles(entry: dict[str, str], now_s: float) -> list[str]:
    """One line for each pause in force: the whole cluster's, and those of namespaces."""
    lines = []
    for name, value in entry.items():
        scope = f"namespace {name[6:]}" if name.startswith("until:") else _PAUSES.get(name, "")
        left_s = number_of(value) - now_s
        if not scope or left_s <= 0:
            continue
        if left_s > _PAUSE_MOST_S:
            lines.append(f"{scope}: ignored, because no launcher writes a pause of more than {_PAUSE_MOST_S:.0f} s")
            continue
        reason = "Throttled" if name == "cleanup_until" else entry.get(name.replace("until", "reason"), "")
        lines.append(f"{scope}, for another {left_s:.1f} s: {reason}")
    return lines


def _refused_cleanups(entry: dict[str, str], now_s: float) -> list[str]:
    """One line for each namespace in which the API server refuses clean-ups; launchers try them again all the same."""
    lines = []
    for name, message in sorted(entry.items()):
        ago_s = _ago(entry.get(f"cleanup_at:{name[8:]}"), now_s)
        if name.startswith("cleanup:") and ago_s is not None and ago_s < _REFUSED_CLEANUP_S:
            lines.append(f"{message} (last refused {ago_s:.0f} s ago)")
    return lines


def _ago(at: str | None, now_s: float) -> float | None:
    return max(0.0, now_s - number_of(at)) if at else None


def _quarantine_reasons(client: redis.Redis, keys: RedisKeys) -> dict[str, int]:
    """How often each reason stands in the latest entries of the quarantine, the most frequent first: what was not trusted,
    what was clamped or deleted. Anybody with access to Redis can write there.
    """
    entries = _unless_of_another_type(lambda: client.xrevrange(keys.quarantine, count=_QUARANTINE_READ), [])
    reasons = Counter(re.sub(r"\b\d+ ", "", text(fields.get(b"why"))[:_REASON_MAX]) for _, fields in entries)
    return dict(reasons.most_common(_REASONS_MOST))


def _hash(client: redis.Redis, key: str) -> dict[str, str]:
    found = _unless_of_another_type(lambda: client.hgetall(key), {})
    return {text(name): text(value) for name, value in found.items()}


def _count(command: Callable[[str], Any], key: str) -> int:
    return int(_unless_of_another_type(lambda: command(key), 0))


def _unless_of_another_type(read: Callable[[], Any], instead: Any) -> Any:
    """What stands in a key; `instead` while somebody has given it another type, until the first script deletes it."""
    try:
        return read()
    except RedisError as error:
        if is_of_another_type(error):
            return instead
        raise
