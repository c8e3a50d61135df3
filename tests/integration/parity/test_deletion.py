"""Which pods are deleted, which are kept and labelled (items 88, 96 to 100), beside the stock executor."""

from __future__ import annotations

from typing import Any

import pytest

from tests.harness.parity_rig import Rig, Task
from tests.harness.task_instances import update
from tests.integration.parity.conftest import Rigs

both = pytest.mark.parametrize("which", ["podrelay", "stock"])

Json = dict[str, Any]


def ended(rig: Rig, *, well: bool) -> tuple[Task, Json]:
    """A task whose pod has ended and whose event is there."""
    task, pod = rig.run()
    if well:
        update(task.ti_id, state="success")
    rig.end_pod(pod, exit_code=0 if well else 1)
    rig.event(task)
    return task, pod


# delete_worker_pods, delete_worker_pods_on_failure, ended well -> what is left of the pod.
FLAGS = [
    (True, False, True, "gone"),
    (True, False, False, "kept"),
    (True, True, True, "gone"),
    (True, True, False, "gone"),
    (False, False, True, "done"),
    (False, True, False, "done"),
]


@both
@pytest.mark.parametrize(("delete", "on_failure", "well", "left"), FLAGS)
def test_the_flags(rigs: Rigs, which: str, delete: bool, on_failure: bool, well: bool, left: str) -> None:
    rig = rigs(which, delete_worker_pods=delete, delete_worker_pods_on_failure=on_failure)
    _, pod = ended(rig, well=well)
    if left == "gone":
        rig.until(lambda: rig.look(pod) is None)
        return
    # A failed pod that is kept is labelled too: unlabelled, the stock watcher reports it again and again (D-12).
    labelled = left == "done" or which == "podrelay"
    rig.until(lambda: ("airflow_executor_done" in rig.labels(pod)) == labelled)
    rig.quiet(lambda: rig.look(pod) is not None, 0.5)


@both
def test_deletions_per_pod(rigs: Rigs, which: str) -> None:
    """One of ours. The stock executor may see its own deletion and delete again, without effect (item 88)."""
    rig = rigs(which)
    _, pod = ended(rig, well=True)
    rig.until(lambda: rig.look(pod) is None)
    rig.quiet(lambda: True)
    statuses = [entry["status"] for entry in rig.requests("delete", pod)]
    again = statuses[1:]  # at its mark and at its end
    assert statuses[0] == 200
    assert not again or (which == "stock" and set(again) == {404} and len(again) <= 2)


@both
def test_delete_option_kwargs(rigs: Rigs, which: str) -> None:
    rig = rigs(which, delete_option_kwargs='{"grace_period_seconds": 0, "dry_run": ["All"]}')
    _, pod = ended(rig, well=True)
    rig.until(lambda: rig.requests("delete", pod))
    rig.quiet(lambda: rig.look(pod) is not None, 0.5)  # the dry run that was asked for


def test_a_refused_deletion_disturbs_nothing(rigs: Rigs) -> None:
    rig = rigs("podrelay")
    task, pod = rig.run()
    rig.cluster.add_fault(
        verbs=["delete"], resource="pods", name_prefix=task.prefix, status=403, message="may not delete pods"
    )
    update(task.ti_id, state="success")
    rig.end_pod(pod, exit_code=0)
    assert rig.event(task)[0] == "success"
    rig.until(lambda: rig.requests("delete", pod))
    _, other = ended(rig, well=True)
    rig.until(lambda: rig.look(other) is None)
    assert 1 <= len(rig.requests("delete", pod)) <= 5, "tried again, ever more rarely"


def test_a_refused_deletion_holds_the_stock_scheduler(rigs: Rigs) -> None:
    """D-3, the control: one sync() deletes again and again until it is allowed."""
    rig = rigs("stock")
    task, pod = rig.run()
    rig.cluster.add_fault(verbs=["delete"], resource="pods", name_prefix=task.prefix, status=403, count=20)
    update(task.ti_id, state="success")
    rig.end_pod(pod, exit_code=0)
    rig.event(task)
    assert len([entry for entry in rig.requests("delete", pod) if entry["status"] == 403]) == 20


def test_a_pod_is_deleted_only_after_its_result_was_taken(rigs: Rigs) -> None:
    rig = rigs("podrelay")
    task, pod = rig.run()
    update(task.ti_id, state="success")
    rig.end_pod(pod, exit_code=0)
    result = f"podrelay:{rig.deployment}:launch:{task.launch_id}"
    redis = rig.executor._breaker._client  # type: ignore[attr-defined]
    rig.wait(lambda: redis.hget(result, "state") == b"finished")  # no heartbeat meanwhile
    assert rig.requests("delete", pod) == []
    rig.until(lambda: rig.look(pod) is None)
