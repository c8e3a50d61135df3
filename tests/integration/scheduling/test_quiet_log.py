"""The scheduler's log has no line per task: thousands of tasks would bury everything else."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from podrelay.executor import RedisKubernetesExecutor
from podrelay.scheduling.tally import Tally
from tests.harness.task_instances import make_task_instances, update, workload_of
from tests.integration.scheduling.conftest import Outside, beat

TASKS = 6


def test_whatever_becomes_of_the_tasks(
    executor: RedisKubernetesExecutor, outside: Outside, caplog: pytest.LogCaptureFixture
) -> None:
    """Half of them wait, get another pod and fail; the others succeed."""
    caplog.set_level(logging.DEBUG)
    tasks = make_task_instances(TASKS)
    workloads = [workload_of(ti_id, executor.jwt_generator) for ti_id in tasks]
    executor._process_workloads(workloads)
    launches = [executor.launches.of_key(workload.key) for workload in workloads]
    ids = [launch.launch_id for launch in launches if launch is not None]
    for launch_id in ids[: TASKS // 2]:
        outside.create(launch_id)
        outside.publish(launch_id, "pending", pod="p", reason="Unschedulable", message="no node")
        outside.publish(launch_id, "failed", pod="p", container_reason="ErrImagePull")
    beat(executor, until=lambda: len([row for row in executor._task_event_logs if row.event == "pod replaced"]) == 3)
    for ti_id, launch_id in zip(tasks, ids, strict=True):
        ends_well = launch_id in ids[TASKS // 2 :]
        update(ti_id, state="success" if ends_well else "queued")
        outside.publish(launch_id, "succeeded" if ends_well else "failed", attempt=0 if ends_well else 1, pod="p")
    beat(executor, until=lambda: not executor.running)
    assert any(_is_about(record, ids, workloads) for record in caplog.records), "at DEBUG each of them is found"
    assert [record for record in caplog.records if record.levelno > 10 and _is_about(record, ids, workloads)] == []


def _is_about(record: logging.LogRecord, ids: list[str], workloads: list[Any]) -> bool:
    text = record.getMessage()
    return record.name.startswith("podrelay") and any(
        launch_id in text or str(workload.key) in text for launch_id, workload in zip(ids, workloads, strict=True)
    )


def test_one_line_for_each_kind_and_heartbeat(caplog: pytest.LogCaptureFixture) -> None:
    tally = Tally()
    with caplog.at_level(logging.INFO):
        for number in range(1000):
            tally.note(logging.WARNING, "slot freed", f"task {number}", "detail")
        tally.note(logging.INFO, "adopted", "task 7")
        tally.flush()
        tally.flush()
    lines = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert lines == [("WARNING", "task 0 and 999 more: slot freed"), ("INFO", "task 7: adopted")]
