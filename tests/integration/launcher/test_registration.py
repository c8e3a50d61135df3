"""A launcher's registration survives what anybody with access to Redis may write."""

from __future__ import annotations

import asyncio

import pytest
import redis

from podrelay.protocol import redis_keys
from podrelay.store.liveness import registered_launchers
from podrelay_workers.launcher.registration import Registration
from tests.harness.launcher_rig import LauncherRig
from tests.harness.waiting import until


@pytest.mark.parametrize("key", [redis_keys.RQ_WORKERS, redis_keys.RQ_WORKER_PREFIX + "host-1", "of the queue"])
def test_a_key_of_another_type_keeps_no_launcher_unregistered(rig: LauncherRig, key: str) -> None:
    queue = rig.names.launch_queue("default")
    rig.redis.set(redis_keys.rq_workers(queue) if key == "of the queue" else key, "x")
    client = redis.Redis.from_url(rig.settings.redis_url)

    async def register() -> None:
        registration = Registration(rig.settings, "host-1", [queue], lambda: (0, 0, False))
        keeping = asyncio.create_task(registration.keep())
        try:
            found = await until(lambda: registered_launchers(client, rig.names, "default"))
            assert [(launcher.name, launcher.alive) for launcher in found] == [("host-1", True)]
        finally:
            keeping.cancel()

    asyncio.run(register())
    assert rig.redis.smembers(redis_keys.rq_workers(queue)) == {"rq:worker:host-1"}
