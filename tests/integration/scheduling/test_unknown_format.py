"""Reports of a format that this scheduler does not read stay in the ledger; only the database ends a task meanwhile."""

from __future__ import annotations

import json
import logging
import time
from typing import Any

import pytest

from podrelay.executor import RedisKubernetesExecutor
from podrelay.protocol import identifiers
from podrelay.protocol.encryption import PayloadCipher
from podrelay.protocol.messages import VERSION, PodReport
from podrelay.scheduling.unreadable import FORMAT_NOTICE
from podrelay.store import scripts
from tests.conftest import FERNET_KEY
from tests.harness.lua import evaluate
from tests.harness.task_instances import make_task_instances, update
from tests.integration.scheduling.conftest import Outside, beat
from tests.integration.scheduling.test_executor import hand_over
from tests.integration.scheduling.test_other_keys import events, launched

CIPHER = PayloadCipher(FERNET_KEY, "default")


def publish_newer(outside: Outside, launch_id: str, outcome: str, **fields: Any) -> None:
    """Publish a report as a coming release could."""
    document = {"v": VERSION + 1, "is": "result", "launch": launch_id, "end": outcome}
    call = scripts.publish(
        outside.names, cluster="default", fence=scripts.UNFENCED, launch_id=launch_id, attempt=0, outcome=outcome,
        result=CIPHER.reports.encrypt(json.dumps(document).encode()), now=f"{time.time():.6f}", results_max=1000,
        fields={"namespace": "default", "result_key": CIPHER.fingerprints[0], **fields},
    )  # fmt: skip
    assert evaluate(outside.redis, call) == 1


def compare(executor: RedisKubernetesExecutor) -> None:
    for _ in range(3):
        executor.parts.reconciler.schedule_now()
        executor.heartbeat()


@pytest.mark.parametrize("state", ["queued", "running"])
def test_a_task_that_is_not_over_is_kept_and_its_report_too(
    executor: RedisKubernetesExecutor, outside: Outside, caplog: pytest.LogCaptureFixture, state: str
) -> None:
    ti_id, key, launch_id, pod = launched(executor, outside)
    update(ti_id, state=state, hostname=pod if state == "running" else "")
    with caplog.at_level(logging.WARNING):
        publish_newer(outside, launch_id, "failed", pod=pod, uid="u", reason="Error")
        beat(executor, until=lambda: FORMAT_NOTICE in caplog.text)
        compare(executor)
    assert key in executor.running
    assert key not in executor.event_buffer
    assert outside.ledger(launch_id)["state"] == "finished"
    assert outside.cleanups() == []
    assert outside.redis.xlen(outside.names.quarantine) == 0
    assert [event for event, _ in events(executor)] == ["report unreadable"]
    assert "upgrade the schedulers" in events(executor)[0][1]
    left = [record.message for record in caplog.records if "Left in the ledger" in record.message]
    assert len(left) == 1
    assert f"format {VERSION + 1}" in left[0]


def test_a_task_that_is_over_frees_its_slot(executor: RedisKubernetesExecutor, outside: Outside) -> None:
    ti_id, key, launch_id, pod = launched(executor, outside)
    update(ti_id, state="success", hostname=pod)
    publish_newer(outside, launch_id, "succeeded", pod=pod, uid="u")
    beat(executor, until=lambda: key not in executor.running)
    assert executor.event_buffer[key][0] == "success"
    assert outside.ledger(launch_id)["state"] == "acknowledged"
    assert outside.redis.xlen(outside.names.quarantine) == 0


def test_the_scheduler_of_the_coming_release_takes_it_over(start_executor: Any, outside: Outside) -> None:
    first = start_executor()
    ti_id, key, launch_id, pod = launched(first, outside)
    update(ti_id, state="running", hostname=pod)
    publish_newer(outside, launch_id, "failed", pod=pod, uid="u")
    compare(first)
    # It reads the report: here, the ledger holds it in the present format.
    report = PodReport(launch_id, 0, "failed", pod=pod, uid="u", namespace="default", exit_code=3)
    outside.redis.hset(outside.names.launch(launch_id), "result", CIPHER.reports.encrypt(report.encode()))
    beat(first, until=lambda: key in first.event_buffer)
    assert "exit code 3" in str(first.event_buffer[key][1])


def test_a_launch_that_launchers_do_not_read_says_so(executor: RedisKubernetesExecutor, outside: Outside) -> None:
    key, launch_id = hand_over(executor, make_task_instances()[0])
    beat(executor, until=lambda: key in executor.running)
    outside.redis.hset(outside.names.launch(launch_id), mapping={"state": "waiting", "reason": "UnknownFormat"})
    beat(executor, until=lambda: events(executor))
    (event,) = events(executor)
    assert event[0] == "pod pending"
    assert "upgrade the launchers" in event[1]
    outside.redis.delete(f"rq:job:{identifiers.job_id(launch_id, 0)}")
    beat(executor, until=lambda: outside.ledger(launch_id)["state"] == "offered")
