"""Unsealed fields in Redis may be forged. A forged launch must not affect any other."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable

import pytest
from airflow.models.taskinstancekey import TaskInstanceKey

from podrelay.executor import RedisKubernetesExecutor
from podrelay.protocol import identifiers, redis_keys
from podrelay.protocol.redis_keys import RedisKeys
from podrelay.scheduling.heartbeat_budget import COMPARISON_BATCH
from podrelay.store.key_rings import KeyRing, announce, read_rings
from podrelay.store.liveness import registered_launchers, without_launcher
from tests.harness.task_instances import load, make_task_instances, update
from tests.integration.scheduling.conftest import Outside, beat
from tests.integration.scheduling.test_executor import hand_over

Forge = Callable[[Outside, str], object]


def fields(**values: str | bytes) -> Forge:
    return lambda outside, key: outside.redis.hset(key, mapping=values)  # type: ignore[arg-type]


def another_type(outside: Outside, key: str) -> None:
    outside.redis.delete(key)
    outside.redis.set(key, "x")


FORGED: dict[str, Forge] = {
    "an attempt that is no number": fields(attempt="x"),
    "no text at all": fields(attempt=b"\xff\xfe", state=b"\xff", pod=b"\xff", namespace=b"\xff", uid=b"\xff"),
    "a number of another kind": fields(attempt="1e3", relaunches="x"),
    "more digits than are read": fields(attempt="9" * 5000, relaunches="9" * 5000),
    "a later attempt": fields(attempt="7", relaunches="-1000"),
    "times": fields(t_offered="x", t_reported="x", state="offered"),
    "an end without time": fields(t_reported="x", state="finished", result="x"),
    "a key of another type": another_type,
}


@pytest.mark.parametrize("revoked", [False, True])
@pytest.mark.parametrize("forge", FORGED.values(), ids=FORGED.keys())
def test_one_forged_launch_holds_up_no_other(
    executor: RedisKubernetesExecutor, outside: Outside, forge: Forge, revoked: bool
) -> None:
    forged_ti, good_ti = make_task_instances(2)
    _, forged = hand_over(executor, forged_ti)
    good_key, good = hand_over(executor, good_ti)
    forge(outside, outside.names.launch(forged))
    if revoked:
        executor.revoke_task(ti=load(forged_ti))
    executor.parts.reconciler.schedule_now()
    executor.heartbeat()
    # Its entry is lost: only a comparison that reaches this launch hands it over again.
    outside.redis.delete(outside.names.launch(good), redis_keys.RQ_JOB_PREFIX + identifiers.job_id(good, 0))
    executor.parts.reconciler.schedule_now()
    beat(executor, until=lambda: outside.ledger(good).get("state") == "offered")
    update(good_ti, state="success")
    outside.publish(good, pod=identifiers.pod_name("p", good, 0), uid="u")
    beat(executor, until=lambda: good_key not in executor.running)


def test_a_job_key_of_another_type_holds_up_nothing(executor: RedisKubernetesExecutor, outside: Outside) -> None:
    (_, forged), (_, good) = (hand_over(executor, ti_id) for ti_id in make_task_instances(2))
    forged_job, good_job = (redis_keys.RQ_JOB_PREFIX + identifiers.job_id(launch, 0) for launch in (forged, good))
    another_type(outside, forged_job)
    outside.redis.delete(good_job)
    executor.parts.reconciler.schedule_now()
    beat(executor, until=lambda: outside.redis.exists(good_job))
    beat(executor, until=lambda: outside.redis.type(forged_job) == "hash")


@pytest.mark.parametrize("forge", FORGED.values(), ids=FORGED.keys())
def test_the_end_of_a_forged_launch_holds_up_no_other(
    executor: RedisKubernetesExecutor, outside: Outside, forge: Forge
) -> None:
    """Its sealed result is genuine, the fields beside it are not."""
    forged_ti, good_ti = make_task_instances(2)
    (forged_key, forged), (good_key, good) = hand_over(executor, forged_ti), hand_over(executor, good_ti)
    for ti, launch in ((forged_ti, forged), (good_ti, good)):
        update(ti, state="success")
        outside.publish(launch, pod=identifiers.pod_name("p", launch, 0), uid="u")
    forge(outside, outside.names.launch(forged))
    beat(executor, until=lambda: good_key not in executor.running and forged_key not in executor.running)


def test_a_publication_replaces_what_was_forged(executor: RedisKubernetesExecutor, outside: Outside) -> None:
    for forge in (FORGED["an attempt that is no number"], another_type):
        launch = str(uuid.uuid4())
        forge(outside, outside.names.launch(launch))
        assert outside.publish(launch, pod=identifiers.pod_name("p", launch, 0)) == 1
        assert outside.ledger(launch)["state"] == "finished"


def test_nobodys_forged_launches_are_swept_away(
    executor: RedisKubernetesExecutor, outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("podrelay.scheduling.orphans.ABANDONED_AFTER_S", 0.0)
    for forge in FORGED.values():
        launch = str(uuid.uuid4())
        forge(outside, outside.names.launch(launch))
        outside.redis.zadd(outside.names.unacknowledged, {launch: 1.0})
        outside.redis.zadd(outside.names.live("default"), {launch: 1.0})
    good = str(uuid.uuid4())
    outside.publish(good, pod=identifiers.pod_name("p", good, 0), uid="u")
    time.sleep(0.01)
    executor.parts.reconciler.schedule_now()
    beat(executor, until=outside.cleanups)
    assert outside.cleanups() == [f"delete pod default/{identifiers.pod_name('p', good, 0)}"]


def running(executor: RedisKubernetesExecutor, outside: Outside) -> tuple[str, TaskInstanceKey, str, str]:
    """A task that runs: its id, key, launch id and pod."""
    ti_id = make_task_instances()[0]
    key, launch = hand_over(executor, ti_id)
    pod = identifiers.pod_name("p", launch, 0)
    outside.create(launch, pod)
    update(ti_id, state="running", hostname=pod)
    return ti_id, key, launch, pod


@pytest.mark.parametrize("compared", [True, False], ids=["compared first", "at once"])
@pytest.mark.parametrize("state", ["finished", "acknowledged"])
def test_no_end_can_be_hidden_behind_a_forged_one(
    executor: RedisKubernetesExecutor, outside: Outside, state: str, compared: bool
) -> None:
    """Whoever can write to Redis names an end: the real one still frees the slot, and the forgery is in quarantine."""
    ti_id, key, launch, pod = running(executor, outside)
    outside.redis.hset(outside.names.launch(launch), "state", state)
    if compared:
        executor.parts.reconciler.schedule_now()
        executor.heartbeat()
        assert key in executor.running
        ((_, entry),) = outside.redis.xrange(outside.names.quarantine)
        assert entry == {"job": launch, "kind": "no_report", "why": "the ledger names an end without a report"}
    update(ti_id, state="success")
    outside.publish(launch, pod=pod, uid="u")
    beat(executor, until=lambda: key not in executor.running)
    assert executor.event_buffer[key][0] == "success"


def test_a_report_that_names_no_key_hides_no_end(executor: RedisKubernetesExecutor, outside: Outside) -> None:
    ti_id, key, launch, pod = running(executor, outside)
    outside.redis.hset(outside.names.launch(launch), mapping={"state": "finished", "outcome": "x", "result": "x"})
    executor.parts.reconciler.schedule_now()
    executor.heartbeat()
    assert key in executor.running
    update(ti_id, state="success")
    outside.publish(launch, pod=pod, uid="u")
    beat(executor, until=lambda: key not in executor.running)


@pytest.mark.parametrize("outcome", ["failed", "expired"])
def test_a_report_that_denies_the_pod_of_a_running_task_is_ignored(
    executor: RedisKubernetesExecutor, outside: Outside, outcome: str
) -> None:
    """A launcher reports that if somebody offers a recorded launch again, and the pod is not found for whatever reason."""
    ti_id, key, launch, pod = running(executor, outside)
    outside.publish(launch, outcome, reason="LauncherCrashed")
    for _ in range(3):
        executor.parts.reconciler.schedule_now()
        executor.heartbeat()
    assert key in executor.running
    assert key not in executor.event_buffer
    assert executor.launches.get(launch) is not None
    update(ti_id, state="success")
    executor.parts.reconciler.schedule_now()
    beat(executor, until=lambda: key not in executor.running)
    assert executor.event_buffer.get(key, ("success", None))[0] == "success"


SHARED: dict[str, Callable[[RedisKeys], str]] = {
    "current": lambda keys: keys.current,
    "results": lambda keys: keys.results,
    "unacknowledged": lambda keys: keys.unacknowledged,
    "live": lambda keys: keys.live("default"),
    "fair queues": lambda keys: keys.fair_queues("default"),
    "quarantine": lambda keys: keys.quarantine,
    "key rings": lambda keys: keys.key_rings,
    "epoch": lambda keys: keys.epoch,
    "queues": lambda keys: redis_keys.RQ_QUEUES,
    "workers": lambda keys: redis_keys.RQ_WORKERS,
    "launch queue": lambda keys: redis_keys.rq_queue(keys.launch_queue("default")),
    "clean-up queue": lambda keys: redis_keys.rq_queue(keys.cleanup_queue("default")),
}


@pytest.mark.parametrize("name", SHARED)
@pytest.mark.parametrize("write", ["set", "rpush", "sadd"])
def test_a_shared_key_of_another_type_stops_no_work(
    executor: RedisKubernetesExecutor, outside: Outside, name: str, write: str
) -> None:
    key = SHARED[name](outside.names)
    ti_id, later_ti = make_task_instances(2)
    task_key, launch_id = hand_over(executor, ti_id)
    beat(executor, until=lambda: task_key in executor.running)
    outside.redis.delete(key)
    getattr(outside.redis, write)(key, "x")
    update(ti_id, state="success")
    hand_over(executor, later_ti)
    beat(executor, until=lambda: len(executor.running) == 2)
    executor.parts.reconciler.schedule_now()
    executor.heartbeat()
    outside.publish(launch_id, pod=identifiers.pod_name("p", launch_id, 0), uid="u")
    executor.parts.reconciler.schedule_now()
    beat(executor, until=lambda: task_key not in executor.running)
    assert executor._breaker.available


def test_jobs_whose_list_is_lost_are_offered_again(executor: RedisKubernetesExecutor, outside: Outside) -> None:
    """Each of them looked as if it still waited in that list."""
    ids = [hand_over(executor, ti_id)[1] for ti_id in make_task_instances(3)]
    beat(executor, until=lambda: len(outside.queued()) == 3)
    outside.redis.delete(redis_keys.rq_queue(outside.names.launch_queue("default")))
    executor.parts.reconciler.schedule_now()
    beat(executor, until=lambda: sorted(outside.queued()) == sorted(f"{launch_id}_0" for launch_id in ids))


@pytest.mark.parametrize("due", [None, 1e15, float("inf")])
def test_a_delayed_job_that_would_never_come_due_is_offered_again(
    executor: RedisKubernetesExecutor, outside: Outside, due: float | None
) -> None:
    _, launch_id = hand_over(executor, make_task_instances()[0])
    beat(executor, until=lambda: len(outside.queued()) == 1)
    job, queue = f"{launch_id}_0", outside.names.launch_queue("default")
    outside.redis.lpop(redis_keys.rq_queue(queue))
    outside.redis.hset(redis_keys.RQ_JOB_PREFIX + job, "status", "scheduled")
    outside.redis.hset(outside.names.launch(launch_id), "state", "waiting")
    if due is not None:
        outside.redis.zadd(redis_keys.rq_scheduled(queue), {job: due})
    executor.parts.reconciler.schedule_now()
    beat(executor, until=lambda: outside.queued() == [job])


def test_a_forged_attempt_far_ahead_is_not_followed(executor: RedisKubernetesExecutor, outside: Outside) -> None:
    _, launch_id = hand_over(executor, make_task_instances()[0])
    beat(executor, until=lambda: len(outside.queued()) == 1)
    outside.redis.hset(outside.names.launch(launch_id), "attempt", "999999999")
    executor.parts.reconciler.schedule_now()
    beat(executor, until=lambda: outside.ledger(launch_id)["attempt"] == "0")


@pytest.mark.parametrize(
    "fields", [{}, {"result": "x"}, {"result": "x", "outcome": "x"}], ids=["alone", "report", "outcome"]
)
@pytest.mark.parametrize("state", ["created", "started", "finished", "acknowledged", "queued", ""])
def test_a_forged_state_strands_no_launch(
    executor: RedisKubernetesExecutor, outside: Outside, state: str, fields: dict[str, str]
) -> None:
    """A claim drops the job of a launch that does not wait, by its entry."""
    _, launch_id = hand_over(executor, make_task_instances()[0])
    job = f"{launch_id}_0"
    beat(executor, until=lambda: outside.queued() == [job])
    outside.redis.hset(outside.names.launch(launch_id), mapping={"state": state, **fields})
    assert outside.claim() == []
    executor.parts.reconciler.schedule_now()
    beat(executor, until=outside.claim)


@pytest.mark.parametrize("status", ["deferred", "finished", "scheduled", "started", "x", ""])
def test_a_forged_status_of_a_job_strands_no_launch(
    executor: RedisKubernetesExecutor, outside: Outside, status: str
) -> None:
    """A claim drops a job that is not queued."""
    _, launch_id = hand_over(executor, make_task_instances()[0])
    job = f"{launch_id}_0"
    beat(executor, until=lambda: outside.queued() == [job])
    outside.redis.hset(redis_keys.RQ_JOB_PREFIX + job, "status", status)
    assert outside.claim() == []
    executor.parts.reconciler.schedule_now()
    beat(executor, until=outside.claim)


@pytest.mark.parametrize("state", ["x", ""])
def test_a_forged_state_hides_no_pod(executor: RedisKubernetesExecutor, outside: Outside, state: str) -> None:
    """The leading watcher looks only for the pods of launches that have one, by their entries."""
    _, _, launch_id, _ = running(executor, outside)
    outside.redis.hset(outside.names.launch(launch_id), "state", state)
    executor.parts.reconciler.schedule_now()
    beat(executor, until=lambda: outside.ledger(launch_id)["state"] == "created")


@pytest.mark.parametrize("compared", [True, False], ids=["compared first", "at once"])
def test_no_end_can_be_hidden_behind_a_forged_attempt(
    executor: RedisKubernetesExecutor, outside: Outside, compared: bool
) -> None:
    ti_id, key, launch_id, pod = running(executor, outside)
    outside.redis.hset(outside.names.launch(launch_id), "attempt", "7")
    if compared:
        executor.parts.reconciler.schedule_now()
        executor.heartbeat()
        assert key in executor.running
    update(ti_id, state="success")
    assert outside.publish(launch_id, pod=pod, uid="u") == 1
    beat(executor, until=lambda: key not in executor.running)
    assert executor.event_buffer[key][0] == "success"
    beat(executor, until=lambda: outside.cleanups() == [f"delete pod default/{pod}"])


def test_an_end_without_a_pod_is_not_taken_for_that_of_an_earlier_pod(outside: Outside) -> None:
    """After a loss of data, the earlier pod's report may be written first: then the entry names that pod."""
    launch_id = str(uuid.uuid4())
    earlier = identifiers.pod_name("p", launch_id, 0)
    assert outside.publish(launch_id, "started", pod=earlier, uid="u") == 1
    assert outside.publish(launch_id, "failed", attempt=1) == 1
    assert outside.publish(launch_id, "failed", pod=earlier, uid="u") == -1
    entry = outside.ledger(launch_id)
    assert (entry["attempt"], entry["outcome"], entry.get("pod")) == ("1", "failed", None)


