"""Fixtures of every suite: a real redis-server on a free port, and an empty database for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from tests.support.redis_server import RedisServer, find_server


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    find_server()  # fails in CI, skips on a laptop, when there is none
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """URL of an empty database."""
    redis.Redis.from_url(redis_server.url).flushall()
    return redis_server.url
