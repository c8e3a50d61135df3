"""Races about one warm pod, on a real Redis: whatever happens between two steps, one pod at most gets a launch's workload.

The pod moves its workload out of the mailbox, another launcher takes the job over, the pod ends, the launch is withdrawn,
Redis loses its data: each between any two steps of the launcher.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from podrelay.protocol import identifiers
from podrelay.protocol.messages import WarmPod
from podrelay.store.scripts import UNFENCED, HeldJob
from tests.harness.warm_rig import CLUSTER, KEYS, LEASES, SHAPE, WarmRig, launch_of, mailbox

WARM_FIELDS = {"warm_pod", "warm_id", "warm_record", "delivered", "condemned", "start", "warm_attempt"}


@pytest.fixture
def rig(redis_url: str) -> Iterator[WarmRig]:
    rig = WarmRig(redis_url)
    yield rig
    rig.close()


def cold_pod(job: HeldJob) -> str:
    return identifiers.pod_name("etl", launch_of(job), 0)


# --- a pod gets one launch, a launch gets one pod (I1) ----------------------------------------------------------------
def test_two_launches_never_get_the_same_pod(rig: WarmRig) -> None:
    pod, jobs = rig.idle_pod(), [rig.offered_job() for _ in range(2)]
    assert rig.assign(jobs[0]).pod == pod
    assert rig.assign(jobs[1]).why == "no_idle_pod"


def test_a_launch_that_asks_again_has_the_pod_that_it_had(rig: WarmRig) -> None:
    """The answer was lost: a second pod must not leave the pool."""
    job, pod = rig.assigned()
    other = rig.idle_pod()
    for delivered in (False, True):
        again = rig.assign(job)
        assert (again.word, again.pod, again.delivered) == ("again", pod, delivered)
        rig.deliver(job, pod)
    assert [found.warm_id for found in rig.keep().pods] == [other.warm_id]
    assert (rig.keep().shapes[SHAPE].hits, len(rig.keep().shapes[SHAPE].arrivals)) == (1, 1)


@pytest.mark.parametrize("why", ["", "not_eligible", "pool_off"])
def test_another_launcher_goes_on_with_the_pod_of_the_launch(rig: WarmRig, why: str) -> None:
    """Also one whose own warm pods are off: it never creates a pod beside this one."""
    first, pod = rig.assigned()
    second = rig.lose(first)
    again = rig.assign(second, "" if why else SHAPE, why=why)
    assert (again.word, again.pod) == ("again", pod)
    assert rig.ledger(second)["start"] == "warm"
    assert rig.deliver(first, pod) == "lost"
    assert rig.take_back(first, pod) == "lost"
    assert rig.deliver(second, pod) == "delivered"
    assert rig.redis.llen(KEYS.mailbox_in(mailbox(pod))) == 1


def test_a_workload_is_delivered_once(rig: WarmRig) -> None:
    """By a launcher that repeats itself, and by the next one after the end of its lease, before and after the pod took it."""
    job, pod = rig.delivered()
    assert rig.deliver(job, pod) == "delivered"
    second = rig.lose(job)
    assert rig.deliver(second, pod) == "delivered"
    assert rig.redis.llen(KEYS.mailbox_in(mailbox(pod))) == 1
    assert rig.take(pod) is not None
    third = rig.lose(second)
    assert rig.assign(third).delivered
    assert rig.deliver(third, pod) == "delivered"
    assert rig.take(pod) is None


def test_the_same_attempt_offered_again_keeps_its_pod(rig: WarmRig) -> None:
    """Its RQ job was deleted: the executor offers the attempt again."""
    job, pod = rig.delivered()
    rig.redis.delete(f"rq:job:{job.job_id}", LEASES)
    rig.offer(launch_of(job))
    assert rig.claim_row("e")[11] == pod.pod
    again = rig.assign(HeldJob(job.job_id, "e", job.queue, "launch"))
    assert (again.word, again.pod, again.delivered) == ("again", pod, True)


def test_who_held_a_job_that_was_offered_again_does_nothing_with_it(rig: WarmRig) -> None:
    """Its lease may outlive the job. Were the job over for it, it would finish the new one (I2)."""
    job, pod = rig.assigned()
    rig.redis.delete(f"rq:job:{job.job_id}")
    rig.offer(launch_of(job))
    assert (rig.assign(job).word, rig.deliver(job, pod), rig.take_back(job, pod)) == ("lost", "lost", "lost")
    assert rig.state(job) == "offered"
    rig.claim()
    assert (rig.assign(job).word, rig.deliver(job, pod), rig.take_back(job, pod)) == ("lost", "lost", "lost")
    assert rig.state(job) == "claimed"


def test_what_an_earlier_release_left_of_another_attempt_counts_for_nothing(rig: WarmRig) -> None:
    """A scheduler of that release offers the next attempt, and knows nothing of warm pods."""
    job, pod = rig.delivered()
    rig.take(pod)
    left = rig.ledger(job)
    rig.publish(job, "failed", pod.pod)
    rig.offer(launch_of(job), attempt=1)
    rig.redis.hset(KEYS.launch(launch_of(job)), mapping={name: left[name] for name in left if name in WARM_FIELDS})
    row = rig.claim_row("e")
    assert row[11] == ""
    other = rig.idle_pod()
    second = HeldJob(row[0], "e", row[1], "launch")
    assert rig.assign(second).pod == other
    assert rig.deliver(second, pod) == "lost"
    assert rig.ledger(second).get("delivered") is None
    assert rig.deliver(second, other) == "delivered"


# --- the pod takes its workload, or it never gets it ------------------------------------------------------------------
def test_a_workload_that_was_taken_back_is_never_taken(rig: WarmRig) -> None:
    job, pod = rig.delivered()
    assert rig.take_back(job, pod) == "taken_back"
    assert rig.take(pod) is None
    entry = rig.ledger(job)
    assert (entry["condemned"], entry["start"]) == (pod.pod, "timed_out")
    assert {"warm_pod", "warm_id", "delivered", "t_started"}.isdisjoint(entry)
    assert rig.take_back(job, pod) == "taken_back", "its answer was lost"
    assert rig.deliver(job, pod) == "condemned"
    assert rig.take(pod) is None


def test_a_workload_that_was_taken_is_not_taken_back(rig: WarmRig) -> None:
    job, pod = rig.delivered()
    assert rig.take(pod) is not None
    assert rig.take_back(job, pod) == "taken"
    assert rig.ledger(job)["delivered"] == "1"
    rig.redis.delete(KEYS.mailbox_taken(mailbox(pod)))
    assert rig.take_back(job, pod) == "unknown", "it may run, so no other pod is created"
    assert "condemned" not in rig.ledger(job)


def test_a_condemned_launch_stays_cold(rig: WarmRig) -> None:
    """Whichever launcher comes next: it retires the pod, and creates one as usual, while idle pods wait."""
    job, pod = rig.delivered()
    rig.take_back(job, pod)
    rig.idle_pod()
    for lost in (False, True):
        job = rig.lose(job) if lost else job
        found = rig.assign(job)
        assert (found.word, found.pod) == ("condemned", pod)


def test_what_was_never_delivered_is_taken_back(rig: WarmRig) -> None:
    job, pod = rig.assigned()
    assert rig.take_back(job, pod) == "taken_back"
    assert rig.deliver(job, pod) == "condemned"
    assert not rig.redis.exists(KEYS.mailbox_in(mailbox(pod)))


# --- the pod ends, and the watcher reports it (I3) --------------------------------------------------------------------
def test_a_pod_that_ends_before_the_delivery_does_not_fail_the_launch(rig: WarmRig) -> None:
    job, pod = rig.assigned()
    assert rig.publish(job, "started", pod.pod) == 0
    assert rig.publish(job, "failed", pod.pod) == 0
    assert rig.state(job) == "claimed"
    assert not rig.redis.exists(KEYS.results)
    assert rig.deliver(job, pod) == "condemned"
    found = rig.assign(job)
    assert (found.word, found.pod) == ("condemned", pod)
    assert rig.publish(job, "failed", pod.pod) == 0, "a new watcher lists the pod again"
    assert rig.created(job, cold_pod(job)) == "ok"
    assert rig.publish(job, "failed", pod.pod) == 0
    assert rig.publish(job, "started", cold_pod(job)) == 1
    assert rig.ledger(job)["pod"] == cold_pod(job)


def test_a_job_that_waits_again_can_lose_its_pod(rig: WarmRig) -> None:
    """No launcher holds it when the pod ends."""
    job, pod = rig.assigned()
    rig.redis.zadd(LEASES, {f"{job.job_id}:{job.execution_id}": 1.0})
    rig.reap(job)
    assert rig.state(job) == "offered"
    assert rig.publish(job, "failed", pod.pod) == 0
    assert rig.assign(rig.claim()).word == "condemned"


def test_a_pod_that_ends_after_the_delivery_ends_the_attempt(rig: WarmRig) -> None:
    """Whether it took the workload is not known: it must not run a second time in this attempt."""
    job, pod = rig.delivered()
    assert rig.publish(job, "failed", pod.pod) == 1
    assert rig.state(job) == "finished"
    assert rig.assign(job).word == "over"
    assert rig.deliver(job, pod) == "over"
    assert rig.take_back(job, pod) == "over"
    assert not rig.redis.exists(KEYS.mailbox_in(mailbox(pod))), "nobody will take it"
    ((_, entry),) = rig.redis.xrange(KEYS.results)
    assert entry["start"] == "warm"


def test_the_launcher_reports_the_start_and_the_watcher_does_not(rig: WarmRig) -> None:
    """The container of a warm pod runs long before it has its workload."""
    job, pod = rig.delivered()
    assert rig.publish(job, "started", pod.pod) == 0
    assert rig.state(job) == "claimed"
    assert rig.take_back(job, pod) == "taken_back", "so a launch that never began is not taken for a started one"
    job, pod = rig.delivered()
    rig.take(pod)
    assert rig.publish(job, "started", pod.pod, fence=UNFENCED) == 1
    ((_, entry),) = rig.redis.xrange(KEYS.results)
    assert (entry["first_run"], entry["start"]) == ("1", "warm")
    assert rig.created(job, pod.pod) == "ok"
    assert rig.publish(job, "started", pod.pod) == 0
    assert (rig.take_back(job, pod), rig.assign(job).word) == ("lost", "lost")


# --- the launch is withdrawn ------------------------------------------------------------------------------------------
def assigned(rig: WarmRig) -> tuple[HeldJob, WarmPod]:
    return rig.assigned()


def delivered(rig: WarmRig) -> tuple[HeldJob, WarmPod]:
    return rig.delivered()


@pytest.mark.parametrize("before", [assigned, delivered])
def test_a_withdrawn_launch_gets_no_workload_any_more(
    rig: WarmRig, before: Callable[[WarmRig], tuple[HeldJob, WarmPod]]
) -> None:
    job, pod = before(rig)
    rig.withdraw(job)
    assert rig.assign(job).word == "unwanted"
    assert rig.deliver(job, pod) == "unwanted"
    assert rig.take_back(job, pod) == "taken_back"
    assert rig.take(pod) is None
    assert rig.state(job) == "withdrawn"


def test_a_superseded_launch_gets_no_workload_any_more(rig: WarmRig) -> None:
    job, pod = rig.assigned()
    rig.redis.hset(KEYS.current, f"s-{launch_of(job)}", "a-newer-launch")
    assert rig.deliver(job, pod) == "unwanted"
    assert rig.take(pod) is None


@pytest.mark.parametrize("taken_back", [False, True])
def test_the_pod_of_a_withdrawn_launch_is_cleaned_up_without_a_launcher(rig: WarmRig, taken_back: bool) -> None:
    """It was killed, and claims drop the job: the pod's end makes an executor order its deletion."""
    job, pod = rig.assigned()
    rig.withdraw(job)
    if taken_back:
        rig.take_back(job, pod)
    assert rig.publish(job, "failed", pod.pod) == 1
    assert rig.state(job) == "finished"
    assert rig.redis.zscore(KEYS.unacknowledged, launch_of(job)) is not None


