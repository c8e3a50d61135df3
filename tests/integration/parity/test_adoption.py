"""What a scheduler does with the tasks and pods of dead ones (items 104 to 112, 137, 138), beside the stock executor."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from airflow.jobs.job import Job, JobState
from airflow.utils.session import create_session
from airflow.utils.state import TaskInstanceState

from tests.harness.parity_rig import Rig, Task
from tests.harness.task_instances import load, update, workload_of
from tests.integration.parity.conftest import Rigs
from tests.integration.parity.test_watch import pending

both = pytest.mark.parametrize("which", ["podrelay", "stock"])

FAILED = TaskInstanceState.FAILED


def kubernetes_calls(rig: Rig) -> int:
    """Requests about pods so far that no watch made."""
    return len([entry for entry in rig.cluster.audit() if entry["resource"] == "pods" and entry["verb"] != "watch"])


@both
@pytest.mark.parametrize("state", ["queued", "running"])
def test_a_dead_schedulers_pod_is_adopted(rigs: Rigs, which: str, state: str) -> None:
    rig = rigs(which)
    task = rig.submit()
    pod = rig.pod(task, phase="Running")
    update(task.ti_id, state=state)
    rig.successor()
    assert rig.adopt(task) == []
    assert task.key in rig.executor.running
    rig.until(lambda: True)
    update(task.ti_id, state="success")
    rig.end_pod(pod, exit_code=0)
    assert rig.event(task) == (TaskInstanceState.SUCCESS, None)
    rig.until(lambda: rig.look(pod) is None)


@both
def test_what_ended_meanwhile_is_reported(rigs: Rigs, which: str) -> None:
    rig = rigs(which)
    task, pod = rig.run()
    rig.abandon()
    rig.end_pod(pod, exit_code=1)
    rig.successor()
    assert rig.adopt(task) == []
    assert rig.event(task)[0] == FAILED


@both
def test_a_launch_without_a_pod(rigs: Rigs, which: str) -> None:
    """In the memory of a dead stock executor only: the task is reset. Ours is in Redis, or else in the database."""
    rig = rigs(which)
    ti_id = rig.make()[0]
    task = rig.queue(ti_id)
    rig.successor()
    refused = rig.adopt(task)
    if which == "stock":
        assert refused == [ti_id]
        return
    assert refused == []
    rig.pod(task)
    assert len(rig.creates(task)) == 1
    assert load(ti_id).try_number == 1


@both
def test_a_repeated_call_refuses_nothing(rigs: Rigs, which: str) -> None:
    rig = rigs(which)
    task, _ = rig.run()
    rig.successor()
    assert rig.adopt(task) == []
    assert rig.adopt(task) == []


@both
@pytest.mark.parametrize("left", [{}, {"external_executor_id": None}])
def test_a_task_that_nobody_queued_is_refused(rigs: Rigs, which: str, left: dict[str, Any]) -> None:
    """Whether or not its row still names a launch."""
    rig = rigs(which)
    task, _ = pending(rig)
    rig.successor()
    update(task.ti_id, queued_by_job_id=None, **left)
    assert rig.adopt(task) == [task.ti_id]


def test_adoption_asks_kubernetes_nothing(ours: Rig) -> None:
    tasks = [ours.run()[0] for _ in range(3)]
    ours.successor()
    before = kubernetes_calls(ours)
    assert ours.adopt(*tasks) == []
    assert kubernetes_calls(ours) == before


def test_adoption_of_a_task_of_the_stock_executor(rigs: Rigs) -> None:
    """After the change from one executor to the other: what runs goes on and the database says how it ends."""
    stock = rigs("stock")
    task, _ = stock.run()
    update(task.ti_id, external_executor_id=str(stock.job_id))
    stock.abandon()
    ours = rigs("podrelay")
    assert ours.adopt(task) == []
    ours.quiet(lambda: task.key in ours.executor.running and not ours.ended(task))
    update(task.ti_id, state="success")
    ours.until(lambda: task.key not in ours.executor.running)
    assert len(ours.creates(task)) == 1


def of_celery(rig: Rig, state: str) -> Task:
    """A task that a dead scheduler gave to Celery: the row names the id of Celery's task, and there is no pod."""
    ti_id = rig.make(queued_by_job_id=1, state=state, external_executor_id=str(uuid.uuid4()))[0]
    return rig.task_of(workload_of(ti_id, rig.executor.jwt_generator))


def test_adoption_of_a_task_that_runs_in_a_celery_worker(ours: Rig) -> None:
    """It goes on where it is: no pod, and the database says how it ends."""
    task = of_celery(ours, "running")
    assert ours.adopt(task) == []
    ours.quiet(lambda: task.key in ours.executor.running and not ours.ended(task))
    update(task.ti_id, state="success")
    ours.until(lambda: task.key not in ours.executor.running)
    assert ours.creates(task) == []


def test_adoption_of_a_task_that_waits_in_celerys_queue(ours: Rig) -> None:
    """It gets one pod, and keeps its try."""
    task = of_celery(ours, "queued")
    assert ours.adopt(task) == []
    ours.pod(task)
    ours.quiet(lambda: len(ours.creates(task)) == 1)
    assert load(task.ti_id).try_number == 1


def test_the_stock_executor_adopts_ours(rigs: Rigs) -> None:
    """The way back: our pods carry the labels that it selects by."""
    ours = rigs("podrelay")
    task, pod = ours.run()
    ours.abandon()
    stock = rigs("stock")
    assert stock.adopt(task) == []
    update(task.ti_id, state="success")
    stock.end_pod(pod, exit_code=0)
    assert stock.event(task) == (TaskInstanceState.SUCCESS, None)


# --- pods of schedulers that are dead, whose task is not adopted ---------------------------------------------------------
def scheduler_row(job_id: int, *, alive: bool) -> None:
    last_beat = datetime.now(timezone.utc) - timedelta(seconds=0 if alive else 600)
    with create_session() as session:
        session.add(Job(id=job_id, job_type="SchedulerJob", state=JobState.RUNNING, latest_heartbeat=last_beat))


@both
@pytest.mark.parametrize("alive", [False, True])
def test_completed_pods_are_cleaned_up_unless_their_scheduler_lives(
    rigs: Rigs, which: str, alive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("podrelay.scheduling.orphans.ABANDONED_AFTER_S", 0.3)
    rig = rigs(which)
    scheduler_row(rig.job_id, alive=alive)
    task, pod = rig.run()
    rig.abandon()
    update(task.ti_id, state="success")
    rig.end_pod(pod, exit_code=0)
    rig.successor()
    if alive:
        rig.quiet(lambda: rig.look(pod) is not None, 2.0)
    else:
        rig.until(lambda: rig.look(pod) is None)
    assert rig.executor.event_buffer == {}


@both
def test_a_living_scheduler_keeps_its_tasks(rigs: Rigs, which: str) -> None:
    """Two schedulers side by side: each reports its own."""
    first, second = rigs(which), rigs(which)
    tasks: list[Any] = [rig.run() for rig in (first, second)]
    for task, pod in tasks:
        update(task.ti_id, state="success")
        first.end_pod(pod, exit_code=0)
    for rig, (task, _) in zip((first, second), tasks, strict=True):
        assert rig.event(task)[0] == TaskInstanceState.SUCCESS
        assert list(rig.executor.event_buffer) == [task.key]
