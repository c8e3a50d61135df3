"""What Redis knows, told to people: queues, launchers, the watcher, and the whole story of one launch. And the probe, which
asks the processes of its own host instead (`hearing`).

Every figure is a count that Redis keeps (no scan of the launches), so it answers at once however much is queued.
"""

from __future__ import annotations

import time
from datetime import datetime, timezone
from typing import Any

import redis
from airflow.configuration import conf
from redis.exceptions import RedisError

from podrelay import health
from podrelay.protocol import identifiers, redis_keys
from podrelay.protocol.lifecycle import STEPS
from podrelay.protocol.redis_keys import RedisKeys
from podrelay.protocol.redis_values import text
from podrelay.settings import load_settings
from podrelay.store.connection import connect, unavailable
from podrelay.store.liveness import registered_launchers

# A command line may wait longer than a heartbeat.
_TIMEOUT_S = 5.0


def overview(team: str | None, now_s: float) -> dict[str, Any]:
    """Queues, launchers, watcher and throttle of one cluster, as plain values. Seconds are floats named `_s`.

    :raises RedisUnavailable: Redis does not answer.
    """
    client, keys = _open()
    cluster = team or identifiers.DEFAULT_CLUSTER
    try:
        queues = {}
        for queue in _queues(client, keys, cluster):
            counts = {
                "queued": client.llen(redis_keys.rq_queue(queue)),
                "started": client.zcard(redis_keys.rq_started(queue)),
                "waiting": client.zcard(redis_keys.rq_scheduled(queue)),
                "failed": client.zcard(redis_keys.rq_failed(queue)),
            }
            if any(counts.values()) or queue in (keys.launch_queue(cluster), keys.cleanup_queue(cluster)):
                queues[queue] = counts
        return {
            "deployment": keys.deployment,
            "cluster": cluster,
            "queues": queues,
            "launchers": _launchers(client, keys, cluster),
            "watcher": _watcher(client, keys, cluster, now_s),
            "throttle": _throttle(_hash(client, keys.throttle(cluster)), now_s),
            "unacknowledged": client.zcard(keys.unacknowledged),
            "results": client.xlen(keys.results),
            "quarantine": client.xlen(keys.quarantine),
        }
    except RedisError as error:
        raise unavailable(error) from error


def render_overview(found: dict[str, Any]) -> str:
    """The overview as text for a terminal."""
    lines = [f"deployment {found['deployment']}, cluster {found['cluster']}", ""]
    lines.append(f"{'queue':48} {'queued':>8} {'started':>8} {'waiting':>8} {'failed':>8}")
    for name, counts in found["queues"].items():
        lines.append(f"{name:48} {counts['queued']:8} {counts['started']:8} {counts['waiting']:8} {counts['failed']:8}")
    alive = sum(launcher["alive"] for launcher in found["launchers"])
    lines += ["", f"launchers: {alive}" + ("" if alive else "  <- start one: airflow podrelay launcher")]
    lines += [_launcher_line(launcher) for launcher in found["launchers"]]
    lines += _watcher_lines(found["watcher"])
    lines += [f"throttled: {what}" for what in found["throttle"]]
    lines.append(f"results not acknowledged: {found['unacknowledged']}, quarantined: {found['quarantine']}")
    return "\n".join(lines)


def _launcher_line(launcher: dict[str, Any]) -> str:
    state = launcher["state"] if launcher["alive"] else "not responding"
    return f"  {launcher['name']}  {state}, last seen {launcher['last_seen_s']:.0f} s ago"


def describe_launch(which: str) -> dict[str, Any]:
    """The ledger of one launch, by launch id or pod name, without its sealed result; empty if it is unknown."""
    client, keys = _open()
    try:
        entry = _hash(client, keys.launch(which)) or _hash(
            client, keys.launch((identifiers.launch_of_pod(which) or (which, 0))[0])
        )
    except RedisError as error:
        raise unavailable(error) from error
    entry.pop("result", None)
    return entry