def test_a_condemned_pod_says_nothing_about_a_withdrawn_launch_with_another_pod(rig: WarmRig) -> None:
    job, pod = rig.delivered()
    rig.take_back(job, pod)
    rig.created(job, cold_pod(job))
    rig.withdraw(job)
    assert rig.publish(job, "failed", pod.pod) == 0
    assert rig.state(job) == "withdrawn"


# --- Redis loses its data (I4) ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("before", [assigned, delivered])
@pytest.mark.parametrize("offered", [False, True])
def test_after_a_loss_of_data_nobody_delivers_to_the_pod(
    rig: WarmRig, before: Callable[[WarmRig], tuple[HeldJob, WarmPod]], offered: bool
) -> None:
    job, pod = before(rig)
    rig.lose_all_data()
    if offered:
        rig.offer(launch_of(job))
        rig.claim()
    assert rig.deliver(job, pod) == "lost"
    assert rig.take_back(job, pod) == "lost"
    assert rig.assign(job).word == "lost"
    assert rig.take(pod) is None


def test_a_launch_that_only_its_ledger_forgot_gets_no_second_workload(rig: WarmRig) -> None:
    """Its lease is still there, and an idle pod: without the ledger's word, nobody delivers."""
    job, pod = rig.assigned()
    rig.redis.delete(KEYS.launch(launch_of(job)))
    rig.offer(launch_of(job))
    second, other = rig.claim(), rig.idle_pod()
    assert rig.deliver(job, pod) == "lost"
    assert rig.assign(second).pod == other
    assert rig.deliver(job, pod) == "lost"
    assert rig.deliver(second, other) == "delivered"
    assert rig.takers([pod, other], job) == [other.pod]


