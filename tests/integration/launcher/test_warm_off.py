"""With `[podrelay] warm_pods_max = 0` nothing is as if there were warm pods: no key, no label, no request."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from podrelay.protocol import identifiers
from podrelay.protocol.redis_keys import RedisKeys
from tests.harness.warm_pods import Warm

# What each process may do with these keys is in `podrelay.protocol.access`.
OURS = ("warm_", "mailbox:")
LEDGER = {"warm_pod", "warm_id", "warm_record", "delivered", "condemned", "start", "warm_attempt"}


def commands_until(client: Any, done: threading.Event, found: list[str]) -> None:
    with client.monitor() as monitor:
        for command in monitor.listen():
            found.append(str(command["command"]))
            if done.is_set():
                return


def test_no_key_no_label_and_no_request_is_about_warm_pods(warm: Warm) -> None:
    requests = [warm.request(number) for number in range(6)]
    found: list[str] = []
    done = threading.Event()
    watching = threading.Thread(target=commands_until, args=(warm.rig.redis, done, found))
    watching.start()

    async def scenario() -> None:
        async with warm.launcher(warm_pods_max=0, warm_pods_min=0), warm.launcher(warm_pods_max=0, warm_pods_min=0):
            warm.rig.offer(*requests)
            await warm.started(*requests, state="created")
            await asyncio.sleep(2.5)  # every loop of a launcher has turned once

    asyncio.run(scenario())
    done.set()
    warm.rig.redis.ping()
    watching.join()
    prefix = RedisKeys().key("")
    assert any(prefix in command for command in found)
    assert [command for command in found if any(prefix + part in command for part in OURS)] == []
    assert [key for key in warm.rig.redis.keys("*") if any(prefix + part in key for part in OURS)] == []
    for request in requests:
        assert not LEDGER & set(warm.rig.ledger(request))
    assert sorted(verb for verb, _ in warm.calls()) == ["create"] * 6
    for pod in warm.cluster.pods():
        assert not {identifiers.LABEL_WARM, identifiers.LABEL_IDLE} & set(pod["metadata"]["labels"])
        assert identifiers.warm_id_of_pod(pod["metadata"]["name"]) is None


def test_a_cold_launch_beside_warm_pods_is_the_same_pod(warm: Warm) -> None:
    """What a launch gets does not depend on the option, but for the ledger's word on how it started."""
    off, on = warm.request(1, kind="callback", key=()), warm.request(2, kind="callback", key=())

    async def scenario() -> None:
        async with warm.launcher(warm_pods_max=0, warm_pods_min=0):
            warm.rig.offer(off)
            await warm.started(off, state="created")
        async with warm.launcher():
            warm.rig.offer(on)
            await warm.started(on, state="created")

    asyncio.run(scenario())
    (one,), (other,) = warm.pods_of(off), warm.pods_of(on)
    assert set(one["metadata"]["labels"]) == set(other["metadata"]["labels"])
    assert one["spec"]["containers"][0].keys() == other["spec"]["containers"][0].keys()
    assert warm.rig.ledger(on)["start"] == "not_eligible"
    assert "start" not in warm.rig.ledger(off)
