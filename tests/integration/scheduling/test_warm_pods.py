"""Launches whose pod was started before them: its name says nothing about the launch, its host name in the row does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from cryptography.fernet import Fernet

from podrelay.executor import RedisKubernetesExecutor
from podrelay.protocol import identifiers, jobs, redis_keys
from podrelay.protocol.encryption import PayloadCipher
from podrelay.protocol.messages import CleanupRequest
from podrelay.protocol.starts import UNUSED
from tests.conftest import FERNET_KEY
from tests.harness.redis_server import RedisServer
from tests.harness.task_instances import OWNER, load, make_task_instances, update
from tests.integration.scheduling.conftest import Outside, beat
from tests.integration.scheduling.test_executor import hand_over
from tests.integration.scheduling.test_other_keys import events, publish

Start = Callable[..., RedisKubernetesExecutor]
WARM, OTHER_WARM, STRANGER = (identifiers.warm_pod_name("p", digit * 32) for digit in "abc")
OURS = PayloadCipher(FERNET_KEY, "default")
OTHER = PayloadCipher(Fernet.generate_key().decode(), "default")


def launched(executor: RedisKubernetesExecutor, outside: Outside, pod: str = WARM) -> tuple[str, Any, str]:
    """Task instance, key and launch id of a launch that has a warm pod."""
    ti_id = make_task_instances()[0]
    key, launch_id = hand_over(executor, ti_id)
    beat(executor, until=lambda: key in executor.running)
    outside.create(launch_id, pod)
    return ti_id, key, launch_id


def run(ti_id: str, launch_id: str, pod: str = WARM, state: str = "running") -> None:
    """As the process in the pod reports it."""
    update(ti_id, state=state, hostname=identifiers.warm_host(pod, launch_id, 0))


def requests(outside: Outside) -> list[CleanupRequest]:
    """The clean-ups that were ordered, as a launcher reads them."""
    ids = outside.redis.lrange(redis_keys.rq_queue(outside.names.cleanup_queue("default")), 0, -1)
    data = {job: str(outside.redis.hget(redis_keys.RQ_JOB_PREFIX + job, "data")) for job in ids}  # type: ignore[union-attr]
    return [jobs.read_cleanup(text.encode(), job, "default", OURS) for job, text in data.items()]


def launch_requests(outside: Outside) -> dict[str, bool]:
    """Whether each queued launch is said to be repeated."""
    found = {}
    for job in outside.queued():
        data = str(outside.redis.hget(redis_keys.RQ_JOB_PREFIX + job, "data"))
        found[job] = jobs.read_launch(data.encode(), job, "default", OURS).repeated
    return found


def test_its_end_is_the_end_of_the_task(executor: RedisKubernetesExecutor, outside: Outside) -> None:
    ti_id, key, launch_id = launched(executor, outside)
    run(ti_id, launch_id, state="success")
    outside.publish(launch_id, pod=WARM, uid="u")
    beat(executor, until=lambda: key not in executor.running)
    assert executor.event_buffer[key][0] == "success"
    (request,) = requests(outside)
    assert (request.action, request.pod, request.uid, request.attempt) == ("delete", WARM, "u", 0)
    assert jobs.proves_pod(request), "the report is encrypted, so that no look at the pod is needed"


def test_one_that_ended_without_a_state_failed(
    executor: RedisKubernetesExecutor, outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("podrelay.scheduling.second_looks.SECOND_LOOK_AFTER_S", 0.1)
    ti_id, key, launch_id = launched(executor, outside)
    run(ti_id, launch_id)
    outside.publish(launch_id, pod=WARM, uid="u")
    beat(executor, until=lambda: key in executor.event_buffer)
    assert executor.event_buffer[key][0] == "failed"
    assert [report.pod for report in outside.log_requests()] == [WARM]


def test_a_launch_that_runs_in_a_warm_pod_is_neither_superseded_nor_revoked(
    executor: RedisKubernetesExecutor, outside: Outside
) -> None:
    ti_id, key, launch_id = launched(executor, outside)
    run(ti_id, launch_id)
    for _ in range(3):
        executor.parts.reconciler.schedule_now()
        executor.heartbeat()
    assert key in executor.running
    assert outside.cleanups() == []
    assert outside.ledger(launch_id)["state"] == "created"
    executor.revoke_task(ti=load(ti_id))  # its task began before
    executor.heartbeat()
    assert outside.cleanups() == []


def test_a_revoked_one_is_known_from_the_ledger_only(executor: RedisKubernetesExecutor, outside: Outside) -> None:
    ti_id, _, launch_id = launched(executor, outside)
    executor.revoke_task(ti=load(ti_id))
    beat(executor, until=lambda: outside.ledger(launch_id)["state"] == "withdrawn" and outside.cleanups())
    (request,) = requests(outside)
    assert (request.action, request.pod, request.attempt) == ("revoke", WARM, None)
    assert not jobs.proves_pod(request)


def test_one_that_never_got_its_workload_is_replaced_without_a_failure(
    executor: RedisKubernetesExecutor, outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__KUBERNETES_EXECUTOR__POD_LAUNCH_FAILURE_RETRIES", "0")
    _, key, launch_id = launched(executor, outside)
    outside.publish(launch_id, "failed", pod=WARM, uid="u", reason=UNUSED, failure_class="infrastructure")
    beat(executor, until=lambda: outside.ledger(launch_id)["attempt"] == "1")
    entry = outside.ledger(launch_id)
    assert (entry["state"], entry["relaunches"]) == ("offered", "0")
    assert key in executor.running
    assert key not in executor.event_buffer
    assert outside.cleanups() == [f"delete pod default/{WARM}"]
    ((event, text),) = events(executor)
    assert event == "pod replaced"
    assert WARM in text
    assert launch_requests(outside) == {identifiers.job_id(launch_id, 1): False}


@pytest.mark.parametrize("unused", [False, True])
def test_the_end_of_the_second_of_two_pods_fails_nothing(
    executor: RedisKubernetesExecutor, outside: Outside, caplog: pytest.LogCaptureFixture, unused: bool
) -> None:
    """Redis lost its last writes, and the launch was given to another warm pod, which the execution API refused."""
    ti_id, key, launch_id = launched(executor, outside, OTHER_WARM)
    # Where pods share the host name of their machine, only the reason of the end distinguishes the two.
    run(ti_id, launch_id, "machine" if unused else WARM)
    how = {"reason": UNUSED} if unused else {"container_reason": "Error", "exit_code": 1}
    outside.publish(launch_id, "failed", pod=OTHER_WARM, uid="u", **how)
    beat(executor, until=outside.cleanups)
    for _ in range(3):
        executor.parts.reconciler.schedule_now()
        executor.heartbeat()
    assert key not in executor.event_buffer
    assert key in executor.running, "it occupies a slot"
    assert caplog.text.count("the task runs in another one of the same launch") == 1
    assert [request.pod for request in requests(outside)] == [OTHER_WARM]
    run(ti_id, launch_id, WARM, "success")
    publish(outside, launch_id, OURS, pod=WARM, uid="w")  # the watcher replaces the end of the other pod
    executor.parts.reconciler.schedule_now()
    beat(executor, until=lambda: key not in executor.running)
    assert executor.event_buffer[key][0] == "success"


# --- forged fields of the ledger ----------------------------------------------------------------------------------
def test_an_unreadable_end_names_a_pod_whose_labels_are_to_be_compared(
    executor: RedisKubernetesExecutor, outside: Outside
) -> None:
    ti_id, key, launch_id = launched(executor, outside)
    run(ti_id, launch_id, state="success")
    publish(outside, launch_id, OTHER, pod=WARM, uid="u")
    outside.redis.hset(outside.names.launch(launch_id), "pod", STRANGER)
    beat(executor, until=lambda: key not in executor.running)
    (request,) = requests(outside)
    assert (request.action, request.pod, request.attempt) == ("delete", STRANGER, None)
    assert not jobs.proves_pod(request)


def test_an_orphans_unreadable_end_names_a_pod_whose_labels_are_to_be_compared(
    start_executor: Start, outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("podrelay.scheduling.orphans.ABANDONED_AFTER_S", 0.2)
    first = start_executor()
    ti_id, _, launch_id = launched(first, outside)
    run(ti_id, launch_id, state="success")
    publish(outside, launch_id, OTHER, pod=STRANGER, uid="u")
    first._breaker.close()
    second = start_executor(OWNER + 1)
    beat(second, until=outside.cleanups)
    (request,) = requests(outside)
    assert (request.action, request.pod, request.attempt) == ("delete", STRANGER, None)


def test_a_forged_name_hides_no_end_and_moves_no_report(executor: RedisKubernetesExecutor, outside: Outside) -> None:
    ti_id, key, launch_id = launched(executor, outside)
    run(ti_id, launch_id)
    outside.redis.hset(
        outside.names.launch(launch_id), mapping={"pod": STRANGER, "uid": "x", "namespace": "kube-system"}
    )
    update(ti_id, state="success")
    outside.publish(launch_id, pod=WARM, uid="u")
    outside.redis.hset(
        outside.names.launch(launch_id), mapping={"pod": STRANGER, "uid": "x", "namespace": "kube-system"}
    )
    beat(executor, until=lambda: key not in executor.running)
    (request,) = requests(outside)
    assert (request.pod, request.uid, request.namespace) == (WARM, "u", "default")


@pytest.mark.parametrize("pod", [STRANGER, "of the attempt"])
def test_a_forged_name_holds_no_slot_without_end(
    executor: RedisKubernetesExecutor, outside: Outside, monkeypatch: pytest.MonkeyPatch, pod: str
) -> None:
    """The end of a pod that the ledger calls condemned is ignored while the ledger names its successor."""
    monkeypatch.setattr("podrelay.scheduling.reconciler.UNWATCHED_END_S", 0.3)
    ti_id, key, launch_id = launched(executor, outside)
    other_ti, other_key, other = launched(executor, outside, OTHER_WARM)
    name = pod if pod == STRANGER else identifiers.pod_name("p", launch_id, 0)
    outside.redis.hset(outside.names.launch(launch_id), mapping={"condemned": WARM, "pod": name})
    run(ti_id, launch_id, WARM, "success")
    run(other_ti, other, OTHER_WARM, "success")
    beat(executor, until=lambda: key not in executor.running)
    rows = [text for event, text in events(executor) if event == "pod not followed"]
    assert len(rows) == 1
    assert "the ledger names another pod" in rows[0]
    assert WARM in rows[0]
    assert other_key in executor.running, "the watcher follows its pod"
    outside.publish(other, pod=OTHER_WARM, uid="u")
    beat(executor, until=lambda: other_key not in executor.running)


@pytest.mark.parametrize(
    ("host", "fails"),
    [
        (WARM + ".{hex}-0", True),
        (WARM + ".{hex}-1", False),
        (OTHER_WARM + ".{hex}-0", False),
        (WARM + ".{hex}", True),
        (WARM, True),
        ("machine-1.{hex}-0", True),
        ("{hex}-0." + WARM, True),
    ],
)
def test_which_hosts_name_another_pod(
    executor: RedisKubernetesExecutor, outside: Outside, host: str, fails: bool
) -> None:
    """A host name that names no pod of ours counts as this launch's, as in the stock executor."""
    ti_id, key, launch_id = launched(executor, outside)
    update(ti_id, state="running", hostname=host.format(hex=launch_id.replace("-", "")))
    outside.publish(launch_id, "failed", pod=WARM, uid="u")
    beat(executor, until=outside.cleanups)
    assert (key in executor.event_buffer) is fails


