"""Reports and launches that were encrypted with another Fernet key: nothing is lost, and everybody says what is wrong."""

from __future__ import annotations

import itertools
import logging
import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from airflow.models.connection_test import ConnectionTestKey
from cryptography.fernet import Fernet

from podrelay.cli.check import run_checks
from podrelay.cli.status import overview
from podrelay.cli.status_text import render_overview
from podrelay.executor import RedisKubernetesExecutor
from podrelay.protocol import identifiers, jobs
from podrelay.protocol.encryption import PayloadCipher
from podrelay.protocol.messages import PodReport
from podrelay.scheduling.launch_registry import Launch
from podrelay.scheduling.unreadable import NOTICE
from podrelay.store import scripts
from podrelay.store.key_rings import KeyRing, announce
from tests.conftest import FERNET_KEY
from tests.harness.lua import evaluate
from tests.harness.task_instances import OWNER, load, make_task_instances, update
from tests.integration.scheduling.conftest import Outside, beat
from tests.integration.scheduling.test_executor import hand_over

Start = Callable[..., RedisKubernetesExecutor]
OTHER_KEY = Fernet.generate_key().decode()
OURS, OTHER = PayloadCipher(FERNET_KEY, "default"), PayloadCipher(OTHER_KEY, "default")


def publish(outside: Outside, launch_id: str, cipher: PayloadCipher, outcome: str = "succeeded", **fields: Any) -> int:
    """Publish a report as a process with these keys does."""
    report = PodReport(launch_id, 0, outcome, namespace="default", **fields)  # type: ignore[arg-type]
    known = {"pod": report.pod, "namespace": "default", "uid": report.uid} if report.pod else {}
    call = scripts.publish(
        outside.names, cluster="default", fence=scripts.UNFENCED, launch_id=launch_id, attempt=0, outcome=outcome,
        result=cipher.reports.encrypt(report.encode()), now=f"{time.time():.6f}", results_max=1000,
        fields={**known, "reason": report.reason, "message": report.message, "result_key": cipher.fingerprints[0]},
    )  # fmt: skip
    reply = evaluate(outside.redis, call)
    return reply if isinstance(reply, int) else 0  # the ledger knows an end


def launched(executor: RedisKubernetesExecutor, outside: Outside) -> tuple[str, Any, str, str]:
    """Task instance, key, launch id and pod of a launch whose pod exists."""
    ti_id = make_task_instances()[0]
    key, launch_id = hand_over(executor, ti_id)
    beat(executor, until=lambda: key in executor.running)
    pod = identifiers.pod_name("p", launch_id, 0)
    outside.create(launch_id, pod)
    return ti_id, key, launch_id, pod


def events(executor: RedisKubernetesExecutor) -> list[tuple[str, str]]:
    return [(row.event, row.extra or "") for row in executor._task_event_logs]


def test_a_task_that_is_over_ends_though_its_report_is_unreadable(
    executor: RedisKubernetesExecutor, outside: Outside, caplog: pytest.LogCaptureFixture
) -> None:
    ti_id, key, launch_id, pod = launched(executor, outside)
    update(ti_id, state="success")
    publish(outside, launch_id, OTHER, pod=pod, uid="u")
    with caplog.at_level(logging.WARNING):
        beat(executor, until=lambda: key not in executor.running)
    assert executor.event_buffer[key][0] == "success"
    assert outside.cleanups() == [f"delete pod default/{pod}"]
    assert outside.ledger(launch_id)["state"] == "acknowledged"
    lines = [record.message for record in caplog.records if "not encrypted with a key" in record.message]
    assert len(lines) == 1


def test_a_queued_task_whose_pod_failed_unreadably_gets_another(
    executor: RedisKubernetesExecutor, outside: Outside
) -> None:
    _, _, launch_id, pod = launched(executor, outside)
    publish(outside, launch_id, OTHER, "failed", pod=pod, uid="u", reason="ErrImagePull", message="no such image")
    beat(executor, until=lambda: outside.ledger(launch_id)["attempt"] == "1")
    assert outside.cleanups() == [f"revoke pod default/{pod}"]


def test_a_launch_that_failed_or_expired_without_pod_ends_unreadably(
    executor: RedisKubernetesExecutor, outside: Outside
) -> None:
    (failed_key, failed), (_, expired) = (hand_over(executor, ti_id) for ti_id in make_task_instances(2))
    beat(executor, until=lambda: len(executor.running) == 2)
    publish(outside, failed, OTHER, "failed", reason="QuotaExceeded", message="quota q")
    publish(outside, expired, OTHER, "expired", reason="TokenExpired")
    beat(executor, until=lambda: failed_key in executor.event_buffer and outside.ledger(expired)["attempt"] == "1")
    state, info = executor.event_buffer[failed_key]
    assert state == "failed"
    assert "quota q" in str(info)


