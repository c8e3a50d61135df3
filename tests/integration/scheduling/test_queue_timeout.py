"""Many tasks reach the queue timeout in one scheduler loop: revoking them is quick, and a task that began is not killed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from airflow.utils.session import create_session

from podrelay.executor import RedisKubernetesExecutor
from podrelay.scheduling import heartbeat_budget
from tests.harness.task_instances import load, make_task_instances, update, workload_of
from tests.integration.scheduling.conftest import Outside

COUNT = 500
BEGUN = 50
LIMIT_S = 1.0


@pytest.fixture
def executor(airflow_db: None, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[RedisKubernetesExecutor]:
    monkeypatch.setenv("AIRFLOW__PODRELAY__REDIS_URL", redis_url)
    monkeypatch.setenv("AIRFLOW__CORE__PARALLELISM", "1000")
    executor = RedisKubernetesExecutor()
    executor.job_id = 4242
    executor.start()
    yield executor
    executor.end()


def round_trips(executor: RedisKubernetesExecutor, monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """A list that grows by one with each command or pipeline that the executor sends."""
    sent: list[None] = []
    call = executor._breaker.call

    def counted(command: Callable[[redis.Redis], Any]) -> Any:
        sent.append(None)
        return call(command)

    monkeypatch.setattr(executor._breaker, "call", counted)
    return sent


def test_many_at_once(executor: RedisKubernetesExecutor, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat_budget, "HAND_OVER_S", 60.0)  # all of them in one heartbeat, on any machine
    outside = Outside(redis_url)
    ids = make_task_instances(COUNT)
    with create_session() as session:
        for ti_id in ids:
            executor.queue_workload(workload_of(ti_id), session)
    executor.heartbeat()
    rows = [load(ti_id) for ti_id in ids]  # as the scheduler read them: all of them queued
    launches = [str(ti.external_executor_id) for ti in rows]
    for launch_id in launches[: 2 * BEGUN]:
        outside.create(launch_id, pod=f"pod-{launch_id}")
    for ti_id, launch_id in list(zip(ids, launches, strict=True))[:BEGUN]:
        outside.publish(launch_id, "started", pod=f"pod-{launch_id}", uid="u")
        update(ti_id, state="running")
    sent = round_trips(executor, monkeypatch)
    began_s = time.monotonic()
    for ti in rows:
        executor.revoke_task(ti=ti)
    took_s = time.monotonic() - began_s
    assert not any(executor.has_task(ti) for ti in rows), "their slots are free at once"
    assert sent == [], "revoking makes no round trip"
    began_s, began_cpu_s = time.monotonic(), time.process_time()
    while executor.parts.revocations.pending_subjects():  # in batches, within each heartbeat's budget
        executor.heartbeat()
    beat_s, beat_cpu_s = time.monotonic() - began_s, time.process_time() - began_cpu_s
    print(f"{COUNT} revoked in {took_s:.3f} s, withdrawn in {beat_s:.3f} s ({beat_cpu_s:.3f} s of processor time)")
    assert took_s < LIMIT_S
    # The wall time also depends on the load of the machine.
    assert beat_cpu_s < LIMIT_S
    assert len(sent) <= 4 * COUNT / 100, "round trips: a few for each hundred"
    assert executor.running == set()
    cleanups = " ".join(outside.cleanups())
    begun, waiting, unmade = launches[:BEGUN], launches[BEGUN : 2 * BEGUN], launches[2 * BEGUN :]
    assert not any(launch_id in cleanups for launch_id in begun), "a task that had begun was killed"
    assert all(launch_id in cleanups for launch_id in waiting)
    assert not any(launch_id in cleanups for launch_id in unmade)
    assert outside.redis.hlen(outside.names.current) == 0
