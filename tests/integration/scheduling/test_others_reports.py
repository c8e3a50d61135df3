"""Every scheduler reads the whole results stream: what concerns only others is passed over unread, and nothing is lost."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from airflow.models.callback import CallbackKey
from airflow.models.taskinstance import TaskInstance
from airflow.utils.session import create_session
from airflow.utils.state import TaskInstanceState
from sqlalchemy import select

from podrelay.executor import RedisKubernetesExecutor
from podrelay.protocol import identifiers
from podrelay.protocol.encryption import PayloadCipher
from podrelay.protocol.messages import PodReport
from podrelay.scheduling.launch_registry import Launch
from tests.conftest import FERNET_KEY
from tests.harness.task_instances import OWNER, load, make_task_instances, update
from tests.integration.scheduling.conftest import Outside, beat
from tests.integration.scheduling.test_executor import hand_over

CIPHER = PayloadCipher(FERNET_KEY, "default")
SUCCESS = TaskInstanceState.SUCCESS


def sealed_end(launch_id: str) -> str:
    pod = identifiers.pod_name("p", launch_id, 0)
    return CIPHER.reports.encrypt(PodReport(launch_id, 0, "succeeded", pod=pod, namespace="default", uid="u").encode())


def ended(executor: RedisKubernetesExecutor, outside: Outside) -> tuple[Any, str]:
    """Key and launch id of a task that is over, whose report is not in the stream."""
    ti_id = make_task_instances()[0]
    key, launch_id = hand_over(executor, ti_id)
    beat(executor, until=lambda: key in executor.running)
    outside.create(launch_id)
    update(ti_id, state="success")
    executor.parts.reconciler._next_round_s = float("inf")
    beat(executor, until=lambda: executor.launches.round_is_over)
    return key, launch_id


def compare(executor: RedisKubernetesExecutor) -> None:
    executor.parts.reconciler.schedule_now()


def in_quarantine(outside: Outside) -> list[str]:
    return [entry["kind"] for _, entry in outside.redis.xrange(outside.names.quarantine)]


def test_a_report_of_another_launch_is_not_even_decrypted(executor: RedisKubernetesExecutor, outside: Outside) -> None:
    key, launch_id = ended(executor, outside)
    for _ in range(30):
        outside.redis.xadd(outside.names.results, {"launch": str(uuid.uuid4()), "result": "cannot be decrypted"})
    outside.publish(launch_id, pod="pod")
    executor.heartbeat()
    assert executor.event_buffer[key][0] == SUCCESS
    assert executor.parts.results._results.passed_over == 30
    assert in_quarantine(outside) == []


@pytest.mark.parametrize("fields", [{}, {"launch": ""}, {"outcome": "started"}, {"launch": "", "outcome": "x"}])
def test_an_entry_without_a_launch_is_decrypted(
    executor: RedisKubernetesExecutor, outside: Outside, fields: dict[str, str]
) -> None:
    key, launch_id = ended(executor, outside)
    outside.redis.xadd(outside.names.results, {**fields, "result": "forged"})
    outside.redis.xadd(outside.names.results, {**fields, "result": sealed_end(launch_id)})  # type: ignore[dict-item]
    executor.heartbeat()
    assert executor.event_buffer[key][0] == SUCCESS
    assert in_quarantine(outside) == ["undecryptable"]


def test_the_launch_inside_counts(executor: RedisKubernetesExecutor, outside: Outside) -> None:
    (named, named_id), (meant, meant_id) = ended(executor, outside), ended(executor, outside)
    outside.redis.xadd(outside.names.results, {"launch": named_id, "outcome": "x", "result": sealed_end(meant_id)})
    executor.heartbeat()
    assert meant in executor.event_buffer
    assert named in executor.running


def _hidden(launch_id: str) -> dict[str, dict[bytes | str, Any]]:
    return {
        "as another's": {"launch": str(uuid.uuid4())},
        "as a start": {"launch": launch_id, "outcome": "started"},
        "as nobody's": {"launch": b"\xff" * 5000},
    }


@pytest.mark.parametrize("how", _hidden(""))
def test_a_report_that_a_forged_entry_hides_is_found_in_the_ledger(
    executor: RedisKubernetesExecutor, outside: Outside, how: str
) -> None:
    key, launch_id = ended(executor, outside)
    outside.publish(launch_id, pod="pod")
    (entry_id, entry), *_ = outside.redis.xrange(outside.names.results)
    outside.redis.delete(outside.names.results)
    outside.redis.xadd(outside.names.results, {**entry, **_hidden(launch_id)[how]}, id=entry_id)
    executor.heartbeat()
    assert key in executor.running
    assert in_quarantine(outside) == []
    compare(executor)
    beat(executor, until=lambda: executor.event_buffer.get(key, ("",))[0] == SUCCESS)


def test_an_end_from_before_and_one_from_after_an_adoption_are_both_processed(
    start_executor: Callable[..., RedisKubernetesExecutor], outside: Outside
) -> None:
    first, second = start_executor(), start_executor(OWNER + 1)
    before, after = ended(first, outside), ended(first, outside)
    outside.publish(before[1], pod="pod")
    second.heartbeat()  # reads it as another's
    assert second.parts.results._results.passed_over > 0
    for ti_id in _rows(before[0], after[0]):
        update(ti_id, queued_by_job_id=OWNER + 1)
        assert second.try_adopt_task_instances([load(ti_id)]) == []
    outside.publish(after[1], pod="pod")
    beat(second, until=lambda: before[0] in second.event_buffer and after[0] in second.event_buffer)


def _rows(*keys: Any) -> list[str]:
    with create_session() as session:
        rows = session.execute(select(TaskInstance.id).where(TaskInstance.filter_for_tis(keys))).all()  # type: ignore[arg-type]
        return [str(row.id) for row in rows]


def test_the_start_of_a_callback_is_reported_and_that_of_a_task_costs_nothing(
    executor: RedisKubernetesExecutor, outside: Outside
) -> None:
    _, task = ended(executor, outside)
    callback, key = str(uuid.uuid4()), CallbackKey(id=str(uuid.uuid4()))
    executor.launches.add(Launch(callback, key, "callback", key.id))
    executor.running.add(key)
    for launch_id in (task, callback):
        outside.publish(launch_id, "started", pod="pod")
    executor.heartbeat()
    assert executor.event_buffer[key][0] == "running"
    assert executor.parts.results._results.passed_over == 1


def test_entries_of_others_do_not_make_own_reports_wait(executor: RedisKubernetesExecutor, outside: Outside) -> None:
    """One heartbeat reads past more entries of others than it processes reports."""
    key, launch_id = ended(executor, outside)
    pipeline = outside.redis.pipeline(transaction=False)
    for _ in range(1200):
        pipeline.xadd(outside.names.results, {"launch": str(uuid.uuid4()), "result": "x" * 700})
    pipeline.execute()
    outside.publish(launch_id, pod="pod")
    end_s, heartbeats = time.monotonic() + 5.0, 0
    while key not in executor.event_buffer and time.monotonic() < end_s:
        executor.heartbeat()
        heartbeats += 1
    assert key in executor.event_buffer
    assert heartbeats <= 3