def render_launch(entry: dict[str, Any]) -> str:
    """One launch as text: what it is, and when each step happened, each with the seconds since the one before."""
    lines = [f"{name:12} {entry[name]}" for name in sorted(entry) if not name.startswith("t_")]
    before: float | None = None
    for step in STEPS:
        at = entry.get(f"t_{step}")
        if not at:
            continue
        moment = datetime.fromtimestamp(float(at), timezone.utc).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
        since = "" if before is None else f"  +{float(at) - before:.3f} s"
        lines.append(f"{step:12} {moment}{since}")
        before = float(at)
    return "\n".join(lines)


def probe(kind: str, team: str | None) -> tuple[bool, str]:
    """Does every process of this kind on this host (in a container: the one) hear what it must? For readiness probes."""
    found = health.read(kind, team)
    if not found:
        return False, f"no {kind} runs here"
    told = [(heard.pid, heard.deaf(time.time())) for heard in found]
    words = ", ".join(f"{kind} {pid} {deaf or 'is ready'}" for pid, deaf in told)
    return not any(deaf for _, deaf in told), words


def _open() -> tuple[redis.Redis, RedisKeys]:
    settings = load_settings(conf, conf.get("core", "fernet_key", fallback=""))
    return connect(settings, timeout_s=_TIMEOUT_S), RedisKeys(settings.deployment)


def _queues(client: redis.Redis, keys: RedisKeys, cluster: str) -> list[str]:
    """Every level's queue with the fair queues beside it, the most urgent first, and the clean-up queue."""
    fair_queues = sorted(_hash(client, keys.fair_queues(cluster)).items())
    levels = keys.launch_queues(cluster)
    launches = [
        queue for level in levels for queue in (level, *(side for side, beside in fair_queues if beside == level))
    ]
    return [*launches, keys.cleanup_queue(cluster)]


def _launchers(client: redis.Redis, keys: RedisKeys, cluster: str) -> list[dict[str, Any]]:
    return [
        {
            "name": launcher.name,
            "state": launcher.state,
            "alive": launcher.alive,
            "last_seen_s": launcher.last_seen_s,
        }
        for launcher in registered_launchers(client, keys, cluster)
    ]


def _watcher(client: redis.Redis, keys: RedisKeys, cluster: str, now_s: float) -> dict[str, Any]:
    """Who leads now; empty where a leader is dead and nobody has taken over. Its lease ends by Redis' own clock."""
    watch = _hash(client, keys.watch(cluster))
    seconds, micros = client.time()
    leads = float(watch.get("expires") or 0) > seconds + micros / 1e6
    return {
        "leader": watch.get("leader", "") if leads else "",
        "pods": int(watch.get("pods") or 0),
        "listed_s_ago": _ago(watch.get("t_listed"), now_s),
        "event_s_ago": _ago(watch.get("t_event"), now_s),
        "trouble": watch.get("trouble", "") if leads else "",
    }


def _watcher_lines(watcher: dict[str, Any]) -> list[str]:
    heard = "never listed" if watcher["listed_s_ago"] is None else f"listed {watcher['listed_s_ago']:.0f} s ago"
    if watcher["event_s_ago"] is not None:
        heard += f", last event {watcher['event_s_ago']:.0f} s ago"
    if not watcher["leader"]:
        return [f"watcher: none  <- start one: airflow podrelay watcher ({heard})"]
    lines = [f"watcher: {watcher['leader']} ({watcher['pods']} pods, {heard})"]
    return lines + ([f"  in trouble: {watcher['trouble']}"] if watcher["trouble"] else [])


def _throttle(entry: dict[str, str], now_s: float) -> list[str]:
    told = []
    for name, value in entry.items():
        if not name.startswith("until") or float(value or 0) <= now_s:
            continue
        where = f"namespace {name[6:]}" if name.startswith("until:") else "all launches"
        told.append(f"{where} for {float(value) - now_s:.1f} s: {entry.get(name.replace('until', 'reason'), '')}")
    return told


def _ago(at: str | None, now_s: float) -> float | None:
    return max(0.0, now_s - float(at)) if at else None


def _hash(client: redis.Redis, key: str) -> dict[str, str]:
    return {text(name): text(value) for name, value in client.hgetall(key).items()}
