"""The state of one cluster, as Redis shows it: queues, what waits and why, processes, pauses, quarantine.

Used by `airflow podrelay status` and by the leading watcher. Every figure is a count that Redis keeps, or what a process
wrote about itself; of the launches that wait, a bounded sample is read. So a long backlog does not slow it down.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict

import redis

from podrelay.protocol import redis_keys
from podrelay.protocol.messages import Json
from podrelay.protocol.redis_keys import RedisKeys
from podrelay.protocol.redis_values import number_of, text
from podrelay.protocol.snapshots import SNAPSHOT_FIELD, WatcherSnapshot, decode_schedulers, decode_snapshot
from podrelay.store.bounded_reads import fitting, read_short
from podrelay.store.connection import unless_of_another_type
from podrelay.store.key_rings import mismatches, rings_of
from podrelay.store.liveness import registered_launchers
from podrelay.store.waits import Wait, merged, queued_waits, read_queues, read_waits
from podrelay.store.warm_overview import warm_pods

# A refused clean-up is tried again sooner than this.
_REFUSED_CLEANUP_S = 900.0
# As in prelude.lua: what is longer was not written by podrelay.
_PAUSE_MOST_S, _LEASE_MOST_S = 600.0, 600.0
# The latest entries of the quarantine whose reasons are counted, the reasons shown, and the characters of each.
_QUARANTINE_READ, _REASONS_MOST, _REASON_MAX = 1000, 20, 200
_UNREADABLE = "entries longer than podrelay writes: not read"
# The fields of `watch:<cluster>` that are shown.
_WATCH_FIELDS = ("leader", "expires", "pods", "t_listed", "t_event", "trouble", SNAPSHOT_FIELD)
# Entries of the quarantine of these kinds say what was cut down because no process of podrelay writes it.
_CLAMPED = ("bounds", "pause")
# Fields of `throttle:<cluster>`: until when which jobs wait.
_PAUSES = {"until": "all launches", "cleanup_until": "all clean-ups"}


def read_overview(client: redis.Redis, keys: RedisKeys, cluster: str, now_s: float) -> Json:
    """The state of one cluster. Keys that end in `_s` or `_s_ago` are seconds (float); None is unknown, or never. `warm` is
    there while launchers keep warm pods.

    :param now_s: the wall clock.
    :raises RedisError: Redis does not answer, or refuses.
    """
    found = _Facts(client, keys, cluster, now_s)
    queues = read_queues(client, keys, cluster, found.fair_queues, now_s)
    launchers = _launchers(client, keys, cluster, now_s)
    waits, waits_read = read_waits(client, keys, queues, now_s)
    watcher = decode_snapshot(WatcherSnapshot, found.watch.get(SNAPSHOT_FIELD))
    watcher = watcher if watcher.leader and watcher.leader == found.leader else WatcherSnapshot()
    obstacle = _obstacle(found, launchers)
    warm = warm_pods(found.warm, found.redis_s)
    waits = merged([*waits, *_pods_waiting(watcher, now_s), *queued_waits(queues, obstacle)])
    always = (keys.launch_queue(cluster), keys.cleanup_queue(cluster))
    return {
        "deployment": keys.deployment,
        "cluster": cluster,
        "queues": {queue.name: queue.as_json() for queue in queues if queue.name in always or queue.holds_any},
        "waits": [asdict(wait) for wait in waits],
        "waits_read": waits_read,
        "obstacle": obstacle[1],
        "pods": {"starting": watcher.starting, "running": watcher.running, "ending": watcher.ending},
        "launchers": launchers,
        "watcher": _watcher(found, watcher),
        "schedulers": _schedulers(found, cluster),
        "throttle": _throttles(found.throttle, now_s),
        "refused_cleanups": _refused_cleanups(found.throttle, now_s),
        "suspended": found.suspended,
        "clamps": found.clamps(),
        "key_mismatches": mismatches(rings_of(found.key_rings, found.redis_s)),
        "unacknowledged": found.unacknowledged,
        "results": found.results,
        "quarantine": found.quarantined,
        "quarantine_s_ago": found.quarantine_s_ago,
        "quarantine_reasons": found.quarantine_reasons(),
        **({} if warm is None else {"warm": warm}),
    }


class _Facts:
    """What one round trip brings."""

    def __init__(self, client: redis.Redis, keys: RedisKeys, cluster: str, now_s: float) -> None:
        names = (
            keys.throttle(cluster), keys.fair_queues(cluster), keys.key_rings, keys.schedulers, keys.warm_state(cluster),
        )  # fmt: skip
        fit = fitting(client, {**dict.fromkeys(names, "hlen"), keys.quarantine: "xlen"})
        (self.watch,) = read_short(client, [keys.watch(cluster)], _WATCH_FIELDS)
        # What is longer than podrelay writes counts as empty, until a script repairs it.
        read = [name for name in names if fit.get(name)]
        pipeline = client.pipeline(transaction=False)
        pipeline.time()
        pipeline.exists(redis_keys.RQ_SUSPENDED)
        pipeline.zcard(keys.unacknowledged)
        pipeline.xlen(keys.results)
        pipeline.xlen(keys.quarantine)
        for name in read:
            pipeline.hgetall(name)
        if fit.get(keys.quarantine):
            pipeline.xrevrange(keys.quarantine, count=_QUARANTINE_READ)
        # A key of another type counts as empty until the first script deletes it.
        (seconds, micros), suspended, unacknowledged, results, quarantined, *more = unless_of_another_type(
            pipeline.execute(raise_on_error=False), None
        )
        self.now_s = now_s
        self.redis_s = seconds + micros / 1e6
        hashes = dict(zip(read, more, strict=False))
        self.throttle, self.fair_queues, self.key_rings, self.schedulers, self.warm = (
            _texts(hashes.get(name)) for name in names
        )
        self.suspended = bool(suspended)
        self.unacknowledged, self.results = unacknowledged or 0, results or 0
        self.quarantined = quarantined or 0
        self._entries: Sequence[tuple[bytes, Mapping[bytes, bytes]]] = (
            more[len(read)] or () if more[len(read) :] else ()
        )
        self._is_unreadable = fit.get(keys.quarantine) is False

    @property
    def leader(self) -> str:
        """The watcher that leads; empty once its lease has expired by Redis' clock."""
        left_s = number_of(self.watch.get("expires")) - self.redis_s
        return self.watch.get("leader", "") if 0.0 < left_s <= _LEASE_MOST_S else ""

    @property
    def quarantine_s_ago(self) -> float | None:
        """When something was quarantined last; None for never, 0 where that cannot be read."""
        if self._is_unreadable:
            return 0.0
        return self._entry_s_ago(self._entries[0][0]) if self._entries else None

    def _entry_s_ago(self, entry_id: bytes) -> float:
        """The id of an entry begins with the time of Redis in milliseconds."""
        return max(0.0, self.redis_s - number_of(text(entry_id).partition("-")[0]) / 1000.0)

    def quarantine_reasons(self) -> dict[str, int]:
        """How often each reason stands in the latest entries of the quarantine, the most frequent first: what was not
        trusted, what was clamped or deleted. Anybody with access to Redis can write there.
        """
        if self._is_unreadable:
            return {_UNREADABLE: self.quarantined}
        return dict(Counter(_why(fields) for _, fields in self._entries).most_common(_REASONS_MOST))

    def clamps(self) -> list[Json]:
        """What was cut down or deleted because no process of podrelay writes it, the most frequent first."""
        found: dict[str, Json] = {}
        for entry_id, fields in self._entries:  # the latest first
            if text(fields.get(b"kind")) in _CLAMPED:
                clamp = found.setdefault(
                    _why(fields), {"why": _why(fields), "count": 0, "last_s_ago": self._entry_s_ago(entry_id)}
                )
                clamp["count"] += 1
        return sorted(found.values(), key=lambda clamp: -clamp["count"])[:_REASONS_MOST]


