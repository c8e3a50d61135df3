"""Launches in warm pods, on the local cluster and in a real Redis: one pod each, with its workload once."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any

import pytest

from podrelay.protocol import identifiers
from tests.harness.waiting import until
from tests.harness.warm_pods import Warm


def test_a_launch_gets_an_idle_pod_with_everything_its_own_would_have(warm: Warm) -> None:
    request = warm.request(1)

    async def scenario() -> None:
        async with warm.launcher():
            await warm.filled()
            warm.rig.offer(request)
            began_s = time.monotonic()
            await warm.started(request)
            assert time.monotonic() - began_s < 1.5
            await warm.ready()  # another one takes its place

    asyncio.run(scenario())
    ledger = warm.rig.ledger(request)
    assert ledger["start"] == "warm"
    (pod,) = warm.pods_of(request)
    assert (pod["metadata"]["name"], pod["metadata"]["uid"]) == (ledger["pod"], ledger["uid"])
    labels = pod["metadata"]["labels"]
    assert identifiers.LABEL_IDLE not in labels
    assert labels[identifiers.LABEL_ATTEMPT] == "0"
    assert (labels["dag_id"], labels["task_id"], labels["airflow-worker"]) == ("etl", "load1", "7")
    assert pod["metadata"]["annotations"][identifiers.ANNOTATION_SUBJECT] == request.subject
    delivery = warm.pods.deliveries[ledger["pod"]]
    assert (delivery.launch_id, delivery.attempt, delivery.workload) == (request.launch_id, 0, request.args[-1])
    (report,) = [item for item in warm.rig.results() if item.launch_id == request.launch_id]
    assert (report.outcome, report.pod) == ("started", ledger["pod"])
    assert "token" not in str(pod)


def test_three_requests_to_the_api_server_for_each_warm_task(warm: Warm) -> None:
    """Creation, label, and deletion by the clean-up; nothing is looked up."""
    requests = [warm.request(number) for number in range(3)]

    async def scenario() -> None:
        async with warm.launcher(warm_pods_max=2):
            await warm.filled()
            warm.mark()
            for request in requests:
                warm.rig.offer(request)
                await warm.started(request)
                await warm.ready()

    asyncio.run(scenario())
    assert Counter(verb for verb, _ in warm.calls()) == {"create": 3, "patch": 3}


def test_a_lost_answer_of_the_label_is_no_second_pod(warm: Warm) -> None:
    request = warm.request(1)

    async def scenario() -> None:
        async with warm.launcher():
            await warm.filled()
            warm.cluster.faults({"verbs": ["patch"], "resource": "pods", "lost_response": True, "count": 1})
            warm.rig.offer(request)
            await warm.started(request)

    asyncio.run(scenario())
    assert warm.rig.ledger(request)["start"] == "warm"
    assert len(warm.pods_of(request)) == 1
    assert [name for name, item in warm.pods.deliveries.items() if item.launch_id == request.launch_id]


def test_a_server_that_fails_is_waited_for_and_the_pod_is_kept(warm: Warm) -> None:
    request = warm.request(1)

    async def scenario() -> None:
        async with warm.launcher():
            await warm.filled()
            warm.cluster.faults({"verbs": ["patch"], "resource": "pods", "status": 503, "count": 2})
            warm.rig.offer(request)
            await until(lambda: warm.rig.ledger(request).get("state") == "waiting", 5)
            await warm.started(request)

    asyncio.run(scenario())
    assert len(warm.pods_of(request)) == 1
    assert warm.rig.ledger(request)["start"] == "warm"


def test_a_webhook_that_refuses_labels_switches_the_pool_off(warm: Warm, caplog: pytest.LogCaptureFixture) -> None:
    first, second = warm.request(1), warm.request(2)

    async def scenario() -> None:
        async with warm.launcher():
            await warm.filled()
            warm.cluster.faults({"verbs": ["patch"], "resource": "pods", "status": 403, "count": 1})
            warm.rig.offer(first)
            await warm.started(first, state="created")
            warm.rig.offer(second)
            await warm.started(second, state="created")

    asyncio.run(scenario())
    assert [warm.rig.ledger(request)["start"] for request in (first, second)] == ["timed_out", "pool_off"]
    (warning,) = [record.getMessage() for record in caplog.records if "cannot get the labels" in record.message]
    assert "No warm pods of image apache/airflow:3.3.2 for 600 s" in warning
    assert not warm.pods.deliveries


def test_a_pod_that_died_is_found_out_and_the_launch_gets_one_of_its_own(warm: Warm) -> None:
    """Its last sign of life is still in Redis when a launch gets it."""
    request = warm.request(1)

    async def scenario() -> None:
        async with warm.launcher():
            await warm.filled()
            for name in warm.pods.idle():
                warm.cluster.vanish_pod("default", name)
            warm.rig.offer(request)
            await warm.started(request, state="created")

    asyncio.run(scenario())
    ledger = warm.rig.ledger(request)
    assert ledger["start"] == "timed_out"
    (pod,) = warm.pods_of(request)
    assert pod["metadata"]["name"] == ledger["pod"]
    assert identifiers.warm_id_of_pod(ledger["pod"]) is None


def test_a_pod_that_is_being_evicted_takes_no_workload(warm: Warm) -> None:
    request = warm.request(1)

    async def scenario() -> None:
        async with warm.launcher():
            await warm.filled()
            for name in warm.pods.idle():
                warm.cluster.end_pod("default", name, exit_code=137, pod_reason="Evicted", phase="Failed")
            warm.rig.offer(request)
            await warm.started(request, state="created")

    asyncio.run(scenario())
    assert warm.rig.ledger(request)["start"] == "timed_out"
    assert not [item for item in warm.pods.deliveries.values() if item.launch_id == request.launch_id]
    (pod,) = warm.pods_of(request)
    assert identifiers.warm_id_of_pod(pod["metadata"]["name"]) is None


def test_a_pod_that_does_not_answer_is_deleted_before_another_one_is_created(warm: Warm) -> None:
    request = warm.request(1)
    warm.pods.pause()

    async def scenario() -> None:
        async with warm.launcher():
            await warm.filled()
            warm.mark()
            warm.rig.offer(request)
            await warm.started(request, state="created")

    asyncio.run(scenario())
    ledger = warm.rig.ledger(request)
    assert ledger["start"] == "timed_out"
    assert ledger["condemned"] != ledger["pod"]
    (pod,) = warm.pods_of(request)
    assert pod["metadata"]["name"] == ledger["pod"]
    calls = warm.calls()
    condemned = [verb for verb, name in calls if name == ledger["condemned"]]
    assert condemned == ["patch", "get", "patch", "delete"]  # assigned, found to be ours, revoked, deleted
    assert calls.index(("delete", ledger["condemned"])) < calls.index(("create", ledger["pod"]))
    assert not warm.pods.deliveries


@pytest.mark.parametrize("step", ["assigned", "labelled", "delivered"])
def test_a_launcher_that_is_killed_between_two_steps_is_replaced(step: str, warm: Warm) -> None:
    """Another launcher continues with the same pod, even one in which warm pods are off."""
    request = warm.request(1)
    patch: dict[str, Any] = {"verbs": ["patch"], "resource": "pods"}

    async def scenario() -> None:
        async with warm.launcher():
            await warm.filled()
        if step == "assigned":
            warm.cluster.faults({**patch, "latency_s": 60.0})
        if step == "labelled":
            warm.cluster.faults(
                {**patch, "lost_response": True}, {"verbs": ["get"], "resource": "pods", "latency_s": 60.0}
            )
        warm.pods.pause()
        process = warm.rig.start_process(**warm.environment(warm_assign_timeout_s=20))
        warm.rig.offer(request)
        wanted = {"assigned": "warm_pod", "labelled": "warm_pod", "delivered": "delivered"}[step]
        await until(lambda: warm.rig.ledger(request).get(wanted), 20)
        if step == "labelled":
            await until(lambda: warm.pods_of(request), 5)
        process.kill()
        process.join()
        pod = warm.rig.ledger(request)["warm_pod"]
        warm.cluster.faults()
        warm.pods.paused.clear()
        async with warm.rig.launcher(warm_pods_max=0):
            await warm.started(request)
        assert warm.rig.ledger(request)["pod"] == pod

    asyncio.run(scenario())
    assert len(warm.pods_of(request)) == 1
    assert [item.launch_id for item in warm.pods.deliveries.values()].count(request.launch_id) == 1


def test_a_pod_that_may_have_its_workload_is_never_taken_from_the_launch(warm: Warm) -> None:
    """A failover of Redis lost the delivery, not the assignment: the pod runs the task, and takes nothing any more."""
    request = warm.request(1)

    async def scenario() -> None:
        async with warm.launcher():
            await warm.filled()
        warm.pods.paused.set()
        process = warm.rig.start_process(**warm.environment(warm_assign_timeout_s=20))
        warm.rig.offer(request)
        await until(lambda: warm.rig.ledger(request).get("delivered"), 20)
        process.kill()
        process.join()
        warm.pods.paused.clear()
        await until(lambda: warm.pods.deliveries, 5)
        warm.rig.redis.hdel(warm.rig.names.launch(request.launch_id), "delivered")
        warm.rig.redis.delete(*warm.rig.redis.keys(warm.rig.names.mailbox_prefix + "*"))
        async with warm.launcher():
            await until(lambda: "pod" in warm.rig.ledger(request), 20)

    asyncio.run(scenario())
    (pod,) = warm.pods_of(request)
    assert pod["metadata"]["name"] == warm.rig.ledger(request)["pod"] == next(iter(warm.pods.deliveries))
    assert identifiers.LABEL_REVOKED not in pod["metadata"]["labels"]


def test_a_pod_that_did_not_answer_is_deleted_by_the_next_launcher(warm: Warm) -> None:
    """The first one was killed after it had taken the workload back."""
    request = warm.request(1)

    async def scenario() -> None:
        async with warm.launcher():
            await warm.filled()
        warm.cluster.faults({"verbs": ["get"], "resource": "pods", "latency_s": 60.0})
        warm.pods.paused.set()
        process = warm.rig.start_process(**warm.environment())
        warm.rig.offer(request)
        await until(lambda: warm.rig.ledger(request).get("condemned"), 20)
        process.kill()
        process.join()
        warm.cluster.faults()
        async with warm.launcher():
            await warm.started(request, state="created")

    asyncio.run(scenario())
    (pod,) = warm.pods_of(request)
    assert pod["metadata"]["name"] == warm.rig.ledger(request)["pod"] != warm.rig.ledger(request)["condemned"]
    assert not warm.pods.deliveries


def test_two_launchers_never_give_one_pod_to_two_launches(warm: Warm) -> None:
    requests = [warm.request(number) for number in range(12)]

    async def scenario() -> None:
        async with warm.launcher(), warm.launcher():
            await warm.filled()
            warm.rig.offer(*requests)
            await until(lambda: set(warm.rig.states(requests)) <= {"started", "created"}, 20)

    asyncio.run(scenario())
    pods = [warm.rig.ledger(request)["pod"] for request in requests]
    assert len(set(pods)) == len(pods)
    assert all(len(warm.pods_of(request)) == 1 for request in requests)
    by_start = Counter(warm.rig.ledger(request)["start"] for request in requests)
    assert by_start["warm"] >= 2
    assert set(by_start) <= {"warm", "no_idle_pod"}
    got = Counter(item.launch_id for item in warm.pods.deliveries.values())
    assert set(got.values()) == {1}
    assert sum(got.values()) == by_start["warm"]


def test_a_launch_that_is_revoked_meanwhile_never_gets_its_workload(warm: Warm) -> None:
    request = warm.request(1)

    async def scenario() -> None:
        async with warm.launcher():
            await warm.filled()
            warm.cluster.faults({"verbs": ["patch"], "resource": "pods", "latency_s": 1.0, "count": 1})
            warm.rig.offer(request)
            await until(lambda: warm.rig.ledger(request).get("warm_pod"), 5)
            warm.rig.queue.withdraw([(request.launch_id, request.subject)])
            await until(lambda: warm.rig.in_hand() == 0, 10)
            await until(lambda: not warm.pods_of(request), 5)

    asyncio.run(scenario())
    assert not [item for item in warm.pods.deliveries.values() if item.launch_id == request.launch_id]


def test_a_launch_that_redis_forgot_is_looked_for_by_its_labels_and_never_warm_again(warm: Warm) -> None:
    """Its first pod has another name than its own would have; the executor offers it again after a loss of data."""
    first, second = warm.request(1), warm.request(2)

    async def scenario() -> None:
        async with warm.launcher():
            await warm.filled()
            warm.rig.offer(first)
            await warm.started(first)
            before = await until(lambda: warm.rig.ledger(first).get("pod"))
            warm.rig.redis.delete(warm.rig.names.launch(first.launch_id))
            warm.rig.redis.delete(f"rq:job:{first.launch_id}_0")
            warm.rig.offer(first.replaced(repeated=True), second.replaced(repeated=True))
            await warm.started(first, second, state="created")
            assert warm.rig.ledger(first)["pod"] == before
            assert identifiers.warm_id_of_pod(warm.rig.ledger(second)["pod"]) is None

    asyncio.run(scenario())
    assert len(warm.pods_of(first)) == len(warm.pods_of(second)) == 1


def test_a_repeated_launch_completes_a_pod_of_its_own(warm: Warm) -> None:
    """Its launcher died before it created the Secret that the pod mounts."""
    request = warm.request(1, image="other:1")

    def secrets() -> list[str]:
        found = warm.cluster.call("GET", "/api/v1/namespaces/default/secrets")["items"]
        return [item["metadata"]["name"] for item in found]

    async def scenario() -> None:
        warm.cluster.faults({"verbs": ["create"], "resource": "secrets", "status": 503})
        async with warm.launcher(workload_in_secret=True, warm_pods_min=0):
            warm.rig.offer(request)
            await until(lambda: warm.pods_of(request), 10)
        warm.cluster.faults()
        warm.rig.redis.delete(*warm.rig.redis.keys("*"))
        warm.rig.offer(request.replaced(repeated=True))
        async with warm.launcher(workload_in_secret=True, warm_pods_min=0):
            await warm.started(request, state="created")

    asyncio.run(scenario())
    (pod,) = warm.pods_of(request)
    assert pod["metadata"]["annotations"][identifiers.ANNOTATION_WORKLOAD_SECRET] in secrets()


def test_a_launch_that_every_launcher_died_of_keeps_its_warm_pod(warm: Warm) -> None:
    """`fail_crashed` finds the pod by its labels, and does not fail the launch."""
    request = warm.request(1)
    job = identifiers.job_id(request.launch_id, 0)

    async def scenario() -> None:
        async with warm.launcher():
            await warm.filled()
        warm.pods.pause()
        process = warm.rig.start_process(**warm.environment(warm_assign_timeout_s=20))
        warm.rig.offer(request)
        await until(lambda: warm.rig.ledger(request).get("delivered"), 20)
        process.kill()
        process.join()
        warm.rig.redis.hset(f"rq:job:{job}", "losses", "50")
        async with warm.rig.launcher():
            await warm.started(request, state="created")

    asyncio.run(scenario())
    assert warm.rig.ledger(request)["pod"] == warm.pods_of(request)[0]["metadata"]["name"]


@pytest.mark.parametrize("change", [{"kind": "callback", "key": ()}, {"args": ("python", "-c", "pass")}])
def test_what_is_no_plain_task_goes_the_usual_way(change: dict[str, Any], warm: Warm) -> None:
    request = warm.request(1, **change)

    async def scenario() -> None:
        async with warm.launcher():
            await warm.filled()
            warm.rig.offer(request)
            await warm.started(request, state="created")

    asyncio.run(scenario())
    assert warm.rig.ledger(request)["start"] == "not_eligible"


def test_a_warm_start_needs_no_quota(warm: Warm) -> None:
    """The pod exists already; the namespace may be full."""
    full, request = warm.request(1, image="other:1"), warm.request(2)

    async def scenario() -> None:
        async with warm.launcher(warm_pods_max=2):
            await warm.filled(2)
            warm.cluster.faults(quota={"default": len(warm.cluster.pods())})
            warm.rig.offer(request)
            await warm.started(request)

    asyncio.run(scenario())
    assert warm.rig.ledger(request)["start"] == "warm"
    assert full


def test_the_record_of_another_launchs_pod_harms_nobody(warm: Warm) -> None:
    """Whoever can write to Redis can copy the sealed record of a pod from one ledger to another (invariants I3 and I7)."""
    first, thief = warm.request(1), warm.request(2)
    fields = ("warm_pod", "warm_id", "warm_record", "start", "warm_attempt")

    async def scenario() -> None:
        async with warm.launcher():
            await warm.filled()
            warm.rig.offer(first)
            await warm.started(first)
        ledger = warm.rig.ledger(first)
        warm.rig.offer(thief)
        warm.rig.redis.hset(warm.rig.names.launch(thief.launch_id), mapping={name: ledger[name] for name in fields})
        async with warm.launcher():
            await until(lambda: warm.rig.ledger(thief)["state"] == "created", 15)

    asyncio.run(scenario())
    (pod,) = warm.pods_of(first)
    assert identifiers.LABEL_REVOKED not in pod["metadata"]["labels"]
    assert "deletionTimestamp" not in pod["metadata"]
    (own,) = warm.pods_of(thief)
    assert own["metadata"]["name"] == warm.rig.ledger(thief)["pod"] != pod["metadata"]["name"]


def test_while_redis_does_not_answer_no_workload_is_taken_back(warm: Warm) -> None:
    """It may lose what the pod did meanwhile: the pod may have its workload, although the mailbox shows it."""
    request = warm.request(1)

    async def scenario() -> None:
        async with warm.launcher(warm_assign_timeout_s=3.0):
            await warm.filled()
            warm.pods.pause()
            warm.rig.offer(request)
            await until(lambda: warm.rig.ledger(request).get("delivered"), 5)
            warm.rig.redis.execute_command("CLIENT", "PAUSE", "1500")
            await asyncio.sleep(1.6)
            await warm.started(request, state="created")

    asyncio.run(scenario())
    ledger = warm.rig.ledger(request)
    assert ledger["start"] == "warm"
    assert identifiers.warm_id_of_pod(ledger["pod"]) is not None
