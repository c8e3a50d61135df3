"""The executor against a real Redis and a real database: what it hands over, what it reports, what it survives."""

from __future__ import annotations

import time
import uuid
from datetime import datetime, timezone
from typing import Any

import pytest
import redis
from airflow.configuration import conf as airflow_conf
from airflow.executors.base_executor import BaseExecutor
from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
from airflow.models.log import Log
from airflow.utils.session import create_session
from airflow.utils.state import TaskInstanceState
from kubernetes.client import models as k8s
from sqlalchemy import select

import podrelay
from podrelay.executor import RedisKubernetesExecutor
from podrelay.protocol import identifiers, redis_keys
from podrelay.protocol.snapshots import LauncherSnapshot
from podrelay.scheduling import heartbeat_budget
from podrelay.settings import load_settings
from podrelay.store.overview import read_overview
from podrelay_workers.launcher.registration import Registration
from tests.conftest import FERNET_KEY
from tests.harness.task_instances import OWNER, load, make_task_instances, update, workload_of
from tests.integration.scheduling.conftest import Outside, beat

QUEUED = TaskInstanceState.QUEUED
FAILED = TaskInstanceState.FAILED


def hand_over(executor: BaseExecutor, ti_id: str) -> tuple[Any, str]:
    """Queue one task instance and send one heartbeat. Returns its key and launch id."""
    workload = workload_of(ti_id, executor.jwt_generator)
    with create_session() as session:
        executor.queue_workload(workload, session)
    executor.heartbeat()
    return workload.key, str(workload.ti.external_executor_id)


def test_nothing_reaches_redis_before_the_heartbeat(executor: RedisKubernetesExecutor, outside: Outside) -> None:
    workload = workload_of(make_task_instances()[0])
    with create_session() as session:
        executor.queue_workload(workload, session)
    assert outside.queued() == []
    assert workload.key in executor.queued_tasks
    executor.heartbeat()
    assert outside.queued() == [identifiers.job_id(str(workload.ti.external_executor_id), 0)]
    assert workload.key in executor.running
    assert workload.key not in executor.queued_tasks


def test_a_launch_is_the_id_that_airflow_assigned(executor: RedisKubernetesExecutor, outside: Outside) -> None:
    ti_id = make_task_instances()[0]
    key, launch_id = hand_over(executor, ti_id)
    entry = outside.ledger(launch_id)
    assert (entry["state"], entry["owner"], entry["subject"]) == ("offered", str(OWNER), ti_id)
    assert outside.redis.hget(outside.names.current, ti_id) == launch_id
    assert key not in executor.event_buffer


def test_without_an_assigned_id_one_is_made_and_announced(executor: RedisKubernetesExecutor, outside: Outside) -> None:
    ti_id = make_task_instances(external_executor_id=None)[0]
    key, _ = hand_over(executor, ti_id)
    state, launch_id = executor.event_buffer[key]
    assert state == QUEUED
    assert outside.redis.hget(outside.names.current, ti_id) == launch_id


@pytest.mark.parametrize("left", ["17", "not an id"])
def test_what_another_executor_left_in_the_row_is_no_launch_id(
    executor: RedisKubernetesExecutor, outside: Outside, left: str
) -> None:
    """The stock executor writes its scheduler's job id there: many tasks share it."""
    key, _ = hand_over(executor, make_task_instances(external_executor_id=left)[0])
    state, launch_id = executor.event_buffer[key]
    assert (state, outside.ledger(launch_id)["state"]) == (QUEUED, "offered")
    assert outside.queued() == [identifiers.job_id(launch_id, 0)]