def _launchers(client: redis.Redis, keys: RedisKeys, cluster: str, now_s: float) -> list[Json]:
    found = []
    for launcher in registered_launchers(client, keys, cluster):
        seen = launcher.snapshot
        until_s = seen.throttled_until_s
        found.append(
            {
                "name": launcher.name,
                "state": launcher.state,
                "alive": launcher.alive,
                "last_update_s_ago": launcher.last_seen_s,
                "version": seen.version,
                "in_flight": seen.in_flight,
                "limit": seen.limit,
                "created_per_s": seen.created_per_s,
                "creation_p50_s": seen.creation_p50_s,
                "throttled_s": None if until_s is None else min(_PAUSE_MOST_S, max(0.0, until_s - now_s)),
                "throttled_why": seen.throttled_why,
                "draining": seen.draining,
            }
        )
    return found


def _watcher(found: _Facts, snapshot: WatcherSnapshot) -> Json:
    """The leader, empty once its lease has expired by Redis' clock, and what it last reported."""
    watch, leader = found.watch, found.leader
    return {
        "leader": leader,
        "version": snapshot.version,
        "pods": int(number_of(watch.get("pods"))),
        "listed_s_ago": _ago(watch.get("t_listed"), found.now_s),
        "event_s_ago": _ago(watch.get("t_event"), found.now_s),
        "bookmark_s_ago": max(0.0, found.now_s - snapshot.bookmark_s) if snapshot.bookmark_s else None,
        "lag_s": snapshot.lag_s,
        "trouble": watch.get("trouble", "") if leader else "",
    }


