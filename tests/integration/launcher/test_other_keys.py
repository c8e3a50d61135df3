"""A launcher without the key of the scheduler: launches and clean-ups wait for one that has it, and are not quarantined."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from cryptography.fernet import Fernet

from podrelay.protocol.encryption import PayloadCipher
from podrelay.protocol.messages import CleanupRequest
from podrelay.store.key_rings import KeyRing, announce
from podrelay.store.launch_queue import Acknowledgement
from tests.harness.launcher_rig import LauncherRig
from tests.harness.lua import evaluate
from tests.harness.waiting import until

OTHER_KEY = Fernet.generate_key().decode()


def scheduler_announces(rig: LauncherRig) -> None:
    evaluate(rig.redis, announce(rig.names, KeyRing("scheduler 7", PayloadCipher(rig.key, "default").fingerprints)))


def test_launches_wait_for_a_launcher_with_their_key(rig: LauncherRig, caplog: pytest.LogCaptureFixture) -> None:
    scheduler_announces(rig)
    request = rig.request()
    rig.offer(request)

    async def scenario() -> None:
        async with rig.launcher(fernet_key=OTHER_KEY):
            await until(lambda: rig.ledger(request)["state"] == "waiting")
            assert rig.ledger(request)["reason"] == "KeyMismatch"
            assert "does not have the key" in rig.ledger(request)["message"]
        async with rig.launcher(fernet_key=f"{OTHER_KEY},{rig.key}"):
            await until(lambda: rig.ledger(request)["state"] == "created")

    with caplog.at_level(logging.WARNING):
        asyncio.run(scenario())
    assert rig.quarantined() == []
    assert caplog.text.count("Fernet keys differ") == 2  # once before and once after the change of its keys
    assert rig.redis.hkeys(rig.names.key_rings) == ["scheduler 7"]


def test_clean_ups_wait_for_a_launcher_with_their_key(rig: LauncherRig) -> None:
    scheduler_announces(rig)
    request = rig.request()
    rig.offer(request)

    async def scenario() -> None:
        async with rig.launcher():
            await until(lambda: rig.ledger(request)["state"] == "created")
        entry: dict[str, Any] = rig.ledger(request)
        cleanup = CleanupRequest(request.launch_id, "delete", entry["namespace"], entry["pod"], entry["uid"])
        rig.queue.acknowledge([Acknowledgement(request.launch_id, 0, request.subject, cleanup=cleanup)])
        waiting = f"rq:scheduled:{rig.names.cleanup_queue('default')}"
        async with rig.launcher(fernet_key=OTHER_KEY):
            await until(lambda: rig.redis.zcard(waiting))
        assert rig.api.pods
        async with rig.launcher():
            await until(lambda: not rig.api.pods)

    asyncio.run(scenario())
    assert rig.quarantined() == []


def test_a_forged_job_is_quarantined_all_the_same(rig: LauncherRig) -> None:
    scheduler_announces(rig)
    request = rig.request()
    rig.offer(request)
    forged = rig.redis.hget(f"rq:job:{request.launch_id}_0", "data")
    sealed = PayloadCipher(OTHER_KEY, "default").requests.encrypt(request.encode())
    assert forged is not None
    import json

    document = json.loads(forged)
    document[2][0] = sealed
    rig.redis.hset(f"rq:job:{request.launch_id}_0", "data", json.dumps(document))

    async def scenario() -> None:
        async with rig.launcher():
            await until(rig.quarantined)

    asyncio.run(scenario())
    assert [entry["job"] for entry in rig.quarantined()] == [f"{request.launch_id}_0"]