def test_the_id_of_an_earlier_launch_is_not_used_again(executor: RedisKubernetesExecutor, outside: Outside) -> None:
    """Beside other executors Airflow assigns none to a task that names its executor by class, or to a team's, and leaves the
    last one in the row: through deferrals, and from one try to the next.
    """
    ti_id = make_task_instances(external_executor_id=None)[0]
    key, _ = hand_over(executor, ti_id)
    _, first = executor.get_event_buffer()[key]
    outside.create(first)
    update(ti_id, state="deferred", external_executor_id=first)
    outside.publish(first, pod="pod-1")
    executor.heartbeat()
    executor.get_event_buffer()
    update(ti_id, state="queued")
    hand_over(executor, ti_id)
    state, second = executor.get_event_buffer()[key]
    assert state == QUEUED
    assert second != first
    assert outside.ledger(second)["state"] == "offered"
    # Another scheduler holds the row: the event is lost, and the row keeps the earlier launch id for a while.
    beat(executor, until=lambda: executor.event_buffer)
    assert executor.get_event_buffer() == {key: (QUEUED, second)}
    assert key in executor.running
    assert outside.ledger(second)["state"] == "offered"
    outside.create(second)
    update(ti_id, state="running", external_executor_id=second)
    for _ in range(3):
        executor.parts.reconciler.schedule_now()
        executor.heartbeat()
    assert executor.event_buffer == {}
    outside.publish(second, "failed", pod="pod-2", reason="Error")
    executor.heartbeat()
    assert executor.event_buffer[key][0] == FAILED


def test_no_token_or_payload_is_readable(executor: RedisKubernetesExecutor, outside: Outside) -> None:
    workload = workload_of(make_task_instances()[0], executor.jwt_generator)
    assert len(workload.token) > 100
    executor._process_workloads([workload])
    text = outside.everything()
    assert workload.key.dag_id in text, "the description is for people"
    for secret in (workload.token, workload.token.split(".")[2], "execute_workload"):
        assert secret not in text


def test_hundreds_in_one_heartbeat_keep_their_order(
    executor: RedisKubernetesExecutor, outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat_budget, "HAND_OVER_S", 60.0)
    executor.parallelism = 500
    workloads = [workload_of(ti_id) for ti_id in make_task_instances(300)]
    executor._process_workloads(workloads)
    assert outside.queued() == [identifiers.job_id(str(w.ti.external_executor_id), 0) for w in workloads]
    assert len(executor.running) == 300


def test_a_repeated_hand_over_queues_nothing_twice(executor: RedisKubernetesExecutor, outside: Outside) -> None:
    workload = workload_of(make_task_instances()[0])
    executor._process_workloads([workload])
    executor._process_workloads([workload])
    assert len(outside.queued()) == 1


def test_priority_chooses_the_queue(executor: RedisKubernetesExecutor, outside: Outside) -> None:
    workload = workload_of(make_task_instances(priority_weight=10)[0])
    executor._process_workloads([workload])
    assert outside.queued(level=3) == [identifiers.job_id(str(workload.ti.external_executor_id), 0)]


def end_well(executor: RedisKubernetesExecutor, outside: Outside, row_state: str) -> tuple[Any, str]:
    """The pod of a task ends well, by which time the database says this about the task. Returns key and launch id."""
    ti_id = make_task_instances()[0]
    key, launch_id = hand_over(executor, ti_id)
    outside.create(launch_id)
    update(ti_id, state=row_state)
    outside.publish(launch_id, pod="pod-1")
    executor.heartbeat()
    return key, launch_id


@pytest.mark.parametrize(
    ("row_state", "event"),
    [("success", "success"), ("failed", "failed"), ("up_for_retry", "up_for_retry"), ("deferred", "deferred"),
     ("restarting", "restarting"), ("up_for_reschedule", "up_for_reschedule")],
)  # fmt: skip
def test_a_pod_that_ended_well_says_what_the_database_says(
    executor: RedisKubernetesExecutor, outside: Outside, row_state: str, event: str
) -> None:
    key, launch_id = end_well(executor, outside, row_state)
    assert executor.event_buffer[key] == (TaskInstanceState(event), None)
    assert key not in executor.running
    assert outside.ledger(launch_id)["state"] == "acknowledged"
    assert outside.cleanups() == ["delete pod default/pod-1"]


@pytest.mark.parametrize("row_state", ["queued", "running"])
def test_no_event_would_overwrite_the_launch_id(
    executor: RedisKubernetesExecutor, outside: Outside, row_state: str
) -> None:
    key, _ = end_well(executor, outside, row_state)
    assert key not in executor.event_buffer
    assert key not in executor.running


