"""Whoever can write to Redis can change what is not encrypted there: no launch runs in a pod that differs from its own."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from podrelay.protocol import identifiers
from podrelay.protocol.identifiers import DEFAULT_CLUSTER
from podrelay.protocol.messages import LaunchRequest
from podrelay_workers.launcher.warm_pool import trouble, upkeep
from tests.harness.waiting import until
from tests.harness.warm_pods import Warm


def give_pods_to_another_shape(warm: Warm, shape: str) -> None:
    """The records are encrypted, and stay as they are. Nobody keeps the pool for some seconds."""
    names = warm.rig.names
    for warm_id, value in warm.rig.redis.hgetall(names.warm_pods(DEFAULT_CLUSTER)).items():
        own, _, rest = value.partition(" ")
        warm.rig.redis.hset(names.warm_pods(DEFAULT_CLUSTER), warm_id, f"{shape} {rest}")
        warm.rig.redis.zrem(names.warm_idle(DEFAULT_CLUSTER, own), warm_id)
        warm.rig.redis.zadd(names.warm_idle(DEFAULT_CLUSTER, shape), {warm_id: time.time()})
    state: dict[str, Any] = {"keeper": "another", "expires": time.time() + 5.0}
    warm.rig.redis.hset(names.warm_state(DEFAULT_CLUSTER), mapping=state)


def give_pod_to_launch(warm: Warm, request: LaunchRequest) -> None:
    names = warm.rig.names
    warm_id, value = next(iter(warm.rig.redis.hgetall(names.warm_pods(DEFAULT_CLUSTER)).items()))
    *_, pod, record = value.split(" ")
    forged = {"warm_pod": pod, "warm_id": warm_id, "warm_record": record, "start": "warm"}
    warm.rig.redis.hset(names.launch(request.launch_id), mapping=forged)


@pytest.mark.parametrize("way", ["pool", "ledger", "ledger, and warm pods are off here"])
def test_a_launch_never_runs_in_a_pod_of_another_shape(way: str, warm: Warm) -> None:
    """Another image, service account or namespace: those of the author of another DAG."""
    known, request = warm.request(1, image="other:1"), warm.request(2, image="other:1")
    most = {"warm_pods_max": 0, "warm_pods_min": 0} if "off" in way else {"warm_pods_max": 2}

    async def scenario() -> None:
        async with warm.launcher(warm_pods_max=2):
            await warm.filled()
            shapes = set(warm.rig.redis.hkeys(warm.rig.names.warm_shapes(DEFAULT_CLUSTER)))
            warm.rig.offer(known)
            await warm.started(known, state="created")
            (shape,) = set(warm.rig.redis.hkeys(warm.rig.names.warm_shapes(DEFAULT_CLUSTER))) - shapes
        if way == "pool":
            give_pods_to_another_shape(warm, shape)
        warm.rig.offer(request)
        if way != "pool":
            give_pod_to_launch(warm, request)
        async with warm.launcher(**most):
            await until(lambda: set(warm.rig.states([request])) <= {"created", "started"}, 15)

    asyncio.run(scenario())
    (pod,) = warm.pods_of(request)
    assert pod["spec"]["containers"][0]["image"] == "other:1"
    # The first launcher may have had time to make a warm pod of its shape.
    served = {name for name, item in warm.pods.deliveries.items() if item.launch_id == request.launch_id}
    assert served <= {pod["metadata"]["name"]}


@pytest.mark.parametrize("field", ["condemned", "delivered"])
def test_a_pod_whose_task_runs_is_never_deleted(field: str, warm: Warm) -> None:
    """A recorded job is offered again, and the ledger says that the launch's pod never got its workload."""
    request = warm.request(1)
    job, ledger = f"rq:job:{request.launch_id}_0", warm.rig.names.launch(request.launch_id)

    async def scenario() -> None:
        async with warm.launcher():
            await warm.filled()
        warm.rig.offer(request)
        recorded = warm.rig.redis.hgetall(job)
        async with warm.launcher():
            await warm.started(request)
            await until(lambda: warm.rig.in_hand() == 0, 5)
            pod = warm.rig.ledger(request)["pod"]
            forged = {"state": "offered"} | ({"condemned": pod} if field == "condemned" else {})
            warm.rig.redis.hset(ledger, mapping=forged)
            warm.rig.redis.hdel(ledger, "delivered", "pod", "uid")
            warm.rig.redis.delete(*warm.rig.redis.keys(warm.rig.names.mailbox_prefix + "*"))
            warm.rig.redis.hset(job, mapping=recorded)
            warm.rig.redis.lpush(f"rq:queue:{recorded['origin']}", f"{request.launch_id}_0")
            await until(lambda: "pod" in warm.rig.ledger(request), 15)
        (labels,) = [item["metadata"]["labels"] for item in warm.pods_of(request) if item["metadata"]["name"] == pod]
        assert identifiers.LABEL_REVOKED not in labels

    asyncio.run(scenario())


@pytest.mark.parametrize("alive", [True, False])
def test_a_pod_that_is_put_back_into_the_pool_keeps_its_task(
    alive: bool, warm: Warm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keeper finds it silent, or one too many."""
    monkeypatch.setattr(trouble, "SILENT_S", 0.5)
    for name in ("LOOK_FIRST_S", "SILENT_MOST_S", "SURPLUS_S"):
        monkeypatch.setattr(upkeep, name, 0.5)
    request, names = warm.request(1), warm.rig.names

    async def scenario() -> None:
        async with warm.launcher():
            await warm.filled()
            before = warm.rig.redis.hgetall(names.warm_pods(DEFAULT_CLUSTER))
            warm.rig.offer(request)
            await warm.started(request)
            warm_id = identifiers.warm_id_of_pod(warm.rig.ledger(request)["pod"])
            shape, mailbox, *_ = before[warm_id].split(" ")
            await warm.ready()
            if alive:
                warm.rig.redis.set(names.mailbox_alive(mailbox), "1")
                warm.rig.redis.zadd(names.warm_idle(DEFAULT_CLUSTER, shape), {warm_id: time.time() - 100.0})
            warm.rig.redis.hset(names.warm_pods(DEFAULT_CLUSTER), warm_id, before[warm_id])
            await until(lambda: not warm.rig.redis.hexists(names.warm_pods(DEFAULT_CLUSTER), warm_id), 15)
            await asyncio.sleep(1.5)

    asyncio.run(scenario())
    assert len(warm.pods_of(request)) == 1
