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


@pytest.mark.parametrize("key", [redis_keys.RQ_WORKERS, "of the launcher", "of the queue"])
def test_a_key_of_another_type_keeps_no_launcher_unregistered(rig: LauncherRig, key: str) -> None:
    queue = rig.names.launch_queue("default")
    launcher = rig.names.worker("default", "host-1")
    found = {"of the launcher": launcher, "of the queue": redis_keys.rq_workers(queue)}
    rig.redis.set(found.get(key, key), "x")
    client = redis.Redis.from_url(rig.settings.redis_url)

    async def register() -> None:
        name = rig.names.worker_name("default", "host-1")
        registration = Registration(rig.settings, name, [queue], lambda: (0, 0, False))
        keeping = asyncio.create_task(registration.keep())
        try:
            found = await until(lambda: registered_launchers(client, rig.names, "default"))
            assert [(launcher.name, launcher.alive) for launcher in found] == [("host-1", True)]
        finally:
            keeping.cancel()

    asyncio.run(register())
    assert rig.redis.smembers(redis_keys.rq_workers(queue)) == {launcher}