def test_a_failed_pod_fails_the_running_task_with_its_reason(
    executor: RedisKubernetesExecutor, outside: Outside
) -> None:
    ti_id = make_task_instances()[0]
    key, launch_id = hand_over(executor, ti_id)
    outside.create(launch_id)
    update(ti_id, state="running")
    outside.publish(
        launch_id,
        "failed",
        pod="pod-1",
        container="base",
        container_reason="OOMKilled",
        exit_code=137,
        signal=9,
        node="n1",
    )
    executor.heartbeat()
    state, info = executor.event_buffer[key]
    assert state == FAILED
    for part in ("OOMKilled", "exit code 137 (signal 9)", "node n1", "default/pod-1"):
        assert part in str(info)
    assert [row.event for row in executor._task_event_logs] == ["pod failed"]
    assert outside.cleanups() == ["done pod default/pod-1"], "kept for inspection, and out of every watch"


def test_the_scheduler_can_save_what_is_logged(executor: RedisKubernetesExecutor, outside: Outside) -> None:
    ti_id = make_task_instances()[0]
    key, launch_id = hand_over(executor, ti_id)
    for reason in ("Unschedulable", "ImagePull", "Quota"):
        outside.publish(launch_id, "pending", pod="pod-1", reason=reason, message="why")
    executor.heartbeat()
    with create_session() as session:
        SchedulerJobRunner._process_task_event_logs(executor._task_event_logs, session)
    with create_session() as session:
        rows = session.scalars(select(Log).where(Log.dag_id == key.dag_id)).all()
        where = f"Launch {launch_id}, attempt 0, pod default/pod-1"
        assert {row.extra for row in rows} == {
            f"{reason}: why\n{where}" for reason in ("Unschedulable", "ImagePull", "Quota")
        }
        assert {(row.owner, row.owner_display_name, row.try_number) for row in rows} == {("podrelay", "podrelay", 1)}


def test_a_pod_that_died_before_its_task_is_replaced_once(executor: RedisKubernetesExecutor, outside: Outside) -> None:
    ti_id = make_task_instances()[0]
    key, launch_id = hand_over(executor, ti_id)
    outside.create(launch_id)
    outside.publish(launch_id, "failed", pod="pod-1", container_reason="ErrImagePull", phase="Pending")
    executor.heartbeat()
    assert key in executor.running
    assert key not in executor.event_buffer
    assert outside.queued()[-1:] == [identifiers.job_id(launch_id, 1)]
    assert outside.cleanups() == ["revoke pod default/pod-1"], "a pod that waits may not start beside its replacement"
    outside.create(launch_id, "pod-2")
    outside.publish(launch_id, "failed", attempt=1, pod="pod-2", container_reason="ErrImagePull")
    executor.heartbeat()
    assert executor.event_buffer[key][0] == FAILED


def test_a_late_result_of_an_earlier_attempt_changes_nothing(
    executor: RedisKubernetesExecutor, outside: Outside
) -> None:
    ti_id = make_task_instances()[0]
    key, launch_id = hand_over(executor, ti_id)
    outside.create(launch_id)
    outside.publish(launch_id, "failed", pod="pod-1", phase="Pending")
    executor.heartbeat()
    update(ti_id, state="running")
    assert outside.publish(launch_id, "failed", pod="pod-1") == -1
    executor.heartbeat()
    assert key in executor.running
    assert key not in executor.event_buffer


def test_an_attempt_that_was_offered_unknowingly_is_the_one_that_is_offered_again(
    executor: RedisKubernetesExecutor, outside: Outside
) -> None:
    """The reply to the offer of the next attempt is lost, and then Redis loses its data."""
    _, launch_id = hand_over(executor, make_task_instances()[0])
    launch = executor.launches.get(launch_id)
    assert launch is not None
    assert launch.request is not None
    executor.parts.results._queue.offer([(launch.request.replaced(attempt=1), 1)])
    executor.parts.reconciler.schedule_now()
    beat(executor, until=lambda: launch.attempt == 1)
    outside.redis.flushall()
    beat(executor, until=outside.queued)
    assert outside.queued() == [identifiers.job_id(launch_id, 1)]
    assert outside.ledger(launch_id)["relaunches"] == "1"