def test_a_running_task_waits_for_a_readable_report_which_is_taken(
    executor: RedisKubernetesExecutor, outside: Outside
) -> None:
    ti_id, key, launch_id, pod = launched(executor, outside)
    update(ti_id, state="running", hostname=pod)
    publish(outside, launch_id, OTHER, "failed", pod=pod, uid="u")
    beat(executor, until=lambda: any(event == "report unreadable" for event, _ in events(executor)))
    executor.parts.reconciler.schedule_now()
    executor.heartbeat()
    assert key in executor.running
    assert key not in executor.event_buffer
    assert len(events(executor)) == 1
    # The watcher is back with a key that this scheduler has, lists the pods, and publishes the end again.
    assert publish(outside, launch_id, OURS, "failed", pod=pod, uid="u", exit_code=3, container_reason="Error") == 1
    assert publish(outside, launch_id, OURS, "failed", pod=pod, uid="u", exit_code=4) == 0
    beat(executor, until=lambda: key in executor.event_buffer)
    assert "exit code 3" in str(executor.event_buffer[key][1])


def test_an_unreadable_success_never_fails_a_running_task(
    executor: RedisKubernetesExecutor, outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a readable report shows that the pod of a task ended well without reporting a state."""
    monkeypatch.setattr("podrelay.scheduling.second_looks.SECOND_LOOK_AFTER_S", 0.1)
    ti_id, key, launch_id, pod = launched(executor, outside)
    update(ti_id, state="running", hostname=pod)
    publish(outside, launch_id, OTHER, "succeeded", pod=pod, uid="u")
    beat(executor, until=lambda: any(event == "report unreadable" for event, _ in events(executor)))
    end_s = time.monotonic() + 0.6
    beat(executor, until=lambda: time.monotonic() > end_s)
    assert key in executor.running
    assert key not in executor.event_buffer
    assert outside.cleanups() == []


@pytest.mark.parametrize("outcome", ["succeeded", "failed"])
def test_an_unreadable_report_never_ends_what_has_no_row(
    executor: RedisKubernetesExecutor, outside: Outside, caplog: pytest.LogCaptureFixture, outcome: str
) -> None:
    """Nothing confirms the ledger's unencrypted fields about a callback or a connection test."""
    launch_id = str(uuid.uuid4())
    pod = identifiers.pod_name("p", launch_id, 0)
    key = ConnectionTestKey(id=str(uuid.uuid4()))
    executor.launches.add(Launch(launch_id, key, "connection_test", key.id))
    executor.running.add(key)
    publish(outside, launch_id, OTHER, outcome, pod=pod, uid="u")
    beat(executor, until=lambda: f"{key}: the pod has ended, but {NOTICE}" in caplog.text)
    assert key in executor.running
    assert outside.cleanups() == []
    publish(outside, launch_id, OURS, "failed", pod=pod, uid="u")
    beat(executor, until=lambda: key in executor.event_buffer)


def test_an_orphans_unreadable_end_is_cleaned_up_once_its_task_is_over(
    start_executor: Start, outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("podrelay.scheduling.orphans.ABANDONED_AFTER_S", 0.2)
    first = start_executor()
    over, over_pod = launched(first, outside)[::3]
    runs, _, runs_launch, runs_pod = launched(first, outside)
    for ti_id, pod, state in ((over, over_pod, "success"), (runs, runs_pod, "running")):
        update(ti_id, state=state, hostname=pod)
        publish(outside, str(load(ti_id).external_executor_id), OTHER, "succeeded", pod=pod, uid="u")
    first._breaker.close()
    second = start_executor(OWNER + 1)
    beat(second, until=outside.cleanups)
    for _ in range(3):
        second.parts.reconciler.schedule_now()
        second.heartbeat()
    assert outside.cleanups() == [f"delete pod default/{over_pod}"]
    assert outside.ledger(runs_launch)["state"] == "finished"


def test_thousands_of_unreadable_reports_cost_one_round_trip(
    executor: RedisKubernetesExecutor, outside: Outside
) -> None:
    for number in range(200):
        launch_id = f"00000000-0000-4000-8000-{number:012}"
        executor.launches.add(Launch(launch_id, number, "connection_test", "subject"))
        publish(outside, launch_id, OTHER)
    before = executor._breaker.trips
    executor.parts.results.process_stream()
    assert executor._breaker.trips - before <= 2 * 6
    assert 0 < outside.redis.xlen(outside.names.quarantine) <= 6


# --- what people see --------------------------------------------------------------------------------------------------
def test_log_status_and_check_name_who_cannot_read_whom(
    executor: RedisKubernetesExecutor, outside: Outside, caplog: pytest.LogCaptureFixture
) -> None:
    evaluate(outside.redis, announce(outside.names, KeyRing("watcher w", OTHER.fingerprints)))
    executor.parts.key_check._next_run_s = 0.0
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            executor.parts.key_check._next_run_s = 0.0
            executor.heartbeat()
    sentence = f"scheduler {OWNER} does not have the key {OTHER.fingerprints[0]}, with which watcher w encrypts"
    lines = [record.message for record in caplog.records if "keys differ" in record.message]
    assert len(lines) == 1
    assert sentence in lines[0]
    assert "[podrelay] fernet_key" in lines[0]
    found = overview(None, time.time())
    assert found["key_mismatches"] == [sentence]
    assert f"Fernet keys differ: {sentence}" in render_overview(found)
    (check,) = [check for check in run_checks(None) if check.name == "Fernet keys of all processes"]
    assert not check.ok
    assert sentence in check.detail
    assert FERNET_KEY not in outside.everything()


def test_a_launch_that_a_launcher_cannot_read_says_so(executor: RedisKubernetesExecutor, outside: Outside) -> None:
    ti_id = make_task_instances()[0]
    key, launch_id = hand_over(executor, ti_id)
    beat(executor, until=lambda: key in executor.running)
    outside.redis.hset(outside.names.launch(launch_id), mapping={"state": "waiting", "reason": "KeyMismatch"})
    beat(executor, until=lambda: events(executor))
    assert [event for event, _ in events(executor)] == ["pod pending"]
    assert "lacks the key" in events(executor)[0][1]


def test_a_launch_that_waits_for_its_key_and_loses_its_job_is_offered_again(
    executor: RedisKubernetesExecutor, outside: Outside
) -> None:
    _, launch_id = hand_over(executor, make_task_instances()[0])
    outside.redis.hset(outside.names.launch(launch_id), mapping={"state": "waiting", "reason": "KeyMismatch"})
    outside.redis.delete(f"rq:job:{identifiers.job_id(launch_id, 0)}")
    beat(executor, until=lambda: outside.ledger(launch_id)["state"] == "offered")


def test_a_rejected_job_is_offered_again_and_the_log_says_why(
    executor: RedisKubernetesExecutor, outside: Outside, caplog: pytest.LogCaptureFixture
) -> None:
    _, launch_id = hand_over(executor, make_task_instances()[0])
    job = f"rq:job:{identifiers.job_id(launch_id, 0)}"
    outside.redis.hset(job, "status", "failed")
    with caplog.at_level(logging.WARNING):
        beat(executor, until=lambda: outside.redis.hget(job, "status") == "queued")
    assert "1 whose job a launcher could not read" in caplog.text
    assert "without an entry" not in caplog.text


# --- rotation ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("order", list(itertools.permutations(["scheduler", "launcher", "watcher"])), ids="-".join)
def test_rotation_in_any_order_loses_nothing(
    start_executor: Start, outside: Outside, monkeypatch: pytest.MonkeyPatch, order: tuple[str, ...]
) -> None:
    """From A to `B,A` to B, one process at a time; a task begins before each step and ends after the whole."""
    keys = dict.fromkeys(order, FERNET_KEY)
    executor = start_executor()
    waiting: list[tuple[str, Any, str]] = []

    def restart_scheduler() -> None:
        nonlocal executor
        executor.end()
        monkeypatch.setenv("AIRFLOW__PODRELAY__FERNET_KEY", keys["scheduler"])
        executor = start_executor()
        assert not executor.try_adopt_task_instances([load(ti_id) for ti_id, _, _ in waiting])

    def launcher_reads(launch_id: str) -> bool:
        data = str(outside.redis.hget(f"rq:job:{identifiers.job_id(launch_id, 0)}", "data"))
        try:
            jobs.read_launch(
                data.encode(), identifiers.job_id(launch_id, 0), "default", PayloadCipher(keys["launcher"], "default")
            )
        except Exception:  # noqa: BLE001 - a launcher waits or quarantines; the scheduler offers it again
            return False
        return True

    for step in (f"{OTHER_KEY},{FERNET_KEY}", OTHER_KEY):
        for role in order:
            (ti_id,) = make_task_instances()
            key, launch_id = hand_over(executor, ti_id)
            beat(executor, until=lambda key=key: key in executor.running)  # type: ignore[misc]
            waiting.append((ti_id, key, launch_id))
            # Another task ends while the keys differ.
            ti_id, key, launch_id, pod = launched(executor, outside)
            update(ti_id, state="success")
            publish(outside, launch_id, PayloadCipher(keys["watcher"], "default"), pod=pod, uid="u")
            keys[role] = step
            if role == "scheduler":
                restart_scheduler()
                executor.running.add(key)
                executor.launches.add(_launch_of(ti_id, key, launch_id))
            beat(executor, until=lambda key=key: key not in executor.running)  # type: ignore[misc]
    for _, key, launch_id in waiting:
        if not launcher_reads(launch_id):  # sealed with A alone: no process has that key any more
            outside.redis.hset(f"rq:job:{identifiers.job_id(launch_id, 0)}", "status", "failed")
        beat(executor, until=lambda launch_id=launch_id: launcher_reads(launch_id))  # type: ignore[misc]
        assert key in executor.running
    assert outside.redis.zcard(outside.names.unacknowledged) == 0


def _launch_of(ti_id: str, key: Any, launch_id: str) -> Any:
    return Launch(launch_id, key, "task", ti_id, task=key)
