"""Whatever anybody with access to Redis has written, `status` shows something, and nothing that a terminal acts on."""

from __future__ import annotations

import json
import time

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from podrelay.cli.launch_text import launch_as_json, render_launch
from podrelay.cli.status import describe_launch, overview
from podrelay.cli.status_text import render_overview
from podrelay.protocol.redis_keys import RedisKeys
from tests.fuzz.redis_writes import Write, targets, writes

KEYS = RedisKeys()
LAUNCHES = ["0190d5b2-3c4e-8a1b-9f00-1234567890ab", "0190d5b2-3c4e-8a1b-9f00-1234567890ac"]
TARGET_OF = targets(KEYS, LAUNCHES, ["podrelay.default.default.w"])


@pytest.fixture
def client(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> redis.Redis:
    monkeypatch.setenv("AIRFLOW__PODRELAY__REDIS_URL", redis_url)
    return redis.Redis.from_url(redis_url)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(writes(), min_size=5, max_size=30))
def check(client: redis.Redis, batch: list[Write]) -> None:
    pipeline = client.pipeline(transaction=False)
    for write in batch:
        write.apply(pipeline, KEYS, TARGET_OF(write.pick))
    pipeline.execute(raise_on_error=False)
    now_s = time.time()
    found = overview(None, now_s)
    texts = [render_overview(found)]
    json.dumps(found, ensure_ascii=False, allow_nan=False).encode()  # as the pages send it
    for name in LAUNCHES:
        launch = describe_launch(name, now_s)
        if launch is not None:
            texts.append(render_launch(launch, now_s))
            json.dumps(launch_as_json(launch))
    for text in texts:
        assert all(char.isprintable() or char == "\n" for char in text)
        assert len(text) < 1_000_000


def test_any_values_are_shown(client: redis.Redis) -> None:
    """The values of all examples stay: the last one meets those of all before it."""
    check(client)
