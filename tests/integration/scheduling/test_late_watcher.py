"""A watcher that is late or cut off from the API server (chaos row cut-watcher-api, seed 1)."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

import pytest
from airflow.utils.session import create_session

from podrelay.executor import RedisKubernetesExecutor
from tests.harness.task_instances import make_task_instances, update, workload_of
from tests.integration.scheduling.conftest import Outside, beat


@pytest.fixture
def executor(airflow_db: None, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[RedisKubernetesExecutor]:
    monkeypatch.setenv("AIRFLOW__PODRELAY__REDIS_URL", redis_url)
    executor = RedisKubernetesExecutor()
    executor.job_id = 4242
    executor.start()
    yield executor
    executor.end()


def _handed_over(executor: RedisKubernetesExecutor, redis_url: str) -> tuple[Outside, str, Any]:
    (ti_id,) = make_task_instances()
    workload = workload_of(ti_id)
    with create_session() as session:
        executor.queue_workload(workload, session)
    executor.heartbeat()
    return Outside(redis_url), ti_id, workload


def test_a_pod_is_not_revoked_because_its_task_ended_before_the_watcher_reported(
    executor: RedisKubernetesExecutor, redis_url: str
) -> None:
    outside, ti_id, workload = _handed_over(executor, redis_url)
    launch_id = str(workload.ti.external_executor_id)
    outside.create(launch_id, pod="pod-1")
    update(ti_id, state="success", start_date=datetime.now(timezone.utc))
    for _ in range(3):
        executor.parts.reconciler.schedule_now()
        executor.heartbeat()
    assert outside.cleanups() == [], "it may still be writing its log"
    assert workload.key in executor.running
    outside.publish(launch_id, "succeeded", pod="pod-1", uid="u")
    beat(executor, until=lambda: not executor.running)
    assert outside.cleanups() == ["delete pod default/pod-1"]
    assert outside.redis.zcard(outside.names.unacknowledged) == 0


def test_a_task_marked_as_success_before_it_began_loses_its_pod(
    executor: RedisKubernetesExecutor, redis_url: str
) -> None:
    outside, ti_id, workload = _handed_over(executor, redis_url)
    outside.create(str(workload.ti.external_executor_id), pod="pod-1")
    update(ti_id, state="success")
    executor.parts.reconciler.schedule_now()
    beat(executor, until=lambda: not executor.running)
    assert outside.cleanups() == ["revoke pod default/pod-1"]