def test_a_task_that_resumed_is_not_touched_by_its_earlier_launch(
    executor: RedisKubernetesExecutor, outside: Outside
) -> None:
    ti_id = make_task_instances()[0]
    key, first = hand_over(executor, ti_id)
    outside.create(first)
    update(ti_id, state="queued", external_executor_id=str(uuid.uuid4()))  # deferred, triggered and queued again
    _, second = hand_over(executor, ti_id)
    assert first != second
    update(ti_id, state="running")
    outside.publish(first, pod="pod-1")
    executor.heartbeat()
    assert key in executor.running
    assert key not in executor.event_buffer
    assert outside.cleanups() == ["delete pod default/pod-1"]
    update(ti_id, state="success")
    outside.publish(second, pod="pod-2")
    executor.heartbeat()
    assert executor.event_buffer[key] == (TaskInstanceState.SUCCESS, None)


class Odd(dict[str, Any]):
    """What a DAG may have pickled."""

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("not comparable")

    __hash__ = None  # type: ignore[assignment]


def test_a_workload_that_meets_a_fault_holds_up_no_other(
    executor: RedisKubernetesExecutor, outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat_budget, "HAND_OVER_S", 60.0)  # both in one heartbeat, on any machine
    bad, good = (workload_of(ti_id) for ti_id in make_task_instances(2))
    bad.ti.executor_config = Odd()
    with create_session() as session:
        executor.queue_workload(bad, session)
        executor.queue_workload(good, session)
    executor.heartbeat()
    assert outside.queued() == [identifiers.job_id(str(good.ti.external_executor_id), 0)]
    assert bad.key in executor.queued_tasks


def test_invalid_executor_config_fails_only_its_task(
    executor: RedisKubernetesExecutor, outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat_budget, "HAND_OVER_S", 60.0)  # both in one heartbeat, on any machine
    good, bad = (workload_of(ti_id) for ti_id in make_task_instances(2))
    bad.ti.executor_config = {"pod_override": {"not": "a pod"}}
    with create_session() as session:
        executor.queue_workload(bad, session)
        executor.queue_workload(good, session)
    executor.heartbeat()
    assert executor.event_buffer == {bad.key: (FAILED, "Invalid executor_config passed")}
    assert executor.running == {good.key}
    assert executor.queued_tasks == {}
    assert len(outside.queued()) == 1


def test_a_pod_override_travels_sealed(executor: RedisKubernetesExecutor, outside: Outside) -> None:
    workload = workload_of(make_task_instances()[0])
    pod = k8s.V1Pod(spec=k8s.V1PodSpec(containers=[k8s.V1Container(name="base", image="my-secret-image:1")]))
    workload.ti.executor_config = {"pod_override": pod}
    executor._process_workloads([workload])
    assert workload.key in executor.running
    assert "my-secret-image" not in outside.everything()
    launch = executor.launches.of_key(workload.key)
    assert launch is not None
    assert launch.request is not None
    assert launch.request.pod_override == {"spec": {"containers": [{"name": "base", "image": "my-secret-image:1"}]}}


def elsewhere() -> dict[str, Any]:
    return {"pod_override": k8s.V1Pod(metadata=k8s.V1ObjectMeta(namespace="elsewhere"))}


def logged(executor: RedisKubernetesExecutor) -> str:
    return "\n".join(f"{entry.event}: {entry.extra}" for entry in executor._task_event_logs)


def test_an_override_whose_namespace_nobody_watches_is_reported_at_once(executor: RedisKubernetesExecutor) -> None:
    hand_over(executor, make_task_instances()[0])
    assert logged(executor) == ""
    hand_over(executor, make_task_instances(executor_config=elsewhere())[0])
    assert "namespace not watched: Namespace elsewhere" in logged(executor)
    assert "multi_namespace_mode_namespace_list" in logged(executor)


@pytest.mark.parametrize("watched", [True, False])
def test_a_pod_whose_end_is_never_reported_frees_its_slot_where_nobody_watches(
    executor: RedisKubernetesExecutor, outside: Outside, monkeypatch: pytest.MonkeyPatch, watched: bool
) -> None:
    monkeypatch.setattr("podrelay.scheduling.reconciler.UNWATCHED_END_S", 0.3)
    ti_id = make_task_instances(executor_config={} if watched else elsewhere())[0]
    key, launch_id = hand_over(executor, ti_id)
    outside.create(launch_id)
    update(ti_id, state="running", start_date=datetime.now(timezone.utc))
    outside.publish(launch_id, "started", pod="pod-1")
    until = time.monotonic() + 1.0
    beat(executor, until=lambda: time.monotonic() > until)
    assert key in executor.running, "it runs"
    update(ti_id, state="success")
    if watched:
        until = time.monotonic() + 1.0
        beat(executor, until=lambda: time.monotonic() > until)
        assert key in executor.running, "its pod may still be writing its log"
    else:
        beat(executor, until=lambda: key not in executor.running)
        assert "pod not followed" in logged(executor)
        assert executor.event_buffer == {}