def test_a_pod_that_the_ledger_does_not_know_waits_until_a_launcher_found_it(rig: WarmRig) -> None:
    """A report about it would fail, or start, an attempt for which a launcher may be creating another pod."""
    job, pod = rig.delivered()
    rig.take(pod)
    rig.lose_all_data()
    rig.offer(launch_of(job))
    assert rig.restore(job, pod.pod) == 0
    for outcome in ("started", "succeeded"):
        assert rig.publish(job, outcome, pod.pod) == -3
    second = rig.claim()
    assert rig.publish(job, "succeeded", pod.pod) == -3
    assert rig.created(second, pod.pod) == "ok"
    assert rig.publish(job, "started", pod.pod) == 1
    assert rig.publish(job, "succeeded", pod.pod) == 1
    assert rig.state(job) == "finished"


def test_a_pod_that_nobody_found_fails_no_launch_that_waits_for_its_pod(rig: WarmRig) -> None:
    """Its PATCH arrived after the list by labels; it never gets a workload. Later, the watcher knows the other pod."""
    job, pod = rig.assigned()
    rig.lose_all_data()
    rig.offer(launch_of(job))
    second = rig.claim()
    for outcome in ("started", "failed"):
        assert rig.publish(job, outcome, pod.pod) == -3
    assert rig.state(job) == "claimed"
    assert rig.created(second, cold_pod(job)) == "ok"


