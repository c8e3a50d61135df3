"""`airflow podrelay status`: what people read of launchers and watcher is true of now, not of whoever was last."""

from __future__ import annotations

import time

import pytest
import redis

from podrelay.cli.status import overview, render_overview
from podrelay.protocol.redis_keys import RedisKeys

NAMES = RedisKeys("status")


@pytest.fixture
def client(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> redis.Redis:
    monkeypatch.setenv("AIRFLOW__PODRELAY__REDIS_URL", redis_url)
    monkeypatch.setenv("AIRFLOW__PODRELAY__DEPLOYMENT", NAMES.deployment)
    return redis.Redis.from_url(redis_url)


def told() -> str:
    return render_overview(overview(None, time.time()))


def lead(client: redis.Redis, for_s: float, **more: str) -> None:
    seconds, _ = client.time()  # type: ignore[misc]
    fields = {
        "leader": "host-7",
        "fence": "1",
        "expires": f"{seconds + for_s:.3f}",
        "t_listed": f"{time.time():.3f}",
        **more,
    }
    client.hset(NAMES.watch("default"), mapping=fields)


def test_nobody_is_there(client: redis.Redis) -> None:
    assert "launchers: 0  <- start one: airflow podrelay launcher" in told()
    assert "watcher: none  <- start one: airflow podrelay watcher (never listed)" in told()


def test_a_leading_watcher_and_what_it_knows(client: redis.Redis) -> None:
    lead(client, 30.0, pods="12", trouble="")
    assert "watcher: host-7 (12 pods, listed 0 s ago)" in told()
    assert "in trouble" not in told()


def test_a_watcher_that_is_not_let_in_says_so(client: redis.Redis) -> None:
    lead(client, 30.0, trouble="list: 403 pods is forbidden (default)")
    assert "in trouble: list: 403 pods is forbidden (default)" in told()


def test_a_watcher_that_died_without_a_successor_is_none(client: redis.Redis) -> None:
    lead(client, -10.0, trouble="list: 403 (default)")
    assert "watcher: none  <- start one: airflow podrelay watcher (listed 0 s ago)" in told()
    assert "in trouble" not in told()
