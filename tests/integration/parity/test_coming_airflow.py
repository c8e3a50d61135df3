"""Airflow 3.4's coming interface (items 19 to 23, 170): the scenarios of the other groups, where a task's key is an id."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from airflow.models.taskinstance import TaskInstance
from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator
from airflow.utils.state import TaskInstanceState
from sqlalchemy import literal

from podrelay.executor import RedisKubernetesExecutor
from podrelay.scheduling.airflow_db import _by_id, rows_by_key, rows_by_subject
from tests.harness.coming_airflow import ComingBaseExecutor, ComingRig, WorkloadType, executor_class
from tests.harness.parity_rig import Rig
from tests.harness.task_instances import load, make_task_instances, update
from tests.integration.parity import (
    conftest,
    test_adoption,
    test_executor_config,
    test_interface,
    test_relaunch,
    test_revocation,
    test_same_key,
    test_watch,
)
from tests.integration.parity.conftest import Rigs


@pytest.fixture(autouse=True)
def on_3_4(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(conftest.RIGS, "podrelay", ComingRig)


BESIDE_STOCK: dict[str, tuple[Callable[..., None], tuple[Any, ...]]] = {
    "hand-over": (test_interface.test_slots_are_taken_from_hand_over_to_the_end, ()),
    "priority": (test_interface.test_parallelism_limits_and_priority_goes_first, ()),
    "failed pod": (test_watch.test_a_failed_pod_fails_a_running_task, ("out of memory",)),
    "deleted pod": (test_watch.test_a_deleted_pod_fails_a_running_task, ()),
    "state of the row": (test_watch.test_a_pod_that_ended_well_reports_the_state_of_its_task, ("up_for_retry",)),
    "relaunch": (test_relaunch.test_a_pod_that_never_started_is_replaced_once, ()),
    "deferral": (test_relaunch.test_a_resumed_task_is_not_touched_by_its_earlier_pod, ()),
    "cleared": (test_same_key.test_cleared_while_it_runs, ()),
    "adoption": (test_adoption.test_a_dead_schedulers_pod_is_adopted, ("running",)),
    "adoption, ended meanwhile": (test_adoption.test_what_ended_meanwhile_is_reported, ()),
    "adoption, no pod yet": (test_adoption.test_a_launch_without_a_pod, ()),
    "adoption, repeated": (test_adoption.test_a_repeated_call_refuses_nothing, ()),
    "revocation": (test_revocation.test_a_revoked_task_leaves_nothing, ()),
    "revocation, try": (test_revocation.test_the_pod_of_the_current_try_goes, ()),
    "revocation, queued": (test_revocation.test_a_task_that_was_never_handed_over_can_be_revoked, ()),
    "revocation, stuck": (test_revocation.test_stuck_tasks_are_revoked_and_failed, ()),
}


@pytest.mark.parametrize("name", BESIDE_STOCK)
def test_the_same_scenario_with_ids_as_keys(rigs: Rigs, name: str) -> None:
    scenario, more = BESIDE_STOCK[name]
    scenario(rigs, "podrelay", *more)


OURS: dict[str, Callable[[Rig], None]] = {
    "stuck and queued again": test_revocation.test_queued_again_after_being_stuck,
    "withdrawn": test_revocation.test_a_waiting_launch_that_was_revoked_gets_no_pod,
    "cleared while waiting": test_revocation.test_a_task_cleared_while_its_pod_waits_loses_the_pod,
    "outlives its task": test_same_key.test_a_pod_that_outlives_its_task_is_cleaned_up_at_once,
    "announced": test_interface.test_a_launch_is_announced_only_where_airflow_gave_it_no_id,
}


@pytest.mark.parametrize("name", OURS)
def test_our_own_scenario_with_ids_as_keys(ours: Rig, name: str) -> None:
    OURS[name](ours)


def test_the_log_of_a_running_pod_with_ids_as_keys(ours: Rig) -> None:
    """From an executor that was never started, as the API server makes one."""
    task, _ = ours.run()
    messages, texts = executor_class()().get_task_log(load(task.ti_id), 1)
    assert len(texts) == 1
    assert [text for text in messages if "failed" in text] == []
    messages, _ = executor_class()().get_task_log(load(ours.make()[0]), 1)
    assert "no pod of this task" in messages[-1]


def test_a_malformed_config_is_the_tasks_own_failure(rigs: Rigs) -> None:
    rig = rigs("podrelay")
    task = test_executor_config.queue(rig, rig.make()[0], {"pod_override": "no pod"})
    rig.executor.heartbeat()
    assert rig.executor.event_buffer == {task.key: (TaskInstanceState.FAILED, "Invalid executor_config passed")}
    assert rig.executor.running == set()


OVERRIDE = {
    "metadata": {
        "labels": {"ti_id": "another", "purpose": "mine"},
        "annotations": {"task_instance_id": "another"},
    }
}


@pytest.mark.parametrize("overridden", [False, True])
def test_a_pod_says_whose_it_is_and_nothing_overrides_that(rigs: Rigs, overridden: bool) -> None:
    rig = rigs("podrelay")
    task = rig.submit(
        executor_config={"pod_override": PodGenerator.deserialize_model_dict(OVERRIDE)} if overridden else {}
    )
    metadata = rig.pod(task)["metadata"]
    assert metadata["labels"]["ti_id"] == task.ti_id
    assert metadata["annotations"]["task_instance_id"] == task.ti_id
    assert metadata["labels"].get("purpose") == ("mine" if overridden else None)


def test_events_are_recorded_as_the_base_class_wants(ours: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A base class that makes an event of more than two parts has a method for it."""

    def record_event(self: Any, key: Any, state: Any, info: Any = None) -> None:
        self.event_buffer[key] = (state, info, "its run")

    monkeypatch.setattr(ComingBaseExecutor, "record_event", record_event, raising=False)
    task, pod = ours.run()
    update(task.ti_id, state="success")
    ours.end_pod(pod, exit_code=0)
    event: tuple[Any, ...] = ours.event(task)
    assert event == (TaskInstanceState.SUCCESS, None, "its run")


def test_what_is_declared(airflow_db: None) -> None:
    kind = executor_class()
    assert kind.supported_workload_types == frozenset(WorkloadType)
    assert kind.supports_task_instance_uuid
    # On the release that is installed nothing of it shows.
    assert RedisKubernetesExecutor.supported_workload_types == frozenset()
    assert not RedisKubernetesExecutor.supports_task_instance_uuid


def test_rows_of_earlier_tries_are_not_asked(airflow_db: None) -> None:
    """3.4 keeps them in the same table, outside of the working set."""
    current, earlier = (load(make_task_instances()[0]) for _ in range(2))
    update(str(earlier.id), queue="archived")
    column = TaskInstance.queue != literal("archived")
    type.__setattr__(TaskInstance, "working_set", column)
    _by_id.cache_clear()  # a release has the column or not from the start
    try:
        assert len(rows_by_key([current.key, earlier.key])) == 1
        assert list(rows_by_subject([str(current.id), str(earlier.id)])) == [str(current.id)]
    finally:
        type.__delattr__(TaskInstance, "working_set")
        _by_id.cache_clear()
    assert len(rows_by_key([current.key, earlier.key])) == 2
