"""Which launchers are alive: one answer for `airflow podrelay status` and for the executor's `NoLauncher` event.

A launcher renews its registration every 5 s (`podrelay_workers.launcher.registration`). The remaining TTL shows when it
last did, by Redis' clock alone: the clocks of launchers and readers do not matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import redis

from podrelay.protocol import redis_keys
from podrelay.protocol.redis_keys import RedisKeys
from podrelay.protocol.redis_values import fields_of, number_of, text
from podrelay.protocol.retention import REGISTRATION_TTL_S
from podrelay.protocol.snapshots import SNAPSHOT_FIELD, LauncherSnapshot, decode_snapshot
from podrelay.store.bounded_reads import fitting, read_entries, read_short
from podrelay.store.circuit_breaker import CircuitBreaker

# A launcher counts as dead after two missed renewals and some delay; its registration stays listed until it expires.
SILENCE_LIMIT_S = 12.0
# A launch that was offered a moment ago is not waiting for a launcher yet.
PATIENCE_S = 3.0
# More registrations are not read: anybody with access to Redis can add some.
_LAUNCHERS_MAX = 1000


@dataclass(frozen=True, slots=True)
class RegisteredLauncher:
    """A launcher's registration in Redis; `last_seen_s` is how many seconds ago it was renewed."""

    name: str
    state: str
    last_seen_s: float
    snapshot: LauncherSnapshot

    @property
    def alive(self) -> bool:
        return self.last_seen_s < SILENCE_LIMIT_S


def registered_launchers(client: redis.Redis, keys: RedisKeys, cluster: str) -> list[RegisteredLauncher]:
    """The launchers registered for a cluster, dead ones included until their registration expires."""
    members = _members(client, keys, cluster)
    if not members:
        return []
    pipeline = client.pipeline(transaction=False)
    for member in members:
        pipeline.pttl(member)
    ttls_ms = pipeline.execute()
    entries = read_short(client, members, ("state", SNAPSHOT_FIELD))
    return [
        RegisteredLauncher(
            name=member.removeprefix(keys.worker(cluster, "")),
            state=entry.get("state", "?"),
            last_seen_s=_last_seen_s(ttl_ms),
            snapshot=decode_snapshot(LauncherSnapshot, entry.get(SNAPSHOT_FIELD)),
        )
        for member, entry, ttl_ms in zip(members, entries, ttls_ms, strict=True)
        if ttl_ms != -2
    ]


def _is_any_alive(client: redis.Redis, keys: RedisKeys, cluster: str) -> bool:
    """Reads no values: anybody with access to Redis may have written them, of any length."""
    pipeline = client.pipeline(transaction=False)
    members = _members(client, keys, cluster)
    for member in members:
        pipeline.pttl(member)
    replies = pipeline.execute() if members else []
    return any(ttl_ms != -2 and _last_seen_s(ttl_ms) < SILENCE_LIMIT_S for ttl_ms in replies)


def _last_seen_s(ttl_ms: int) -> float:
    return max(0.0, REGISTRATION_TTL_S - ttl_ms / 1000.0)


def _members(client: redis.Redis, keys: RedisKeys, cluster: str) -> list[str]:
    """The keys of the workers that are registered for a cluster's launches; none while the set has another type, or is longer
    than launchers make it, until a launcher registers again.
    """
    ours, registry = keys.worker(cluster, ""), redis_keys.rq_workers(keys.launch_queue(cluster))
    if not fitting(client, {registry: "scard"}).get(registry):
        return []
    found = sorted(map(text, client.smembers(registry)))
    return [member for member in found if member.startswith(ours)][:_LAUNCHERS_MAX]


def without_launcher(
    breaker: CircuitBreaker, keys: RedisKeys, cluster: str, launch_ids: Sequence[str], now_s: float
) -> list[str]:
    """The launches among these that wait to be claimed while no launcher is alive; none if one is.

    :raises RedisUnavailable: Redis failed, or the breaker is open.
    """
    if not launch_ids:
        return []
    if breaker.call(lambda client: _is_any_alive(client, keys, cluster)):
        return []
    entries = map(fields_of, breaker.run(read_entries(keys, launch_ids)))
    return [
        launch_id
        for launch_id, entry in zip(launch_ids, entries, strict=True)
        if entry.get("state") == "offered" and now_s - number_of(entry.get("t_offered")) >= PATIENCE_S
    ]
