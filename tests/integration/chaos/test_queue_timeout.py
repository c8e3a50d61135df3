"""Many tasks pass the queue timeout in one turn of the scheduler's loop: quickly done, and no task that began dies."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from airflow.utils.session import create_session

from podrelay.executor import RedisKubernetesExecutor
from tests.integration.executor.conftest import Outside
from tests.support.task_instances import load, make_task_instances, update, workload_of

COUNT = 100
BEGUN = 20
# A hundredth of it on a quiet machine; here only a loop that waits per task would be found.
LIMIT_S = 10.0


@pytest.fixture
def executor(airflow_db: None, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[RedisKubernetesExecutor]:
    monkeypatch.setenv("AIRFLOW__PODRELAY__REDIS_URL", redis_url)
    monkeypatch.setenv("AIRFLOW__CORE__PARALLELISM", "1000")
    executor = RedisKubernetesExecutor()
    executor.job_id = 4242
    executor.start()
    yield executor
    executor.end()


def test_many_at_once(executor: RedisKubernetesExecutor, redis_url: str) -> None:
    outside = Outside(redis_url)
    ids = make_task_instances(COUNT)
    with create_session() as session:
        for ti_id in ids:
            executor.queue_workload(workload_of(ti_id), session)
    executor.heartbeat()
    rows = [load(ti_id) for ti_id in ids]  # as the scheduler saw them: in queued, all of them
    launches = [str(ti.external_executor_id) for ti in rows]
    for launch_id in launches[: 2 * BEGUN]:
        outside.create(launch_id, pod=f"pod-{launch_id}")
    for ti_id, launch_id in list(zip(ids, launches, strict=True))[:BEGUN]:
        outside.publish(launch_id, "started", pod=f"pod-{launch_id}", uid="u")
        update(ti_id, state="running")
    began_s = time.monotonic()
    for ti in rows:
        executor.revoke_task(ti=ti)
    took_s = time.monotonic() - began_s
    print(f"{COUNT} revoked in {took_s:.2f} s")
    assert took_s < LIMIT_S
    executor.heartbeat()
    assert executor.running == set()
    cleanups = " ".join(outside.cleanups())
    begun, waiting, unmade = launches[:BEGUN], launches[BEGUN : 2 * BEGUN], launches[2 * BEGUN :]
    assert not any(launch_id in cleanups for launch_id in begun), "a task that had begun was killed"
    assert all(launch_id in cleanups for launch_id in waiting)
    assert not any(launch_id in cleanups for launch_id in unmade)
    assert outside.redis.hlen(outside.names.current) == 0
