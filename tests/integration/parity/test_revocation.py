"""Taking tasks back: revoke_task, stuck tasks, launches that the database no longer wants (30 to 32, 113 to 116)."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from airflow.utils.state import TaskInstanceState

from tests.harness.parity_rig import Rig
from tests.harness.task_instances import load, update
from tests.integration.parity.conftest import Rigs
from tests.integration.parity.test_watch import pending

both = pytest.mark.parametrize("which", ["podrelay", "stock"])

FAILED = TaskInstanceState.FAILED


@both
def test_a_revoked_task_leaves_nothing(rigs: Rigs, which: str) -> None:
    rig = rigs(which)
    task, pod = pending(rig)
    rig.executor.get_event_buffer()
    rig.executor.revoke_task(ti=load(task.ti_id))
    assert task.key not in rig.executor.running
    rig.until(lambda: rig.look(pod) is None)
    rig.quiet(lambda: rig.executor.event_buffer == {})
    assert load(task.ti_id).state == "queued", "what the scheduler does with the task is its own affair"


@both
def test_the_pod_of_the_current_try_goes(rigs: Rigs, which: str) -> None:
    """D-10: the stock executor takes the pod that is listed last, whatever its try."""
    rig = rigs(which)
    task, kept = rig.run()
    rig.end_pod(kept, exit_code=1)  # kept, as failed pods are by default
    rig.event(task)
    update(task.ti_id, state="queued", try_number=2, external_executor_id=str(uuid.uuid4()))
    again = rig.queue(task.ti_id)
    rig.executor.heartbeat()
    live = rig.pod(task, 1)
    rig.executor.revoke_task(ti=load(task.ti_id))
    rig.until(lambda: rig.look(live) is None or rig.look(kept) is None)
    if which == "podrelay":
        assert rig.look(kept) is not None
        assert rig.look(live) is None
    assert again.key not in rig.executor.running


@both
def test_a_task_that_was_never_handed_over_can_be_revoked(rigs: Rigs, which: str) -> None:
    rig = rigs(which)
    task = rig.queue(rig.make()[0])
    rig.executor.revoke_task(ti=load(task.ti_id))
    assert not rig.executor.has_task(load(task.ti_id))
    rig.quiet(lambda: rig.creates(task) == [])


@both
def test_stuck_tasks_are_revoked_and_failed(rigs: Rigs, which: str) -> None:
    rig = rigs(which)
    task, pod = pending(rig)
    rig.executor.get_event_buffer()
    ti = load(task.ti_id)
    with pytest.warns(DeprecationWarning):
        assert rig.executor.cleanup_stuck_queued_tasks([ti]) == [repr(ti)]  # type: ignore[attr-defined]
    assert rig.executor.event_buffer[task.key][0] == FAILED
    rig.until(lambda: rig.look(pod) is None)


def test_a_waiting_launch_that_was_revoked_gets_no_pod(ours: Rig) -> None:
    task = ours.queue(ours.make()[0])
    blocked = ours.cluster.add_fault(verbs=["create"], resource="pods", name_prefix=task.prefix, status=503)
    ours.until(lambda: ours.creates(task))
    ours.executor.revoke_task(ti=load(task.ti_id))
    ours.cluster.remove_fault(blocked)
    ours.quiet(lambda: ours.pods(task) == [], 2.0)


def test_queued_again_after_being_stuck(ours: Rig) -> None:
    """Same row, same try, another launch id (item 160): the old launch is gone, the new one gets the pod."""
    task, first = pending(ours)
    ours.executor.revoke_task(ti=load(task.ti_id))
    update(task.ti_id, state="queued", external_executor_id=str(uuid.uuid4()))
    again = ours.queue(task.ti_id)
    ours.executor.heartbeat()
    ours.until(lambda: ours.look(first) is None and len(ours.pods(task)) == 1)
    assert again.key in ours.executor.running
    ours.quiet(lambda: not ours.ended(task))


# --- what the database no longer wants ----------------------------------------------------------------------------------
STALE: dict[str, dict[str, Any]] = {
    "cleared": {"state": None, "external_executor_id": None},
    "marked as success": {"state": "success"},
    "another try": {"try_number": 2},
    "no scheduler's": {"queued_by_job_id": None},
}


@both
@pytest.mark.parametrize("change", STALE)
def test_a_launch_that_went_stale_gets_no_pod(rigs: Rigs, which: str, change: str) -> None:
    rig = rigs(which, task_publish_max_retries=-1)
    task = rig.queue(rig.make()[0])
    blocked = rig.cluster.add_fault(verbs=["create"], resource="pods", name_prefix=task.prefix, status=503)
    rig.until(lambda: rig.creates(task))
    update(task.ti_id, **STALE[change])
    rig.until(lambda: task.key not in rig.executor.running)
    rig.cluster.remove_fault(blocked)
    rig.quiet(lambda: rig.pods(task) == [] and not rig.ended(task))


@both
def test_a_launch_whose_row_another_scheduler_took_is_let_go(rigs: Rigs, which: str) -> None:
    """Podrelay leaves the launch in Redis, where the other scheduler finds it; the stock executor drops it."""
    rig = rigs(which, task_publish_max_retries=-1)
    task = rig.queue(rig.make()[0])
    rig.cluster.add_fault(verbs=["create"], resource="pods", name_prefix=task.prefix, status=503)
    rig.until(lambda: rig.creates(task))
    update(task.ti_id, queued_by_job_id=1)
    rig.until(lambda: task.key not in rig.executor.running)
    rig.quiet(lambda: not rig.ended(task))


def test_a_task_cleared_while_its_pod_waits_loses_the_pod(ours: Rig) -> None:
    task, pod = pending(ours)
    update(task.ti_id, state=None, external_executor_id=None)
    ours.until(lambda: ours.look(pod) is None and task.key not in ours.executor.running)
    assert not ours.ended(task)