# --- launches that Redis may have had -----------------------------------------------------------------------------
def test_what_redis_lost_is_offered_as_repeated(executor: RedisKubernetesExecutor, outside: Outside) -> None:
    _, launch_id = hand_over(executor, make_task_instances()[0])
    beat(executor, until=lambda: len(outside.queued()) == 1)
    job = identifiers.job_id(launch_id, 0)
    assert launch_requests(outside) == {job: False}
    outside.redis.flushall()
    beat(executor, until=lambda: outside.queued() == [job])
    assert launch_requests(outside) == {job: True}


def test_an_offer_without_an_answer_is_repeated(
    executor: RedisKubernetesExecutor, redis_server: RedisServer, outside: Outside
) -> None:
    """Redis may have taken it, and lost it since in a failover."""
    first, later = make_task_instances(2)
    executor.parts.dispatcher.hand_over([])
    redis_server.pause()
    try:
        hand_over(executor, first)
    finally:
        redis_server.resume()
    outside.redis.flushall()
    beat(executor, until=lambda: len(executor.running) == 1)
    _, later_launch = hand_over(executor, later)
    beat(executor, until=lambda: len(outside.queued()) == 2)
    first_launch = str(load(first).external_executor_id)
    assert launch_requests(outside) == {
        identifiers.job_id(first_launch, 0): True, identifiers.job_id(later_launch, 0): False,
    }  # fmt: skip
    assert executor.parts.dispatcher._queue._in_doubt == {}


