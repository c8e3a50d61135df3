"""Which launchers are alive is one answer, by Redis' clock, for `status` and for the executor."""

from __future__ import annotations

import time

import pytest
import redis
from cryptography.fernet import Fernet

from podrelay.protocol import redis_keys
from podrelay.protocol.redis_keys import RedisKeys
from podrelay.protocol.retention import REGISTRATION_TTL_S
from podrelay.settings import Settings
from podrelay.store.circuit_breaker import CircuitBreaker
from podrelay.store.ledger import Ledger
from podrelay.store.liveness import SILENCE_LIMIT_S, registered_launchers

KEYS = RedisKeys("liveness")
NOW_S = time.time()


def register(client: redis.Redis, name: str, silent_s: float, cluster: str) -> None:
    key = KEYS.worker(cluster, name)
    client.sadd(redis_keys.rq_workers(KEYS.launch_queue(cluster)), key)
    client.hset(key, mapping={"state": "idle"})
    client.pexpire(key, int((REGISTRATION_TTL_S - silent_s) * 1000))


def waiting_without_launcher(url: str) -> list[str]:
    breaker = CircuitBreaker(Settings(url, Fernet.generate_key().decode()))
    try:
        return Ledger(breaker, KEYS).without_launcher("default", ["waits", "young", "claimed", "unknown"], NOW_S)
    finally:
        breaker.close()


@pytest.mark.parametrize(
    ("silent_s", "alive"), [(0.0, True), (SILENCE_LIMIT_S - 3.0, True), (SILENCE_LIMIT_S + 0.5, False), (50.0, False)]
)
def test_a_silent_launcher_is_dead_for_everyone(redis_url: str, silent_s: float, alive: bool) -> None:
    client = redis.Redis.from_url(redis_url)
    register(client, "ours", silent_s, "default")
    register(client, "of-another-cluster", 0.0, "other")
    queue = redis_keys.rq_workers(KEYS.launch_queue("default"))
    client.sadd(queue, KEYS.worker("default", "expired"), "rq:worker:not-of-this-deployment", KEYS.current)
    client.hset(KEYS.launch("waits"), mapping={"state": "offered", "t_offered": NOW_S - 10.0})
    client.hset(KEYS.launch("young"), mapping={"state": "offered", "t_offered": NOW_S - 1.0})
    client.hset(KEYS.launch("claimed"), mapping={"state": "claimed", "t_offered": NOW_S - 10.0})
    (launcher,) = registered_launchers(client, KEYS, "default")
    assert (launcher.name, launcher.state, launcher.alive) == ("ours", "idle", alive)
    assert silent_s <= launcher.last_seen_s < silent_s + 3.0
    assert waiting_without_launcher(redis_url) == ([] if alive else ["waits"])


def test_without_any_launcher_launches_wait(redis_url: str) -> None:
    client = redis.Redis.from_url(redis_url)
    client.hset(KEYS.launch("waits"), mapping={"state": "offered", "t_offered": NOW_S - 10.0})
    assert registered_launchers(client, KEYS, "default") == []
    assert waiting_without_launcher(redis_url) == ["waits"]


def test_long_values_cost_the_scheduler_nothing(redis_url: str) -> None:
    client = redis.Redis.from_url(redis_url)
    for number in range(20):
        register(client, f"forged-{number}", 50.0, "default")
        client.hset(KEYS.worker("default", f"forged-{number}"), "state", "x" * (5 << 20))
    client.hset(KEYS.launch("claimed"), mapping={"state": "x" * (20 << 20)})
    client.hset(KEYS.launch("waits"), mapping={"state": "offered", "t_offered": NOW_S - 10.0})
    before = client.info("stats")["total_net_output_bytes"]
    assert waiting_without_launcher(redis_url) == ["waits"]
    assert client.info("stats")["total_net_output_bytes"] - before < 1 << 20
