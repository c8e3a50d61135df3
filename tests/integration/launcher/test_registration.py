"""A launcher's registration survives what anybody with access to Redis may write, and says what the launcher does."""

from __future__ import annotations

import asyncio
import time

import pytest
import redis

import podrelay
from podrelay.protocol import redis_keys
from podrelay.protocol.snapshots import LauncherSnapshot
from podrelay.store.liveness import registered_launchers
from podrelay_workers.launcher import registration
from podrelay_workers.launcher.registration import Registration
from podrelay_workers.runtime.recent import WINDOW_S
from tests.harness.launcher_rig import LauncherRig
from tests.harness.waiting import until


@pytest.mark.parametrize("key", [redis_keys.RQ_WORKERS, "of the launcher", "of the queue"])
def test_a_key_of_another_type_keeps_no_launcher_unregistered(rig: LauncherRig, key: str) -> None:
    queue = rig.names.launch_queue("default")
    launcher = rig.names.worker("default", "host-1")
    found = {"of the launcher": launcher, "of the queue": redis_keys.rq_workers(queue)}
    rig.redis.set(found.get(key, key), "x")
    client = redis.Redis.from_url(rig.settings.redis_url)

    async def register() -> None:
        name = rig.names.worker_name("default", "host-1")
        ours = Registration(rig.settings, name, [queue], lambda: (0, 0, False), LauncherSnapshot)
        keeping = asyncio.create_task(ours.keep())
        try:
            found = await until(lambda: registered_launchers(client, rig.names, "default"))
            assert [(launcher.name, launcher.alive) for launcher in found] == [("host-1", True)]
        finally:
            keeping.cancel()

    asyncio.run(register())
    assert rig.redis.smembers(redis_keys.rq_workers(queue)) == {launcher}


def test_a_set_that_is_too_long_is_begun_anew(rig: LauncherRig) -> None:
    """Nobody reads it as it is, and whoever wrote it could hide all launchers."""
    queue, client = rig.names.launch_queue("default"), redis.Redis.from_url(rig.settings.redis_url)
    rig.redis.sadd(redis_keys.rq_workers(queue), rig.names.worker("default", "x" * (20 << 20)))
    assert registered_launchers(client, rig.names, "default") == []

    async def register() -> None:
        name = rig.names.worker_name("default", "host-1")
        ours = Registration(rig.settings, name, [queue], lambda: (0, 0, False), LauncherSnapshot)
        keeping = asyncio.create_task(ours.keep())
        try:
            found = await until(lambda: registered_launchers(client, rig.names, "default"))
            assert [launcher.name for launcher in found] == ["host-1"]
        finally:
            keeping.cancel()

    asyncio.run(register())


def test_a_launcher_says_what_it_creates(rig: LauncherRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registration, "HEARTBEAT_S", 0.1)
    requests = rig.offer_many(6)
    client = redis.Redis.from_url(rig.settings.redis_url)

    def snapshot() -> LauncherSnapshot:
        found = registered_launchers(client, rig.names, "default")
        return found[0].snapshot if found else LauncherSnapshot()

    async def run() -> None:
        async with rig.launcher() as launcher:
            await until(lambda: rig.states(requests) == {"created": 6})
            await until(lambda: snapshot().created_per_s)
            found = snapshot()
            assert found.created_per_s == pytest.approx(6 / WINDOW_S)
            assert found.creation_p50_s is not None and 0.0 < found.creation_p50_s < 5.0
            assert (found.version, found.in_flight, found.draining) == (podrelay.__version__, 0, False)
            assert found.limit is not None and found.limit >= 1
            assert found.throttled_until_s == 0.0
            launcher._throttle.launches.extend(50.0, "Throttled")
            await until(lambda: snapshot().throttled_until_s)
            assert snapshot().throttled_why == "Throttled"
            assert snapshot().throttled_until_s == pytest.approx(time.time() + 50, abs=5)
            launcher._throttle.launches._until_s = 0.0

    asyncio.run(run())