def _schedulers(found: _Facts, cluster: str) -> list[Json]:
    return [
        {
            "name": owner,
            "version": seen.version,
            "launches": seen.launches,
            "unread": seen.unread,
            "last_update_s_ago": max(0.0, found.redis_s - seen.at_s),
        }
        for (of, owner), seen in sorted(decode_schedulers(found.schedulers).items())
        if of == cluster
    ]


def _pods_waiting(watcher: WatcherSnapshot, now_s: float) -> list[Wait]:
    return [
        Wait(wait.reason, wait.count, max(0.0, now_s - wait.since_s), wait.example, wait.message)
        for wait in watcher.waits or ()
    ]


def _obstacle(found: _Facts, launchers: Iterable[Json]) -> tuple[str, str]:
    """Why the launches in the queues are not claimed, as reason and message; empty where they are, one after the other."""
    if found.suspended:
        return "Suspended", "somebody ran `rq suspend` on this Redis; `rq resume` ends it"
    alive = [launcher for launcher in launchers if launcher["alive"]]
    if not alive:
        return "NoLauncher", "no launcher is running"
    if all(launcher["draining"] for launcher in alive):
        return "NoLauncher", "every launcher is draining or shutting down"
    if 0.0 < number_of(found.throttle.get("until")) - found.now_s <= _PAUSE_MOST_S:
        return "Throttled", found.throttle.get("reason", "")[:_REASON_MAX]
    return "", ""


def _throttles(entry: Mapping[str, str], now_s: float) -> list[str]:
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


def _refused_cleanups(entry: Mapping[str, str], now_s: float) -> list[str]:
    """One line for each namespace in which the API server refuses clean-ups; launchers try them again all the same."""
    lines = []
    for name, message in sorted(entry.items()):
        ago_s = _ago(entry.get(f"cleanup_at:{name[8:]}"), now_s)
        if name.startswith("cleanup:") and ago_s is not None and ago_s < _REFUSED_CLEANUP_S:
            lines.append(f"{message} (last refused {ago_s:.0f} s ago)")
    return lines


def _ago(at: str | None, now_s: float) -> float | None:
    return max(0.0, now_s - number_of(at)) if at else None


def _why(fields: Mapping[bytes, bytes]) -> str:
    return re.sub(r"\b\d+ ", "", text(fields.get(b"why"))[:_REASON_MAX])


def _texts(found: Mapping[bytes, bytes] | None) -> dict[str, str]:
    return {text(name): text(value) for name, value in (found or {}).items()}
