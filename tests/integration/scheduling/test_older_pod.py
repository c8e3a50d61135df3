"""A withdrawn pod that begins before its deletion reaches it: its task runs, and is not failed because of the newer pod.

Airflow's execution API asks for the task instance, not for the launch: whichever pod comes first runs it, the other one is
refused (409) and fails. The row's host name says which one it is.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from airflow.utils.session import create_session
from airflow.utils.state import TaskInstanceState

from podrelay.executor import RedisKubernetesExecutor
from podrelay.protocol import identifiers, redis_keys
from tests.harness.redis_server import RedisServer
from tests.harness.task_instances import load, make_task_instances, update, workload_of
from tests.integration.scheduling.conftest import Outside, beat
from tests.integration.scheduling.conftest import executor as executor
from tests.integration.scheduling.conftest import outside as outside
from tests.integration.scheduling.conftest import start_executor as start_executor

FAILED = TaskInstanceState.FAILED


def queue(executor: RedisKubernetesExecutor, ti_id: str) -> tuple[Any, str]:
    """Queue one task instance without a heartbeat. Returns its key and launch id."""
    workload = workload_of(ti_id, executor.jwt_generator)
    with create_session() as session:
        executor.queue_workload(workload, session)
    return workload.key, str(workload.ti.external_executor_id)


def requeue(executor: RedisKubernetesExecutor, ti_id: str) -> str:
    """Requeue as the scheduler does for a task that is stuck in queued: same id and try, another launch."""
    executor.revoke_task(ti=load(ti_id))
    update(ti_id, state="queued", external_executor_id=str(uuid.uuid4()))
    return queue(executor, ti_id)[1]


def pod_of(launch_id: str, attempt: int = 0) -> str:
    return identifiers.pod_name("dag-task", launch_id, attempt)


def created(executor: RedisKubernetesExecutor, outside: Outside) -> tuple[str, Any, str]:
    """A task whose pod exists: its id, key and launch id."""
    ti_id = make_task_instances()[0]
    key, launch_id = queue(executor, ti_id)
    executor.heartbeat()
    outside.create(launch_id, pod_of(launch_id))
    return ti_id, key, launch_id


def begin(ti_id: str, pod: str) -> None:
    update(ti_id, state="running", hostname=pod, start_date=datetime.now(timezone.utc))


@pytest.fixture
def begun(executor: RedisKubernetesExecutor, outside: Outside) -> tuple[str, Any, str, str]:
    """Task, key, the older launch whose withdrawn pod runs it, and the newer launch."""
    ti_id, key, older = created(executor, outside)
    newer = requeue(executor, ti_id)
    beat(
        executor, until=lambda: "queue" in outside.ledger(newer)
    )  # a Redis that answers late leaves it to the next one
    assert outside.ledger(older)["state"] == "withdrawn"
    begin(ti_id, pod_of(older))
    return ti_id, key, older, newer


def refuse(executor: RedisKubernetesExecutor, outside: Outside, launch_id: str) -> None:
    """The execution API answered the newer pod with 409, and it ended."""
    outside.create(launch_id, pod_of(launch_id))
    outside.publish(launch_id, "failed", pod=pod_of(launch_id), container_reason="Error", exit_code=1)
    executor.heartbeat()


def test_the_refusal_of_the_newer_pod_fails_nothing(
    executor: RedisKubernetesExecutor, outside: Outside, begun: tuple[str, Any, str, str]
) -> None:
    ti_id, key, older, newer = begun
    refuse(executor, outside, newer)
    for _ in range(5):
        executor.parts.reconciler.schedule_now()
        executor.heartbeat()
    assert executor.event_buffer == {}
    assert key in executor.running, "the task runs: its slot is taken"
    update(ti_id, state="success")
    outside.publish(older, "succeeded", pod=pod_of(older), uid="u")
    beat(executor, until=lambda: not executor.running and not len(executor.launches))
    assert executor.event_buffer.get(key, (TaskInstanceState.SUCCESS,))[0] == TaskInstanceState.SUCCESS
    assert f"done pod default/{pod_of(newer)}" in outside.cleanups()


def test_before_the_newer_pod_is_made_it_is_withdrawn(
    executor: RedisKubernetesExecutor, outside: Outside, begun: tuple[str, Any, str, str]
) -> None:
    _, key, _, newer = begun
    beat(executor, until=lambda: outside.ledger(newer)["state"] == "withdrawn")
    assert key in executor.running
    assert executor.event_buffer == {}


def test_the_death_of_the_older_pod_is_reported(
    executor: RedisKubernetesExecutor, outside: Outside, begun: tuple[str, Any, str, str]
) -> None:
    _, key, older, newer = begun
    refuse(executor, outside, newer)
    outside.publish(older, "failed", pod=pod_of(older), uid="u", container_reason="OOMKilled", exit_code=137)
    beat(executor, until=lambda: key in executor.event_buffer)
    state, info = executor.event_buffer[key]
    assert state == FAILED
    assert "OOMKilled" in str(info)
    assert key not in executor.running


def test_an_earlier_attempt_of_the_same_launch(executor: RedisKubernetesExecutor, outside: Outside) -> None:
    ti_id, key, launch_id = created(executor, outside)
    outside.publish(launch_id, "failed", pod=pod_of(launch_id), container_reason="ErrImagePull", phase="Pending")
    executor.heartbeat()
    assert outside.queued()[-1:] == [identifiers.job_id(launch_id, 1)]
    assert outside.redis.exists(f"rq:job:{launch_id}_0-pending-revoke"), "it goes only if it still waits by then"
    begin(ti_id, pod_of(launch_id, 0))  # its image was pulled in the end
    outside.create(launch_id, pod_of(launch_id, 1))
    outside.publish(launch_id, "failed", attempt=1, pod=pod_of(launch_id, 1), container_reason="Error", exit_code=1)
    for _ in range(5):
        executor.parts.reconciler.schedule_now()
        executor.heartbeat()
    assert executor.event_buffer == {}
    assert key in executor.running
    update(ti_id, state="success")
    beat(executor, until=lambda: not executor.running)


def test_a_pod_that_had_begun_when_it_was_revoked_is_not_deleted(
    executor: RedisKubernetesExecutor, outside: Outside
) -> None:
    """Even if the watcher has not reported its start."""
    ti_id, _, launch_id = created(executor, outside)
    ti = load(ti_id)
    begin(ti_id, pod_of(launch_id))
    executor.revoke_task(ti=ti)
    executor.heartbeat()
    assert outside.cleanups() == []


@pytest.fixture
def handed_over(executor: RedisKubernetesExecutor, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """A task and its launch, with a short delay before revoked launches are checked again."""
    monkeypatch.setattr("podrelay.scheduling.revocations.RECHECK_AFTER_S", 0.3)
    ti_id = make_task_instances()[0]
    _, launch_id = queue(executor, ti_id)
    executor.heartbeat()
    return ti_id, launch_id


def test_a_revoked_pod_that_hangs_goes_in_the_end(
    executor: RedisKubernetesExecutor, outside: Outside, handed_over: tuple[str, str]
) -> None:
    ti_id, launch_id = handed_over
    outside.create(launch_id, pod_of(launch_id))
    executor.revoke_task(ti=load(ti_id))
    executor.heartbeat()
    assert len(outside.cleanups()) == 1, "while it waits"
    outside.publish(launch_id, "started", pod=pod_of(launch_id), uid="u")
    beat(executor, until=lambda: len(outside.cleanups()) == 2)


def test_a_pod_that_was_in_the_making_when_it_was_revoked_and_hangs_goes_in_the_end(
    executor: RedisKubernetesExecutor, outside: Outside, handed_over: tuple[str, str]
) -> None:
    ti_id, launch_id = handed_over
    outside.redis.hset(outside.names.launch(launch_id), "state", "claimed")
    executor.revoke_task(ti=load(ti_id))
    executor.heartbeat()
    assert outside.cleanups() == [], "the launcher that makes it takes it back while it waits"
    outside.publish(launch_id, "started", pod=pod_of(launch_id), uid="u")
    beat(executor, until=lambda: len(outside.cleanups()) == 1)


def test_a_scheduler_that_dies_after_revoking(
    start_executor: Callable[..., RedisKubernetesExecutor], outside: Outside
) -> None:
    """It had not withdrawn the launch in Redis yet; the newer launch by another scheduler withdraws it."""
    first, second = start_executor(1), start_executor(2)
    ti_id = make_task_instances(queued_by_job_id=1)[0]
    _, older = queue(first, ti_id)
    first.heartbeat()
    first.revoke_task(ti=load(ti_id))
    update(ti_id, state="queued", external_executor_id=str(uuid.uuid4()), queued_by_job_id=2)
    _, newer = queue(second, ti_id)
    second.heartbeat()
    assert outside.ledger(older)["state"] == "withdrawn"
    assert outside.redis.exists(redis_keys.RQ_JOB_PREFIX + identifiers.job_id(older, 0)) == 0, "no launcher can take it"
    assert outside.redis.hget(outside.names.current, ti_id) == newer
    first.heartbeat()  # it was only slow, and must not touch the newer launch
    assert outside.ledger(newer)["state"] == "offered"
    assert outside.redis.hget(outside.names.current, ti_id) == newer


def test_nothing_is_offered_before_the_older_launch_is_withdrawn(
    executor: RedisKubernetesExecutor, outside: Outside, redis_server: RedisServer
) -> None:
    ti_id = make_task_instances()[0]
    key, older = queue(executor, ti_id)
    executor.heartbeat()
    redis_server.pause()
    try:
        newer = requeue(executor, ti_id)
        executor.heartbeat()
        assert key in executor.queued_tasks
    finally:
        redis_server.resume()
    beat(executor, until=lambda: key in executor.running)
    assert outside.ledger(older)["state"] == "withdrawn"
    assert outside.ledger(newer)["state"] == "offered"


def test_a_task_that_resumed_keeps_its_pod_until_the_watcher_reports(
    executor: RedisKubernetesExecutor, outside: Outside
) -> None:
    """A task that resumes after a deferral keeps its first start date: only the host name shows that it began."""
    ti_id, key, launch_id = created(executor, outside)
    long_ago = datetime.now(timezone.utc) - timedelta(hours=1)
    update(ti_id, state="success", hostname=pod_of(launch_id), start_date=long_ago)
    for _ in range(4):
        executor.parts.reconciler.schedule_now()
        executor.heartbeat()
        time.sleep(0.05)
    assert outside.cleanups() == []
    assert key in executor.running
