"""Is any launcher alive? Asked for the tasks that wait for one (`NoLauncher` in their event log). Used by `ledger`."""

from __future__ import annotations

from collections.abc import Sequence

import redis

from podrelay.protocol import redis_keys
from podrelay.protocol.messages import number_of
from podrelay.protocol.redis_keys import RedisKeys
from podrelay.store.circuit_breaker import CircuitBreaker

# A launcher renews its registration every 5 s for 60 s (`podrelay_workers.launcher.registration`). The remaining TTL
# gives its age by Redis' clock, so no two clocks are compared.
_REGISTERED_S = 60.0
_SILENT_S = 12.0
# A launch that was offered a moment ago has not waited for anybody.
PATIENCE_S = 3.0


def heard_s_ago(client: redis.Redis, queue: str) -> dict[str, float]:
    """The launchers that are registered for a queue, by their key, and how long ago each was heard of. Two round trips."""
    members = sorted(_text(member) for member in client.smembers(redis_keys.RQ_WORKERS))
    pipeline = client.pipeline(transaction=False)
    for member in members:
        pipeline.hget(member, "queues")
        pipeline.pttl(member)
    answers = pipeline.execute() if members else []
    return {
        member: max(0.0, _REGISTERED_S - ttl_ms / 1000.0)
        for member, queues, ttl_ms in zip(members, answers[::2], answers[1::2], strict=True)
        if queue in _text(queues or b"").split(",") and ttl_ms != -2
    }


def without_launcher(
    breaker: CircuitBreaker, keys: RedisKeys, cluster: str, launch_ids: Sequence[str], now_s: float
) -> list[str]:
    """The launches among these that wait to be claimed while no launcher is alive; none where one is.

    :raises RedisUnavailable: Redis does not answer.
    """
    if not launch_ids:
        return []

    def look(client: redis.Redis) -> list[str]:
        heard = heard_s_ago(client, keys.launch_queue(cluster))
        if any(ago_s < _SILENT_S for ago_s in heard.values()):
            return []
        pipeline = client.pipeline(transaction=False)
        for launch_id in launch_ids:
            pipeline.hmget(keys.launch(launch_id), ("state", "t_offered"))
        found = zip(launch_ids, pipeline.execute(), strict=True)
        return [
            launch_id for launch_id, (state, at) in found if state == b"offered" and now_s - number_of(at) >= PATIENCE_S
        ]

    return breaker.call(look)


def _text(value: bytes | str) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