# --- rows of the event log ----------------------------------------------------------------------------------------
def begin(outside: Outside, launch_id: str, start: str) -> None:
    """Write what `assign.lua` writes about how the first attempt begins."""
    outside.redis.hset(outside.names.launch(launch_id), mapping={"start": start, "warm_attempt": "0"})


def test_one_row_says_how_the_pod_began(executor: RedisKubernetesExecutor, outside: Outside) -> None:
    ti_id, key, launch_id = launched(executor, outside)
    begin(outside, launch_id, "warm")
    assert outside.publish(launch_id, "started", pod=WARM, uid="u") == 1
    beat(executor, until=lambda: events(executor))
    run(ti_id, launch_id, state="success")
    assert outside.publish(launch_id, pod=WARM, uid="u") == 1
    beat(executor, until=lambda: key not in executor.running)
    assert events(executor) == [("pod started", f"a warm pod\nLaunch {launch_id}, attempt 0, pod default/{WARM}")]


def test_a_pod_that_ended_at_once_has_its_row_too(executor: RedisKubernetesExecutor, outside: Outside) -> None:
    ti_id, key, launch_id = launched(executor, outside)
    begin(outside, launch_id, "no_idle_pod")
    update(ti_id, state="success")
    outside.publish(launch_id, pod=WARM, uid="u")
    beat(executor, until=lambda: key not in executor.running)
    ((event, text),) = events(executor)
    assert (event, text.splitlines()[0]) == ("pod started", "a new pod: no warm pod of its shape was idle")


@pytest.mark.parametrize("start", [None, "", "cold", "\x1b[2J", "x" * 5000])
def test_without_a_known_word_there_is_no_row(
    executor: RedisKubernetesExecutor, outside: Outside, start: str | None
) -> None:
    ti_id, key, launch_id = launched(executor, outside)
    if start is not None:
        begin(outside, launch_id, start)
    outside.publish(launch_id, "started", pod=WARM, uid="u")
    update(ti_id, state="success")
    outside.publish(launch_id, pod=WARM, uid="u")
    beat(executor, until=lambda: key not in executor.running)
    assert events(executor) == []
