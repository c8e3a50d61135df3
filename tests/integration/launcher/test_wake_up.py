"""New work wakes the loop that serves it, at once, and no other: each claim costs Redis and every launcher."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from podrelay.protocol.messages import CleanupRequest, LaunchRequest
from podrelay.store.launch_queue import Acknowledgement
from podrelay_workers.launcher import job_loop
from tests.harness.launcher_rig import LauncherRig
from tests.harness.waiting import until


async def settled(read: Callable[[], float]) -> float:
    """The value, once it has not changed for a while."""
    value = read()
    while True:
        await asyncio.sleep(0.3)
        if value == read():
            return value
        value = read()


def test_work_wakes_the_loop_that_serves_it(rig: LauncherRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_loop, "POLL_S", 60.0)  # without a wake-up nothing would happen

    async def created(request: LaunchRequest) -> None:
        await until(lambda: rig.ledger(request).get("state") == "created")

    async def scenario() -> None:
        # Leases so long that nothing is renewed or reaped meanwhile.
        async with rig.launcher(launch_lease_s=120.0) as launcher:
            for _ in range(2):
                before_s = await settled(lambda: launcher._cleanup_queue.last_reply_s)
                request = rig.request()
                rig.offer(request)
                await created(request)
                assert launcher._cleanup_queue.last_reply_s == before_s

                before_s = await settled(lambda: launcher._launch_queue.last_reply_s)
                entry = rig.ledger(request)
                cleanup = CleanupRequest(request.launch_id, "delete", entry["namespace"], entry["pod"], entry["uid"])
                rig.queue.acknowledge([Acknowledgement(request.launch_id, 0, request.subject, cleanup=cleanup)])
                await until(lambda: not rig.api.pods)
                assert launcher._launch_queue.last_reply_s == before_s
            # A launcher of an earlier release announces work of any kind.
            request = rig.request()
            rig.redis.publish(rig.names.wake("default"), "1")
            rig.offer(request)
            await created(request)

    asyncio.run(scenario())
