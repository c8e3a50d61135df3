"""Pods that die before their task starts (items 101 to 103, D-4, D-5, D-7, D-12), beside the stock executor."""

from __future__ import annotations

import json
from typing import Any

import pytest
from airflow.utils.state import TaskInstanceState

from tests.harness.task_instances import load, update
from tests.integration.parity.conftest import Rigs
from tests.integration.parity.test_watch import pending, waiting

both = pytest.mark.parametrize("which", ["podrelay", "stock"])

FAILED = TaskInstanceState.FAILED
LOST = {"phase": "Failed", "pod_reason": "NodeLost", "pod_message": "the node went away"}


def token_of(pod: dict[str, Any]) -> str:
    return str(json.loads(pod["spec"]["containers"][0]["args"][-1])["token"])


@both
def test_a_pod_that_never_started_is_replaced_once(rigs: Rigs, which: str) -> None:
    rig = rigs(which)
    task, first = pending(rig)
    rig.end_pod(first, **LOST)
    second = rig.pod(task, 1)
    assert second["metadata"]["name"] != first["metadata"]["name"]
    assert (token_of(first) != token_of(second)) == (which == "podrelay"), "ours gets a token that begins its life now"
    assert task.key in rig.executor.running
    assert not rig.ended(task)
    rig.end_pod(second, **LOST)
    state, _ = rig.event(task)
    assert state == FAILED
    assert load(task.ti_id).try_number == 1, "no try of the task was used"


@both
@pytest.mark.parametrize(("retries", "pods"), [(0, 1), (2, 3)])
def test_as_often_as_the_option_says(rigs: Rigs, which: str, retries: int, pods: int) -> None:
    rig = rigs(which, pod_launch_failure_retries=retries)
    task, _ = pending(rig)
    for number in range(pods):
        rig.end_pod(rig.pod(task, number), **LOST)
    assert rig.event(task)[0] == FAILED
    assert len(rig.creates(task)) == pods


@both
def test_a_container_that_ran_and_failed_is_not_replaced(rigs: Rigs, which: str) -> None:
    """Its reason, Error, is among pod_launch_failure_excluded_container_reasons."""
    rig = rigs(which)
    task = rig.submit()
    rig.end_pod(rig.pod(task, phase="Running"), exit_code=1, reason="Error")
    assert rig.event(task)[0] == FAILED
    assert len(rig.creates(task)) == 1


@both
def test_excluded_reasons_are_the_users(rigs: Rigs, which: str) -> None:
    rig = rigs(which, pod_launch_failure_excluded_container_reasons="StartError , OOMKilled")
    first, second = rig.submit(), rig.submit()
    rig.end_pod(rig.pod(first, phase="Running"), exit_code=128, reason="StartError")
    rig.end_pod(rig.pod(second, phase="Running"), exit_code=1, reason="Error")
    assert rig.event(first)[0] == FAILED
    rig.pod(second, 1)


@both
def test_a_waiting_pod_that_is_deleted_is_replaced(rigs: Rigs, which: str) -> None:
    """The stock executor learns of it when the task has been queued for too long (D-4)."""
    rig = rigs(which)
    task, pod = pending(rig)
    rig.delete_pod(pod)
    if which == "podrelay":
        rig.until(lambda: len(rig.creates(task)) == 2)
        assert task.key in rig.executor.running
    else:
        rig.until(lambda: rig.look(pod) is None)
        rig.quiet(lambda: len(rig.creates(task)) == 1 and task.key in rig.executor.running, 2.0)


@both
def test_the_replaced_pod_never_starts_beside_its_replacement(rigs: Rigs, which: str) -> None:
    """D-5: one whose image cannot be pulled may start yet, when the registry is back."""
    rig = rigs(which)
    task, first = pending(rig)
    rig.patch(first, waiting("ErrImagePull", "the registry is away"), "/status")
    rig.until(lambda: len(rig.creates(task)) == 2)
    if which == "podrelay":
        rig.until(lambda: rig.look(first) is None)
    else:
        rig.quiet(lambda: rig.look(first) is not None)


@both
def test_a_replaced_pod_does_not_fail_the_task_that_runs(rigs: Rigs, which: str) -> None:
    """D-12: the stock watcher comes back to the kept pod of before, and the healthy task fails."""
    rig = rigs(which, kube_client_request_args='{"_request_timeout": 2}')
    task = rig.submit()
    first = rig.pod(task, phase="Running")
    rig.end_pod(first, exit_code=1, reason="StartError")
    rig.pod(task, 1, phase="Running")
    update(task.ti_id, state="running")
    if which == "podrelay":
        rig.cluster.compact()
        rig.cluster.drop_streams()
        rig.quiet(lambda: task.key in rig.executor.running and not rig.ended(task), 3.0)
    else:
        assert rig.event(task)[0] == FAILED


@both
def test_keeping_pods_does_not_lose_the_relaunched_task(rigs: Rigs, which: str) -> None:
    """D-7: labelled as done, the first pod leaves the stock watcher's selection, and with it the key leaves `running`."""
    rig = rigs(which, delete_worker_pods=False)
    task = rig.submit()
    first = rig.pod(task, phase="Running")
    rig.end_pod(first, exit_code=1, reason="StartError")
    rig.pod(task, 1)
    rig.until(lambda: "airflow_executor_done" in rig.labels(first))
    if which == "podrelay":
        rig.quiet(lambda: task.key in rig.executor.running)
    else:
        rig.until(lambda: task.key not in rig.executor.running)


def test_the_count_outlives_the_scheduler(rigs: Rigs) -> None:
    """It is in the ledger: the stock executor's adopted pods are never replaced (item 108)."""
    rig = rigs("podrelay")
    task, first = pending(rig)
    rig.end_pod(first, **LOST)
    second = rig.pod(task, 1)
    rig.successor()
    assert rig.adopt(task) == []
    rig.end_pod(second, **LOST)
    assert rig.event(task)[0] == FAILED
    assert len(rig.creates(task)) == 2


def test_an_adopted_launch_is_replaced_too(rigs: Rigs) -> None:
    rig = rigs("podrelay")
    task, first = pending(rig)
    rig.successor()
    assert rig.adopt(task) == []
    rig.end_pod(first, **LOST)
    rig.pod(task, 1)
    assert task.key in rig.executor.running


@both
def test_a_resumed_task_is_not_touched_by_its_earlier_pod(rigs: Rigs, which: str) -> None:
    """D-11: deferral keeps the key; the first pod's end takes the second launch out of the stock executor's `running`."""
    rig = rigs(which)
    task, first = rig.run()
    update(task.ti_id, state="queued", external_executor_id=None if which == "stock" else "0" * 8 + task.launch_id[8:])
    again = rig.queue(task.ti_id)
    assert again.key == task.key
    rig.executor.heartbeat()
    rig.pod(task, 1, phase="Running")
    update(task.ti_id, state="running")
    rig.end_pod(first, exit_code=0)
    if which == "podrelay":
        rig.quiet(lambda: task.key in rig.executor.running and not rig.ended(task))
        rig.until(lambda: rig.look(first) is None)
    else:
        rig.until(lambda: task.key not in rig.executor.running)
