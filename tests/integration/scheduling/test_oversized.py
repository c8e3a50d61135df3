"""Entries in Redis that are longer than any of podrelay's, and launches that are longer than a pod can be."""

from __future__ import annotations

import time
from typing import Any

from airflow.utils.session import create_session
from airflow.utils.state import TaskInstanceState
from kubernetes.client import models as k8s

from podrelay.executor import RedisKubernetesExecutor
from podrelay.protocol import identifiers
from podrelay.protocol.sizes import REQUEST_MAX
from tests.harness.task_instances import make_task_instances, update, workload_of
from tests.integration.scheduling.conftest import Outside, beat
from tests.integration.scheduling.test_executor import hand_over

MIB = 1 << 20


def kinds(outside: Outside) -> list[str]:
    return [entry["kind"] for _, entry in outside.redis.xrange(outside.names.quarantine)]


def longest_heartbeat_s(executor: RedisKubernetesExecutor, done: Any) -> float:
    longest_s, end_s = 0.0, time.monotonic() + 20.0
    while not done():
        assert time.monotonic() < end_s, "not within the time"
        began_s = time.monotonic()
        executor.heartbeat()
        longest_s = max(longest_s, time.monotonic() - began_s)
    return longest_s


def test_reports_that_are_too_long_are_passed_over(executor: RedisKubernetesExecutor, outside: Outside) -> None:
    ti_id = make_task_instances()[0]
    key, launch = hand_over(executor, ti_id)
    for _ in range(60):
        outside.redis.xadd(outside.names.results, {"launch": launch, "result": "x" * (5 * MIB)})
    update(ti_id, state="success")
    outside.publish(launch, pod=identifiers.pod_name("p", launch, 0), uid="u")
    assert longest_heartbeat_s(executor, lambda: key not in executor.running and len(kinds(outside)) == 60) < 0.6
    assert executor.event_buffer[key][0] == TaskInstanceState.SUCCESS
    assert kinds(outside) == ["oversized"] * 60


def test_a_scheduler_starts_after_a_report_that_is_too_long(outside: Outside, start_executor: Any) -> None:
    outside.redis.xadd(outside.names.results, {"result": "x" * (5 * MIB)})
    executor = start_executor()
    ti_id = make_task_instances()[0]
    key, launch = hand_over(executor, ti_id)
    update(ti_id, state="success")
    outside.publish(launch, pod=identifiers.pod_name("p", launch, 0), uid="u")
    beat(executor, until=lambda: key not in executor.running)
    assert kinds(outside) == []


def test_a_key_of_another_type_in_place_of_the_stream(executor: RedisKubernetesExecutor, outside: Outside) -> None:
    ti_id = make_task_instances()[0]
    key, launch = hand_over(executor, ti_id)
    outside.redis.delete(outside.names.results)
    outside.redis.set(outside.names.results, "not a stream")
    executor.heartbeat()
    update(ti_id, state="success")
    outside.publish(launch, pod=identifiers.pod_name("p", launch, 0), uid="u")
    beat(executor, until=lambda: key not in executor.running)


def test_a_recorded_end_that_is_too_long_counts_as_none(executor: RedisKubernetesExecutor, outside: Outside) -> None:
    ti_id = make_task_instances()[0]
    key, launch = hand_over(executor, ti_id)
    pod = identifiers.pod_name("p", launch, 0)
    outside.create(launch, pod)
    update(ti_id, state="running", hostname=pod)
    forged = {"state": "finished", "outcome": "failed", "result": "x" * (5 * MIB), "message": "x" * MIB}
    outside.redis.hset(outside.names.launch(launch), mapping=forged)
    executor.parts.reconciler.schedule_now()
    executor.heartbeat()
    assert key in executor.running
    assert kinds(outside) == ["no_report"]
    update(ti_id, state="success")
    outside.publish(launch, pod=pod, uid="u")
    beat(executor, until=lambda: key not in executor.running)


def test_ledger_entries_are_read_without_what_is_too_long(executor: RedisKubernetesExecutor, outside: Outside) -> None:
    outside.redis.hset(outside.names.launch("a"), mapping={"state": "created", "junk": "x" * MIB, "pod": "p"})
    outside.redis.set(outside.names.launch("b"), "not a hash")
    found = executor.parts.reconciler._ledger.entries(["a", "b", "c"])
    assert found == [{"state": "created", "pod": "p"}, {}, {}]


def test_a_launch_that_is_larger_than_a_pod_fails_alone(executor: RedisKubernetesExecutor, outside: Outside) -> None:
    large, good = make_task_instances(2)
    container = k8s.V1Container(name="base", env=[k8s.V1EnvVar(name="BIG", value="x" * REQUEST_MAX)])
    workload = workload_of(large, executor.jwt_generator)
    workload.ti.executor_config = {"pod_override": k8s.V1Pod(spec=k8s.V1PodSpec(containers=[container]))}
    with create_session() as session:
        executor.queue_workload(workload, session)
    key, _ = hand_over(executor, good)
    beat(executor, until=lambda: workload.key in executor.event_buffer)
    assert executor.event_buffer[workload.key][0] == TaskInstanceState.FAILED
    assert key in executor.running
    (entry,) = [entry for entry in executor._task_event_logs if entry.event == "launch refused"]
    assert "cannot be stored by Kubernetes" in str(entry.extra)
    assert "xxx" not in str(entry.extra)
