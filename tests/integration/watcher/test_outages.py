"""What a watcher says about a Redis that is down, refuses the password, and returns: one line for each change."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from pathlib import Path

import pytest
import redis

from tests.harness.redis_server import RedisServer
from tests.harness.waiting import until
from tests.harness.watcher_rig import WatcherRig


def test_one_line_for_each_change_of_cause(
    rig: WatcherRig, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "redis"
    folder.mkdir()

    async def scenario(server: RedisServer) -> None:
        rig.settings = replace(rig.settings, redis_url=server.url)
        rig.redis = redis.Redis.from_url(server.url, decode_responses=True)
        async with rig.watching():
            server.kill()
            await until(lambda: "Redis unavailable" in caplog.text)
            await asyncio.sleep(1.0)
            server.options = ("--requirepass", "secret-of-the-test")
            server.process = None
            server.start_without_waiting()
            await until(lambda: "rejects the user or password" in caplog.text)
            await asyncio.sleep(1.0)
            redis.Redis.from_url(server.url, password="secret-of-the-test").config_set("requirepass", "")
            await until(lambda: "available again" in caplog.text)

    with RedisServer(folder) as server, caplog.at_level(logging.WARNING):
        asyncio.run(scenario(server))
    about_redis = [record.getMessage() for record in caplog.records if "Redis" in record.getMessage()]
    changes = [line for line in about_redis if "lost its data" not in line]
    assert len([line for line in changes if "rejects the user or password" in line]) == 1
    assert changes[-1] == "Redis is available again."
    assert len(changes) <= 5, changes