@pytest.mark.parametrize("field", ["pod", "condemned", "warm_pod", "state"])
def test_a_forged_ledger_hides_no_end_for_good(rig: WarmRig, field: str) -> None:
    """The pod of a launch runs, and somebody writes another name, or another state, into the ledger."""
    job, pod = rig.delivered()
    rig.take(pod)
    rig.created(job, pod.pod)
    forged = {"state": "claimed"} if field == "state" else {field: "etl-warm-" + "f" * 32}
    rig.redis.hset(KEYS.launch(launch_of(job)), mapping=forged)
    assert rig.publish(job, "succeeded", pod.pod) == 1


def test_a_pod_that_the_watcher_restored_is_the_launch_s(rig: WarmRig) -> None:
    job, pod = rig.delivered()
    rig.take(pod)
    rig.lose_all_data()
    assert rig.restore(job, pod.pod) == 1
    assert rig.publish(job, "started", pod.pod) == 1
    assert rig.publish(job, "succeeded", pod.pod) == 1
    assert rig.state(job) == "finished"


def test_a_condemned_pod_that_ends_late_fails_no_other_pod(rig: WarmRig) -> None:
    """A watcher that was behind: by then the pod that replaced it exists."""
    job, pod = rig.delivered()
    rig.take_back(job, pod)
    rig.created(job, cold_pod(job))
    assert rig.publish(job, "failed", pod.pod) == 0
    assert rig.state(job) == "created"
    rig.redis.hset(KEYS.launch(launch_of(job)), "pod", "etl-warm-" + "f" * 32)
    assert rig.publish(job, "failed", pod.pod) == 1, "no launcher writes this"


def test_reports_about_usual_pods_are_as_without_warm_pods(rig: WarmRig) -> None:
    job = rig.offered_job()
    for outcome in ("pending", "started", "failed"):
        assert rig.publish(job, outcome, cold_pod(job)) == 1
    assert all("start" not in entry for _, entry in rig.redis.xrange(KEYS.results))


# --- the keeper -------------------------------------------------------------------------------------------------------
def test_a_pod_is_removed_or_given_and_never_both(rig: WarmRig) -> None:
    """The keeper deletes in the cluster only what `remove` returned."""
    pod, job = rig.idle_pod(), rig.offered_job()
    assert rig.assign(job).pod == pod
    assert rig.call(rig.pool.remove([pod.warm_id])) == [None]
    pod = rig.idle_pod()
    assert rig.call(rig.pool.remove([pod.warm_id])) == [pod]
    assert rig.assign(rig.offered_job()).why == "no_idle_pod"
    rig.keep()
    assert not rig.redis.exists(KEYS.warm_idle(CLUSTER, SHAPE))


def test_a_keeper_that_reads_late_makes_no_given_pod_idle_again(rig: WarmRig) -> None:
    job, pod = rig.assigned()
    rig.renew(pod)  # it has not taken its workload yet
    assert rig.keep().pods == ()
    assert rig.assign(rig.offered_job()).why == "no_idle_pod"
    assert rig.assign(job).pod == pod