def test_a_cleared_task_gets_no_pod_and_frees_its_slot(executor: RedisKubernetesExecutor, outside: Outside) -> None:
    ti_id = make_task_instances()[0]
    key, launch_id = hand_over(executor, ti_id)
    update(ti_id, state=None, external_executor_id=None)
    beat(executor, until=lambda: key not in executor.running)
    assert outside.ledger(launch_id)["state"] == "withdrawn"
    assert outside.redis.exists(redis_keys.RQ_JOB_PREFIX + f"{launch_id}_0") == 0
    assert key not in executor.event_buffer


def test_reports_are_repeated_a_few_at_a_time(
    executor: RedisKubernetesExecutor, outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The comparison with their rows takes time in a heartbeat, so it is bounded however many tasks failed at once."""
    keys = []
    for ti_id in make_task_instances(3):
        key, launch_id = hand_over(executor, ti_id)
        outside.publish(launch_id, "failed", pod="pod-1", reason="Error", container_reason="Error")
        keys.append(key)
    beat(executor, until=lambda: len(executor.event_buffer) == 3)
    executor.get_event_buffer()
    monkeypatch.setattr(heartbeat_budget, "COMPARISON_BATCH", 1)
    collected = []
    for _ in keys:
        beat(executor, until=lambda: executor.event_buffer)
        events = executor.get_event_buffer()
        assert len(events) == 1
        collected += list(events)
    assert collected == keys


def test_the_next_attempt_does_not_inherit_a_wait(executor: RedisKubernetesExecutor, outside: Outside) -> None:
    """Otherwise a new leader would attribute the wait to the new pod, and fail it at once."""
    _, launch_id = hand_over(executor, make_task_instances()[0])
    outside.create(launch_id)
    outside.redis.hset(outside.names.launch(launch_id), mapping={"wait": "ErrImagePull:base", "t_wait": "1.0"})
    outside.publish(launch_id, "failed", pod="pod-1", reason="ErrImagePull", phase="Pending")
    beat(executor, until=lambda: outside.ledger(launch_id)["attempt"] == "1")
    assert not {"wait", "t_wait"} & set(outside.ledger(launch_id))


def test_revoking_takes_the_launch_back_and_deletes_a_pod_that_waits(
    executor: RedisKubernetesExecutor, outside: Outside
) -> None:
    first, second = make_task_instances(2)
    key, launch_id = hand_over(executor, first)
    executor.revoke_task(ti=load(first))
    assert key not in executor.running
    assert not executor.has_task(load(first))
    executor.heartbeat()
    assert outside.ledger(launch_id)["state"] == "withdrawn"
    _, launch_id = hand_over(executor, second)
    outside.create(launch_id)
    executor.revoke_task(ti=load(second))
    executor.heartbeat()
    assert outside.cleanups() == ["revoke pod default/pod-1"]
    assert executor.event_buffer == {}


def test_an_expired_token_is_renewed(executor: RedisKubernetesExecutor, outside: Outside) -> None:
    ti_id = make_task_instances()[0]
    key, launch_id = hand_over(executor, ti_id)
    first = outside.token(identifiers.job_id(launch_id, 0))
    time.sleep(1.1)  # the times in a token are whole seconds
    outside.publish(launch_id, "expired")
    executor.heartbeat()
    launch = executor.launches.of_key(key)
    assert launch is not None
    assert (launch.attempt, launch.relaunches) == (1, 0)
    assert outside.queued()[-1] == identifiers.job_id(launch_id, 1)
    assert key in executor.running
    second = outside.token(identifiers.job_id(launch_id, 1))
    assert second["exp"] > first["exp"], "it expires later"
    assert second["jti"] != first["jti"], "it is a different token"
    assert (second["sub"], second["scope"]) == (ti_id, "workload")


def test_revoking_asks_nobody_and_one_heartbeat_withdraws_in_redis(
    executor: RedisKubernetesExecutor, outside: Outside
) -> None:
    tasks = [(ti_id, *hand_over(executor, ti_id)) for ti_id in make_task_instances(20)]
    rows = [load(ti_id) for ti_id, _, _ in tasks]
    before = outside.commands()
    for ti in rows:
        executor.revoke_task(ti=ti)
    assert outside.commands() == before, "revoking makes no round trip"
    assert not executor.running
    executor.heartbeat()
    assert {outside.ledger(launch_id)["state"] for _, _, launch_id in tasks} == {"withdrawn"}


def test_the_time_to_an_acknowledgement_is_a_metric(
    executor: RedisKubernetesExecutor, outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed: list[tuple[str, float]] = []

    class Recorder:
        @staticmethod
        def timing(name: str, milliseconds: float, tags: Any = None) -> None:
            timed.append((name, milliseconds))

    monkeypatch.setattr("podrelay.scheduling.results.Stats", Recorder)
    ti_id = make_task_instances()[0]
    _, launch_id = hand_over(executor, ti_id)
    outside.create(launch_id)
    update(ti_id, state="success")
    outside.publish(launch_id, pod="pod-1")
    time.sleep(0.3)
    beat(executor, until=lambda: timed)
    ((name, milliseconds),) = timed
    assert name == "podrelay.lifecycle.acknowledged"
    assert 300.0 <= milliseconds < 10_000.0
    assert outside.ledger(launch_id)["state"] == "acknowledged"


def waits_logged(executor: RedisKubernetesExecutor) -> list[str]:
    return [str(row.extra) for row in executor._task_event_logs if row.event == "pod pending"]


def test_the_scheduler_says_how_far_it_is(executor: RedisKubernetesExecutor, outside: Outside) -> None:
    _, launch_id = hand_over(executor, make_task_instances()[0])
    outside.publish(launch_id, "pending")
    beat(executor)
    outside.publish(launch_id, "started")
    executor.parts.key_check._next_run_s = 0.0
    executor.parts.key_check.run_once()
    client = redis.Redis.from_url(executor.settings.redis_url)
    (found,) = read_overview(client, outside.names, "default", time.time())["schedulers"]
    assert found.pop("last_update_s_ago") < 5
    assert found == {"name": executor.scheduler_job_id, "version": podrelay.__version__, "launches": 1, "unread": 1}


def test_a_task_that_waits_for_a_launcher_gets_an_event_that_there_is_none(
    executor: RedisKubernetesExecutor, outside: Outside
) -> None:
    """Within 15 s of the hand-over and once a minute; not for a task with a pod, and not while a launcher is alive."""
    settings = load_settings(airflow_conf, FERNET_KEY)
    queue = outside.names.launch_queue("default")
    rq_worker = Registration(
        settings, outside.names.worker_name("default", "host-1-aa"), [queue], lambda: (0, 0, False), LauncherSnapshot
    )
    rq_worker._heartbeat()
    worker = outside.names.worker("default", "host-1-aa")
    assert outside.redis.ttl(worker) > 55  # what `liveness` relies on
    first, second = make_task_instances(2)
    key, _ = hand_over(executor, first)
    _, has_pod = hand_over(executor, second)
    outside.create(has_pod)
    began = time.monotonic()
    while time.monotonic() - began < 4.0:
        beat(executor)
        time.sleep(0.1)
    assert waits_logged(executor) == []
    outside.redis.expire(worker, 40)  # it was killed 20 s ago
    beat(executor, until=lambda: waits_logged(executor))
    time.sleep(0.5)
    beat(executor)
    (logged,) = waits_logged(executor)
    assert logged.startswith("NoLauncher: ")
    assert "airflow podrelay launcher" in logged
    assert key in executor.running
    rq_worker._unregister()
    assert outside.redis.scard(redis_keys.RQ_WORKERS) == 0


def test_end_can_be_repeated_and_start_follows(executor: RedisKubernetesExecutor, outside: Outside) -> None:
    executor.end()
    executor.end()
    executor.start()
    hand_over(executor, make_task_instances()[0])
    assert len(outside.queued()) == 1
