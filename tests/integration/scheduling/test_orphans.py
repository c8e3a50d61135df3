"""Pods that no task needs and no live scheduler is responsible for are deleted, at whatever step a process died."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta, timezone

import pytest
from airflow.jobs.job import Job, JobState
from airflow.utils.session import create_session

from podrelay.executor import RedisKubernetesExecutor
from podrelay.scheduling import heartbeat_budget
from podrelay.scheduling.decisions import TaskRow
from podrelay.scheduling.orphans import is_wanted
from podrelay.store.launch_queue import Acknowledgement
from tests.harness.task_instances import OWNER, load, make_task_instances, update
from tests.integration.scheduling.conftest import Outside, beat
from tests.integration.scheduling.test_executor import hand_over

Start = Callable[..., RedisKubernetesExecutor]


@pytest.fixture(autouse=True)
def _time_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("podrelay.scheduling.orphans.ABANDONED_AFTER_S", 0.2)
    monkeypatch.setattr("podrelay.scheduling.orphans.ORPHANED_AFTER_S", 0.2)


def test_a_pod_that_was_made_after_its_launch_was_withdrawn_goes(
    executor: RedisKubernetesExecutor, outside: Outside
) -> None:
    """Its launcher died, or lost its lease, after creating the pod and before recording it; it fits on no node."""
    ti_id = make_task_instances()[0]
    _, launch_id = hand_over(executor, ti_id)
    outside.redis.hset(outside.names.launch(launch_id), "state", "claimed")
    executor.revoke_task(ti=load(ti_id))
    executor.heartbeat()
    assert outside.ledger(launch_id)["state"] == "withdrawn"
    assert outside.publish(launch_id, "pending", pod="pod-1", uid="u", reason="Unschedulable", phase="Pending") == 0
    beat(executor, until=outside.cleanups)
    assert outside.cleanups() == ["revoke pod default/pod-1"]
    assert outside.redis.zcard(outside.names.unacknowledged) == 0


def test_a_waiting_pod_of_a_launch_that_was_outrun_goes(executor: RedisKubernetesExecutor, outside: Outside) -> None:
    """Queued twice under one key, because the scheduler's commit failed after it had queued the first one."""
    ti_id = make_task_instances()[0]
    _, first = hand_over(executor, ti_id)
    outside.create(first)
    update(ti_id, external_executor_id=str(uuid.uuid4()))
    _, second = hand_over(executor, ti_id)
    assert outside.ledger(first)["state"] == "withdrawn"
    beat(executor, until=outside.cleanups)
    assert outside.cleanups() == ["revoke pod default/pod-1"]
    assert [launch.launch_id for launch in executor.launches] == [second]


def test_a_late_acknowledgement_leaves_the_next_attempt_wanted(
    executor: RedisKubernetesExecutor, outside: Outside
) -> None:
    """The end was found before another scheduler adopted the launch, and is acknowledged after that one replaced the pod."""
    ti_id = make_task_instances()[0]
    _, launch_id = hand_over(executor, ti_id)
    outside.publish(launch_id, "failed", pod="pod-1", phase="Pending")
    beat(executor, until=lambda: outside.ledger(launch_id)["attempt"] == "1")
    executor.parts.results._queue.acknowledge([Acknowledgement(launch_id, 0, ti_id)])
    assert outside.redis.hget(outside.names.current, ti_id) == launch_id
    assert outside.ledger(launch_id)["state"] == "offered"


def test_a_withdrawn_pod_that_has_started_is_left_to_end(executor: RedisKubernetesExecutor, outside: Outside) -> None:
    ti_id = make_task_instances()[0]
    _, launch_id = hand_over(executor, ti_id)
    outside.redis.hset(outside.names.launch(launch_id), "state", "claimed")
    executor.revoke_task(ti=load(ti_id))
    executor.heartbeat()
    outside.publish(launch_id, "pending", pod="pod-1", uid="u", reason="Unschedulable", phase="Pending")
    outside.publish(launch_id, "started", pod="pod-1", uid="u", phase="Running")
    assert outside.redis.zcard(outside.names.unacknowledged) == 0


def test_a_waiting_pod_of_a_dead_scheduler_goes_unless_its_task_needs_it(
    start_executor: Start, outside: Outside
) -> None:
    first = start_executor()
    launches = {}
    for name in ("cleared", "needed", "runs"):
        ti_id = make_task_instances()[0]
        _, launches[name] = hand_over(first, ti_id)
        outside.create(launches[name], f"pod-{name}")
        outside.redis.zadd(outside.names.live("default"), {launches[name]: 1.0})
        if name == "cleared":
            update(ti_id, state=None, external_executor_id=None)
        elif name == "runs":
            outside.publish(launches[name], "started", pod=f"pod-{name}")
            update(ti_id, state=None, external_executor_id=None)
    second = start_executor(OWNER + 1)
    beat(second, until=outside.cleanups)
    for _ in range(3):
        second.parts.reconciler.schedule_now()
        second.heartbeat()
    assert outside.cleanups() == ["revoke pod default/pod-cleared"]
    assert outside.ledger(launches["needed"])["state"] == "created"
    assert outside.ledger(launches["runs"])["state"] == "started"


def test_a_pod_that_may_wait_for_its_secret_goes_with_its_scheduler(start_executor: Start, outside: Outside) -> None:
    """A watcher has restored its entry after Redis lost its data, and no scheduler offers its launch again."""
    ti_id = make_task_instances()[0]
    _, launch_id = hand_over(start_executor(), ti_id)
    outside.create(launch_id)
    outside.redis.hset(outside.names.launch(launch_id), "state", "claimed")
    outside.redis.zadd(outside.names.live("default"), {launch_id: 1.0})
    update(ti_id, state=None, external_executor_id=None)
    beat(start_executor(OWNER + 1), until=outside.cleanups)
    assert outside.cleanups() == ["revoke pod default/pod-1"]


