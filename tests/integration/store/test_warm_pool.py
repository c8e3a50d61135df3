"""The pool of warm pods on a real Redis: who gets a pod, when, and what the keeper sees."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from podrelay.protocol.mailbox import Delivery
from podrelay.store.scripts import UNFENCED, HeldJob
from tests.harness.warm_rig import (
    CLUSTER,
    KEYS,
    LEASES,
    OTHER_SHAPE,
    SHAPE,
    WarmRig,
    launch_of,
    mailbox,
    new_pod,
)


@pytest.fixture
def rig(redis_url: str) -> Iterator[WarmRig]:
    rig = WarmRig(redis_url)
    yield rig
    rig.close()


# --- assignment -------------------------------------------------------------------------------------------------------
def test_a_launch_gets_an_idle_pod_and_its_workload(rig: WarmRig) -> None:
    job, pod = rig.assigned()
    entry = rig.ledger(job)
    assert (entry["warm_pod"], entry["warm_id"], entry["start"]) == (pod.pod, pod.warm_id, "warm")
    assert "delivered" not in entry
    assert rig.taken(pod) == [False]
    assert rig.deliver(job, pod) == "delivered"
    assert rig.ledger(job)["delivered"] == "1"
    assert abs(float(rig.ledger(job)["t_started"]) - time.time()) < 5
    assert rig.take(pod) == Delivery(launch_of(job), 0, '{"token": "t"}')
    assert rig.taken(pod, new_pod()) == [True, False]
    assert 0 < rig.redis.ttl(KEYS.mailbox_taken(mailbox(pod))) <= 600
    assert rig.publish(job, "started", pod.pod, fence=UNFENCED) == 1
    assert rig.created(job, pod.pod) == "ok"
    assert rig.state(job) == "started"
    assert rig.publish(job, "succeeded", pod.pod) == 1
    assert rig.state(job) == "finished"


def test_the_oldest_idle_pod_comes_first(rig: WarmRig) -> None:
    pods = [rig.idle_pod() for _ in range(3)]
    for pod in pods:
        found = rig.assign(rig.offered_job()).pod
        assert found == pod
    assert rig.assign(rig.offered_job()).why == "no_idle_pod"


def test_a_pod_that_is_about_to_end_is_not_given(rig: WarmRig) -> None:
    old, young = rig.idle_pod(), rig.idle_pod()
    rig.redis.zadd(KEYS.warm_idle(CLUSTER, SHAPE), {old.warm_id: time.time() - 297})
    assert rig.assign(rig.offered_job(), idle_s=300.0).pod == young
    assert rig.assign(rig.offered_job(), idle_s=300.0).why == "no_idle_pod"
    assert rig.assign(rig.offered_job(), idle_s=400.0).pod == old


def test_a_pod_without_a_sign_of_life_is_not_given_until_it_is_back(rig: WarmRig) -> None:
    pod = rig.idle_pod()
    rig.stop(pod)
    assert rig.assign(rig.offered_job()).why == "no_idle_pod"
    (found,) = rig.keep().pods
    assert (found.warm_id, found.alive) == (pod.warm_id, False)
    assert found.idle_s is not None, "it was ready once"
    rig.renew(pod)
    (found,) = rig.keep().pods
    assert found.alive
    assert rig.assign(rig.offered_job()).pod == pod


def test_a_pod_that_is_back_ends_when_it_would_have_ended_anyway(rig: WarmRig) -> None:
    pod = rig.idle_pod()
    rig.redis.zadd(KEYS.warm_idle(CLUSTER, SHAPE), {pod.warm_id: time.time() - 200})
    rig.stop(pod)
    rig.assign(rig.offered_job())
    for alive in (False, True):
        if alive:
            rig.renew(pod)
        (found,) = rig.keep().pods
        assert found.idle_s == pytest.approx(200, abs=5)


def test_any_number_of_silent_pods_hides_no_other_for_long(rig: WarmRig) -> None:
    silent = [rig.idle_pod() for _ in range(70)]
    alive = rig.idle_pod()
    for pod in silent:
        rig.stop(pod)
    rig.renew(alive)
    assert [rig.assign(rig.offered_job()).pod for _ in range(2)] == [None, alive]
    rig.keep()
    states = {(found.idle_s is not None, found.alive) for found in rig.keep().pods}
    assert states == {(True, False)}


@pytest.mark.parametrize(("shape", "why"), [(OTHER_SHAPE, "new_shape"), (SHAPE, "no_idle_pod")])
def test_a_cold_launch_has_its_reason_in_the_ledger(rig: WarmRig, shape: str, why: str) -> None:
    rig.save_shape(SHAPE)
    job = rig.offered_job()
    found = rig.assign(job, shape)
    assert (found.word, found.why, rig.ledger(job)["start"]) == ("cold", why, why)


def test_a_launch_that_is_to_get_no_pod_gets_none(rig: WarmRig) -> None:
    rig.idle_pod()
    job = rig.offered_job()
    found = rig.assign(job, "", why="not_eligible")
    assert (found.word, found.why, rig.ledger(job)["start"]) == ("cold", "not_eligible", "not_eligible")
    assert not rig.redis.exists(KEYS.warm_arrivals(CLUSTER))


def test_a_pool_that_is_off_gives_no_pod_until_its_time_is_over(rig: WarmRig) -> None:
    pod = rig.idle_pod()
    assert rig.call(rig.pool.switch_off(SHAPE, 60.0, "image x: no module podrelay_workers"))
    assert not rig.call(rig.pool.switch_off(SHAPE, 60.0, "again")), "it was off: no second warning"
    assert rig.assign(rig.offered_job()).why == "pool_off"
    state = rig.keep().shapes[SHAPE]
    assert 50 < state.off_s <= 60
    assert state.off_why == "again"
    rig.redis.hset(KEYS.warm_state(CLUSTER), f"{SHAPE} off_until", time.time() - 1)
    assert rig.keep().shapes[SHAPE].off_s == 0
    assert rig.assign(rig.offered_job()).pod == pod


def test_only_the_holder_of_the_lease_gets_a_pod(rig: WarmRig) -> None:
    pod, job = rig.idle_pod(), rig.offered_job()
    lease = f"{job.job_id}:{job.execution_id}"
    rig.redis.zrem(LEASES, lease)
    assert rig.assign(job).word == "lost"
    rig.redis.zadd(LEASES, {lease: time.time() + 60})
    assert rig.assign(job).pod == pod


def test_a_launch_that_was_tried_before_stays_cold(rig: WarmRig) -> None:
    """The request of its former launcher may be on its way: only a pod of the same name cannot double it."""
    rig.idle_pod()
    job = rig.lose(rig.offered_job())
    for _ in range(2):
        assert rig.assign(job).why == "retried"


def test_a_launch_that_is_cold_stays_cold(rig: WarmRig) -> None:
    rig.save_shape()
    job = rig.offered_job()
    assert rig.assign(job).why == "no_idle_pod"
    rig.idle_pod()
    assert rig.assign(job).why == "no_idle_pod"
    assert rig.keep().shapes[SHAPE].misses == 1


def test_a_claimed_job_names_the_warm_pod_of_its_launch(rig: WarmRig) -> None:
    """So a launcher whose warm pods are off goes on with it, and never creates another pod beside it."""
    job, pod = rig.assigned()
    assert rig.reap(job)[0] == 1
    again = rig.claim_row("e")
    assert again[11] == pod.pod
    requeued, crashed = rig.reap(HeldJob(job.job_id, "e", job.queue, "launch"), losses_max=0)
    assert (requeued, crashed[0], crashed[3]) == (0, job.job_id, pod.pod)


def test_another_attempt_has_no_warm_pod_yet(rig: WarmRig) -> None:
    job, pod = rig.delivered()
    assert rig.publish(job, "failed", pod.pod) == 1
    rig.offer(launch_of(job), attempt=1)
    assert {"warm_pod", "warm_id", "warm_record", "delivered", "condemned", "start"}.isdisjoint(rig.ledger(job))
    second, other = rig.claim(), rig.idle_pod()
    assert rig.assign(second).pod == other
    assert rig.publish(job, "failed", pod.pod) == -1


# --- the keeper -------------------------------------------------------------------------------------------------------
def test_one_launcher_keeps_the_pool(rig: WarmRig) -> None:
    other = rig.launcher("b")
    assert rig.keep().acquired
    assert not rig.keep().acquired
    assert rig.call(other.keep(60.0, 10)) is None
    rig.call(rig.pool.resign())
    assert rig.keep(other).acquired
    assert rig.call(rig.pool.keep(60.0, 10)) is None
    rig.call(rig.pool.resign())
    assert not rig.keep(other).acquired, "who does not keep the pool cannot give it up"
    rig.redis.hset(KEYS.warm_state(CLUSTER), "expires", time.time() - 1)
    assert rig.keep().acquired


def test_the_keeper_finds_out_that_redis_lost_its_data(rig: WarmRig) -> None:
    rig.keep()
    rig.lose_all_data()
    assert rig.keep().acquired


def test_a_pod_is_idle_once_it_gives_a_sign_of_life(rig: WarmRig) -> None:
    rig.save_shape()
    pod = rig.starting_pod()
    (found,) = rig.keep().pods
    assert (found.warm_id, found.shape, found.idle_s, found.alive) == (pod.warm_id, SHAPE, None, False)
    assert 0 <= found.age_s < 5
    rig.renew(pod)
    assert rig.assign(rig.offered_job()).why == "no_idle_pod"
    (found,) = rig.keep().pods
    assert found.alive
    assert found.idle_s is not None
    assert 0 <= found.idle_s < 5
    assert rig.assign(rig.offered_job()).pod == pod
    assert rig.keep().pods == (), "it is the launch's now"


def test_the_keeper_sees_what_is_needed(rig: WarmRig) -> None:
    rig.idle_pod()
    jobs = [rig.offered_job() for _ in range(3)]
    for job in (*jobs, jobs[0]):
        rig.assign(job)
    rig.assign(rig.offered_job(), OTHER_SHAPE)
    state = rig.keep()
    assert set(state.shapes) == {SHAPE}
    shape = state.shapes[SHAPE]
    assert (shape.hits, shape.misses, len(shape.arrivals)) == (1, 2, 3)
    assert list(shape.arrivals) == sorted(shape.arrivals, reverse=True), "the oldest first"
    assert all(0 <= ago < 10 for ago in shape.arrivals)
    assert 0 <= shape.seen_s < 10
    figures = rig.redis.hgetall(KEYS.warm_state(CLUSTER))
    assert (figures[f"{SHAPE} idle"], figures[f"{SHAPE} starting"], figures["most"]) == ("0", "0", "10")
    rig.starting_pod()
    rig.keep()
    assert rig.redis.hget(KEYS.warm_state(CLUSTER), f"{SHAPE} starting") == "1"


def test_arrivals_are_kept_for_five_minutes(rig: WarmRig) -> None:
    rig.save_shape()
    old = f"{SHAPE}:of-the-past_0"
    for ago_s, number in ((301, 0), (299, 1)):
        rig.redis.zadd(KEYS.warm_arrivals(CLUSTER), {old: time.time() - ago_s})
        assert len(rig.keep().shapes[SHAPE].arrivals) == number


def test_the_time_until_a_pod_is_ready_is_measured(rig: WarmRig) -> None:
    rig.save_shape()
    assert rig.keep().shapes[SHAPE].ready_s == 0
    for waited_s, mean_s in ((10.0, 10.0), (20.0, 13.0)):
        pod = rig.starting_pod()
        value = rig.redis.hget(KEYS.warm_pods(CLUSTER), pod.warm_id).split(" ")
        value[2] = f"{float(value[2]) - waited_s:.6f}"
        rig.redis.hset(KEYS.warm_pods(CLUSTER), pod.warm_id, " ".join(value))
        rig.renew(pod)
        assert rig.keep().shapes[SHAPE].ready_s == pytest.approx(mean_s, abs=0.5)


def test_what_is_removed_is_given_to_no_launch(rig: WarmRig) -> None:
    pod, taken = rig.idle_pod(), rig.idle_pod()
    assert rig.call(rig.pool.pods([pod.warm_id, "f" * 32])) == [pod, None]
    assert rig.call(rig.pool.remove([pod.warm_id])) == [pod]
    assert rig.assign(rig.offered_job()).pod == taken
    assert rig.call(rig.pool.remove([pod.warm_id, taken.warm_id])) == [None, None], "a launch has got it meanwhile"


def test_the_pod_of_a_shape_is_kept(rig: WarmRig) -> None:
    skeleton = {"spec": {"containers": [{"name": "base", "image": "ä\0"}]}}
    assert rig.call(rig.pool.save_shape(SHAPE, skeleton))
    assert rig.call(rig.pool.skeleton(SHAPE)) == skeleton
    assert rig.call(rig.pool.skeleton(OTHER_SHAPE)) is None
    assert "base" not in rig.redis.hget(KEYS.warm_shapes(CLUSTER), SHAPE)


def test_the_shape_that_was_not_seen_for_longest_makes_room(rig: WarmRig) -> None:
    shapes = [f"{number:016x}" for number in range(65)]
    for shape in shapes[:64]:
        rig.save_shape(shape)
    rig.assign(rig.offered_job(), shapes[0])
    rig.save_shape(shapes[64])
    assert set(rig.keep().shapes) == {*shapes} - {shapes[1]}
    assert not [name for name in rig.redis.hkeys(KEYS.warm_state(CLUSTER)) if name.startswith(shapes[1])]
    rig.save_shape(shapes[2])
    assert len(rig.keep().shapes) == 64, "saved again"


def test_a_shape_that_is_too_long_is_not_kept(rig: WarmRig) -> None:
    assert not rig.call(rig.pool.save_shape(SHAPE, {"spec": "x" * (256 << 10)}))
    assert rig.call(rig.pool.save_shape(SHAPE, {"spec": "x" * (255 << 10)}))
    assert rig.call(rig.pool.skeleton(SHAPE)) == {"spec": "x" * (255 << 10)}


def test_everything_of_a_pool_expires_without_a_keeper(rig: WarmRig) -> None:
    job, _ = rig.delivered()
    rig.idle_pod()
    rig.assign(job)
    keys = [key for key in rig.redis.scan_iter() if ":warm_" in key or ":mailbox:" in key]
    assert {key.split(":")[2] for key in keys} == {
        "warm_state", "warm_pods", "warm_shapes", "warm_arrivals", "warm_idle", "mailbox"
    }  # fmt: skip
    assert [key for key in keys if not 0 < rig.redis.ttl(key) <= 86_400] == []