def test_members_that_are_no_launch_ids_hide_no_unacknowledged_end(
    executor: RedisKubernetesExecutor, outside: Outside
) -> None:
    odd = {b"\xff%d" % number: 0.0 for number in range(COMPARISON_BATCH)}
    outside.redis.zadd(outside.names.unacknowledged, {**odd, b"honest": 1.0})
    ledger = executor.parts.reconciler._ledger
    assert ledger.unacknowledged(time.time(), 0, COMPARISON_BATCH) == []
    assert ledger.unacknowledged(time.time(), 0, COMPARISON_BATCH) == ["honest"]


def test_odd_registrations_of_launchers_are_left_out(executor: RedisKubernetesExecutor, outside: Outside) -> None:
    outside.redis.sadd(redis_keys.RQ_WORKERS, outside.names.results, "rq:worker:list", b"\xff", "rq:worker:gone")
    outside.redis.rpush("rq:worker:list", "x")
    find = executor._breaker.call
    assert find(lambda client: registered_launchers(client, outside.names, "default")) == []
    assert without_launcher(executor._breaker, outside.names, "default", ["l"], time.time()) == []
    assert executor._breaker.available


def test_announcements_are_bounded(executor: RedisKubernetesExecutor, outside: Outside) -> None:
    rings = {f"launcher {number}": f"{number:08x} {time.time():.3f}" for number in range(2500)}
    outside.redis.hset(outside.names.key_rings, mapping=rings)
    me = KeyRing("scheduler me", ("cc",))
    announce_me = announce(outside.names, me)
    assert [ring.process for ring in read_rings(executor._breaker.run(announce_me))] == []
    outside.redis.hset(
        outside.names.key_rings, mapping={"launcher x": "aa 1e15", "launcher y": f"bb {time.time():.3f}"}
    )
    found = {ring.process for ring in read_rings(executor._breaker.run(announce_me))}
    assert found == {"launcher y", me.process}