def test_a_living_schedulers_pods_are_its_own(start_executor: Start, outside: Outside) -> None:
    with create_session() as session:
        job = Job(state=JobState.RUNNING, latest_heartbeat=datetime.now(timezone.utc) + timedelta(hours=1))
        job.job_type = "SchedulerJob"
        session.add(job)
        session.flush()
        alive = int(job.id)
    first = start_executor(alive)
    ti_id = make_task_instances(queued_by_job_id=alive)[0]
    _, launch_id = hand_over(first, ti_id)
    outside.create(launch_id)
    outside.redis.zadd(outside.names.live("default"), {launch_id: 1.0})
    update(ti_id, state=None, external_executor_id=None)
    second = start_executor(OWNER + 1)
    try:
        for _ in range(3):
            second.parts.reconciler.schedule_now()
            second.heartbeat()
        assert outside.cleanups() == []
    finally:
        with create_session() as session:
            session.delete(session.get(Job, alive))
    beat(second, until=outside.cleanups)


def test_hundreds_of_ends_that_nobody_awaits_are_not_left_for_later_sweeps(
    executor: RedisKubernetesExecutor, outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a loss of all data, when the watcher publishes again what was acknowledged before."""
    for number in range(350):
        entry = {"state": "created", "attempt": 0, "owner": OWNER + 7, "cluster": "default", "subject": "s"}
        launch_id = str(uuid.uuid4())
        outside.redis.hset(outside.names.launch(launch_id), mapping=entry)
        outside.publish(launch_id, pod=f"pod-{number}")
    time.sleep(0.3)
    monkeypatch.setattr("podrelay.scheduling.orphans.ABANDONED_AFTER_S", 1000.0)
    outside.redis.zadd(outside.names.unacknowledged, {one: 1.0 for one in _unacknowledged(outside)})
    executor.parts.reconciler.schedule_now()
    for _ in range(5):
        executor.heartbeat()
    assert _unacknowledged(outside) == []
    assert len(outside.cleanups()) == 350


def _unacknowledged(outside: Outside) -> list[str]:
    return outside.redis.zrange(outside.names.unacknowledged, 0, -1)  # type: ignore[return-value]


def test_a_pod_that_ended_before_it_was_revoked_is_dealt_with_by_its_result(
    executor: RedisKubernetesExecutor, outside: Outside
) -> None:
    """A failed pod is kept and labelled, as the options say, and not deleted like a pending one."""
    ti_id = make_task_instances()[0]
    _, launch_id = hand_over(executor, ti_id)
    outside.create(launch_id)
    executor.revoke_task(ti=load(ti_id))
    outside.publish(launch_id, "failed", pod="pod-1", uid="u", phase="Failed", reason="Evicted")
    beat(executor, until=outside.cleanups)
    assert outside.cleanups() == ["done pod default/pod-1"]


def test_an_entry_that_names_no_task_stops_nothing(executor: RedisKubernetesExecutor, outside: Outside) -> None:
    launch_id = str(uuid.uuid4())
    outside.redis.hset(
        outside.names.launch(launch_id),
        mapping={"state": "withdrawn", "attempt": "0", "pod": "p", "namespace": "default", "subject": "no id"},
    )
    outside.redis.zadd(outside.names.unacknowledged, {launch_id: 1.0})
    beat(executor, until=lambda: outside.redis.zcard(outside.names.unacknowledged) == 0)
    hand_over(executor, make_task_instances()[0])
    assert len(outside.queued()) == 1


def test_what_nobody_can_acknowledge_hides_nothing(
    start_executor: Start, outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ends in a cluster that no longer has a scheduler, or encrypted with a key that is gone."""
    monkeypatch.setattr(heartbeat_budget, "COMPARISON_BATCH", 2)
    for cluster in ("gone", "gone", "gone", "default"):
        launch_id = str(uuid.uuid4())
        entry = {"state": "finished", "attempt": "0", "cluster": cluster, "result": "of another key"}
        outside.redis.hset(outside.names.launch(launch_id), mapping=entry)
        outside.redis.zadd(outside.names.unacknowledged, {launch_id: 1.0})
    dead = start_executor()
    _, launch_id = hand_over(dead, make_task_instances()[0])
    outside.publish(launch_id, "failed", pod="pod-1", reason="Evicted")
    beat(start_executor(OWNER + 1), until=outside.cleanups)
    assert outside.cleanups() == ["done pod default/pod-1"]


def test_what_the_ledger_has_forgotten_is_not_looked_for_again(
    executor: RedisKubernetesExecutor, outside: Outside
) -> None:
    outside.redis.zadd(outside.names.unacknowledged, {str(uuid.uuid4()): 1.0})
    beat(executor, until=lambda: outside.redis.zcard(outside.names.unacknowledged) == 0)


@pytest.mark.parametrize(
    ("row", "needed"),
    [
        (None, False),
        (TaskRow("queued", 1, "a"), True),
        (TaskRow("queued", 1, None), True),
        (TaskRow("queued", 1, "b"), False),
        (TaskRow("success", 1, "a"), False),
        (TaskRow(None, 1, None), False),
        (TaskRow("running", 1, "b", host=("a", 0)), True),
        (TaskRow("running", 1, "b", host=("b", 0)), False),
    ],
)
def test_which_launches_are_needed(row: TaskRow | None, needed: bool) -> None:
    assert is_wanted("a", row) is needed
