"""The pool of warm pods: filled, kept at its size, emptied; by one launcher at a time."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from typing import Any

import pytest

from podrelay.protocol import identifiers
from podrelay.protocol.identifiers import DEFAULT_CLUSTER
from podrelay_workers.launcher.warm_pool import keeper, upkeep
from tests.harness.waiting import until
from tests.harness.warm_pods import TEMPLATE, Warm


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Minutes become seconds."""
    monkeypatch.setattr(upkeep, "LOOK_FIRST_S", 1.0)
    monkeypatch.setattr(upkeep, "SILENT_MOST_S", 4.0)
    monkeypatch.setattr(keeper, "SUSPECT_S", 1.0)


def keeper_of(warm: Warm) -> str:
    return str(warm.rig.redis.hget("podrelay:default:warm_state:default", "keeper"))


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [item.getMessage() for item in caplog.records if "No warm pods of image" in item.getMessage()]


def test_another_launcher_keeps_the_pool_when_its_keeper_stops(warm: Warm) -> None:
    async def scenario() -> None:
        async with warm.launcher() as one:
            await warm.filled()
            assert keeper_of(warm) == one.name
            async with warm.launcher() as other:
                await asyncio.sleep(1.0)
                assert keeper_of(warm) == one.name
                one._shutdown.request()
                await until(lambda: keeper_of(warm) == other.name, 5)
                for name in warm.pods.idle():
                    warm.cluster.end_pod("default", name, exit_code=137)
                await until(lambda: len(warm.pods.idle()) == 4, 10)  # two that ended, and two new ones
                await until(lambda: len(warm.pods.idle()) == 2, 15)
                await warm.ready()

    asyncio.run(scenario())


def test_a_killed_keeper_is_replaced_after_its_lease(warm: Warm) -> None:
    async def scenario() -> None:
        process = warm.rig.start_process(**warm.environment())
        first = warm.request(99)
        warm.rig.offer(first)
        await until(lambda: warm.idle_in_redis() == 2, 30)
        process.kill()
        process.join()
        async with warm.launcher() as other:
            await until(lambda: keeper_of(warm) == other.name, 10)
            assert warm.idle_in_redis() == 2
        assert len(warm.pods.pods()) == 2

    asyncio.run(scenario())


def test_pods_that_end_are_deleted_and_replaced(warm: Warm) -> None:
    """Idle time over, evicted or killed: it makes no difference."""

    async def scenario() -> None:
        async with warm.launcher(warm_pod_idle_s=13.0):
            await warm.filled()
            before = set(warm.pods.idle())
            await until(lambda: not before & {pod["metadata"]["name"] for pod in warm.pods.pods()}, 30)
            await warm.ready()

    asyncio.run(scenario())


def test_an_image_that_refuses_switches_its_pool_off_with_one_warning(
    warm: Warm, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    refusing = TEMPLATE.replace(
        '"local-cluster/duration-s": "600"', '"local-cluster/duration-s": "0.1", "local-cluster/exit-code": "1"'
    )
    warm.rig.template.write_text(refusing)
    requests = [warm.request(number) for number in range(4)]

    async def scenario() -> None:
        async with warm.launcher():
            warm.rig.offer(*requests)
            await until(lambda: warnings(caplog), 15)
            last = warm.request(9)
            warm.rig.offer(last)
            await warm.started(last, state="created")
            assert warm.rig.ledger(last)["start"] == "pool_off"
            await asyncio.sleep(1.5)
            warm.mark()
            await asyncio.sleep(2.0)
            assert ("create", "") not in {(verb, "") for verb, _ in warm.calls()}

    asyncio.run(scenario())
    assert warm.rig.states(requests) == {"created": 4}
    (warning,) = warnings(caplog)
    assert re.search(
        r"image apache/airflow:3.3.2 for 600 s.*pod default/default-warm-\w{32}: exit code 1.*installed", warning
    )


def test_an_image_that_cannot_be_pulled_switches_its_pool_off(warm: Warm, caplog: pytest.LogCaptureFixture) -> None:
    warm.cluster.faults(images=[{"pattern": "apache/*", "message": "no such image"}])

    async def scenario() -> None:
        async with warm.launcher():
            warm.rig.offer(warm.request(1))
            await until(lambda: warnings(caplog), 15)
            await until(lambda: not warm.pods.pods(), 10)

    asyncio.run(scenario())
    (warning,) = warnings(caplog)
    assert "no such image" in warning


def test_pods_of_a_template_that_was_changed_leave(warm: Warm) -> None:
    async def scenario() -> None:
        async with warm.launcher(warm_pods_max=2, warm_pods_min=0):
            warm.rig.offer(warm.request(1), warm.request(2))
            await warm.ready(2)
            old = set(warm.pods.idle())
            warm.rig.template.write_text(TEMPLATE.replace("from: template", "from: another"))
            requests = [warm.request(number) for number in range(3, 12)]
            warm.rig.offer(*requests)
            await until(lambda: warm.pods.idle() and not old & set(warm.pods.idle()), 15)
            await warm.ready(2)
            last = warm.request(20)
            warm.rig.offer(last)
            await warm.started(last)
            (pod,) = warm.pods_of(last)
            assert pod["metadata"]["labels"]["from"] == "another"

    asyncio.run(scenario())


def test_a_full_quota_is_left_to_tasks(warm: Warm) -> None:
    """Idle pods make room when launches wait for the quota of their namespace."""
    warm.cluster.faults(quota={"default": 4})
    requests = [warm.request(number, image=f"other:{number}") for number in range(3)]

    async def scenario() -> None:
        async with warm.launcher(warm_pods_max=3, warm_pods_min=3):
            await warm.filled(3)
            warm.rig.offer(*requests)
            await warm.started(*requests, state="created")
            assert len(warm.pods.idle()) <= 1

    asyncio.run(scenario())


def test_after_a_loss_of_data_no_idle_pod_stays_unknown(warm: Warm) -> None:
    async def scenario() -> None:
        async with warm.launcher():
            await warm.filled()
            before = set(warm.pods.idle())
            warm.rig.redis.flushall()
            await until(lambda: not before & {pod["metadata"]["name"] for pod in warm.pods.pods()}, 15)
            await warm.filled()

    asyncio.run(scenario())


def test_no_pod_of_a_task_or_of_another_deployment_is_deleted(warm: Warm) -> None:
    """Only idle pods of this deployment and cluster that the pool does not know."""

    def pod(name: str, **labels: str) -> dict[str, Any]:
        metadata = {
            "name": name,
            "labels": {key.replace("_", "/", 1).replace("_", "-"): value for key, value in labels.items()},
        }
        spec = {"restartPolicy": "Never", "containers": [{"name": "base", "image": "i"}]}
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                **metadata,
                "annotations": {"local-cluster/duration-s": "600", "local-cluster/exit-code": "0"},
            },
            "spec": spec,
        }

    warm_id = identifiers.new_warm_id()
    ours = {"podrelay_deployment": "default", "podrelay_cluster": "default", "podrelay_warm_pod": warm_id}
    pods = [
        pod("unknown", **ours, podrelay_idle="0" * 16),
        pod("task", **ours),
        pod("foreign", **{**ours, "podrelay_deployment": "other"}, podrelay_idle="0" * 16),
        pod("of-team", **{**ours, "podrelay_cluster": "red"}, podrelay_idle="0" * 16),
    ]
    for body in pods:
        warm.cluster.call("POST", "/api/v1/namespaces/default/pods", body)

    async def scenario() -> None:
        async with warm.launcher():
            await until(lambda: len(warm.cluster.pods()) < 4, 10)
            await asyncio.sleep(2.0)

    asyncio.run(scenario())
    assert {item["metadata"]["name"] for item in warm.cluster.pods()} == {"task", "foreign", "of-team"}


def test_a_launcher_that_stops_creates_nothing_more(warm: Warm) -> None:
    async def scenario() -> None:
        async with warm.launcher():
            await warm.filled()
        warm.mark()
        await asyncio.sleep(1.0)
        assert warm.calls() == []
        assert len(warm.pods.idle()) == 2  # for the next launcher; they end by themselves
        assert keeper_of(warm) == ""

    asyncio.run(scenario())


def test_keys_of_mailboxes_are_in_a_secret_where_workloads_are(warm: Warm) -> None:
    request = warm.request(1)

    async def scenario() -> None:
        async with warm.launcher(workload_in_secret=True):
            await warm.filled()
            warm.rig.offer(request)
            await warm.started(request)

    asyncio.run(scenario())
    (pod,) = warm.pods_of(request)
    assert pod["spec"]["containers"][0]["args"][-2:] == ["--json-path", "/var/run/secrets/podrelay/workload.json"]
    assert pod["metadata"]["name"] in warm.pods.deliveries


def test_no_pod_waits_in_vain_for_a_secret_that_is_refused(warm: Warm) -> None:
    """Its container would never start, and so never end by itself."""

    def is_off() -> bool:
        return any(
            name.endswith("off_why") for name in warm.rig.redis.hkeys(warm.rig.names.warm_state(DEFAULT_CLUSTER))
        )

    async def scenario() -> None:
        async with warm.launcher(workload_in_secret=True):
            await warm.filled()
            warm.cluster.faults({"verbs": ["create"], "resource": "secrets", "status": 403})
            warm.cluster.end_pod("default", warm.pods.idle()[0], exit_code=75)
            await until(is_off, 20)
            await until(lambda: not warm.pods.idle(), 5)

    asyncio.run(scenario())


def test_a_failover_that_forgets_a_removal_costs_no_task(warm: Warm) -> None:
    """The API server does not answer when the pod is to be deleted; when it does, the pod may have a task."""
    request, names = warm.request(1), warm.rig.names

    async def scenario() -> None:
        async with warm.launcher() as launcher:
            await warm.filled()
            kept = launcher._warm_pods.keeper
            before = warm.rig.redis.hgetall(names.warm_pods(DEFAULT_CLUSTER))
            (shape,) = warm.rig.redis.hkeys(names.warm_shapes(DEFAULT_CLUSTER))
            warm.cluster.faults({"verbs": ["delete"], "resource": "pods", "status": 503})
            await kept._remove(list(before))
            await until(lambda: time.monotonic() < kept._paused_until_s, 5)
            # As after a failover; and nobody keeps the pool for a moment.
            state: dict[str, Any] = {"keeper": "another", "expires": time.time() + 2.0}
            warm.rig.redis.hset(names.warm_state(DEFAULT_CLUSTER), mapping=state)
            warm.rig.redis.hset(names.warm_pods(DEFAULT_CLUSTER), mapping=before)
            since = dict.fromkeys(before, time.time() - 60.0)
            warm.rig.redis.zadd(names.warm_idle(DEFAULT_CLUSTER, shape), since)
            warm.rig.offer(request)
            await warm.started(request)
            assert identifiers.warm_id_of_pod(warm.rig.ledger(request)["pod"]) in before
            warm.cluster.faults()
            await until(lambda: not kept._to_delete, 20)
            await asyncio.sleep(0.5)

    asyncio.run(scenario())
    assert len(warm.pods_of(request)) == 1


def test_a_keeper_remembers_the_shapes_of_the_pool_only(warm: Warm) -> None:
    """A hook may make a shape of its own for each launch."""
    requests = [warm.request(number, image=f"etl:{number}") for number in range(80)]

    async def scenario() -> None:
        async with warm.launcher(warm_pods_max=1, warm_pods_min=0) as launcher:
            for begin in range(0, len(requests), 20):
                warm.rig.offer(*requests[begin : begin + 20])
                await warm.started(*requests[begin : begin + 20], state="created")
                await asyncio.sleep(1.2)  # the keeper looks at the pool at least this often
            assert 0 < len(launcher._warm_pods.keeper._shapes) <= 64

    asyncio.run(scenario())


def test_no_launcher_without_the_permission_to_list_goes_unnoticed(
    warm: Warm, caplog: pytest.LogCaptureFixture
) -> None:
    warm.cluster.faults({"verbs": ["list"], "resource": "pods", "status": 403})

    async def scenario() -> None:
        async with warm.launcher():
            await until(lambda: "grant list on pods" in caplog.text, 10)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "fault", [{"lost_response": True}, {"status": 503}, {"reset": True}, {"status": 429, "retry_after_s": 1}]
)
def test_a_server_that_fails_leaves_no_pod_behind(fault: dict[str, Any], warm: Warm) -> None:
    """Of a request without an answer nobody knows whether it made a pod."""
    creation = {"verbs": ["create"], "resource": "pods", "name_prefix": "default-warm-", "count": 3}

    async def scenario() -> None:
        async with warm.launcher():
            warm.cluster.faults(creation | fault)
            await warm.filled()
            await until(lambda: len(warm.pods.pods()) == 2, 15)
            await asyncio.sleep(1.0)
            assert len(warm.pods.pods()) == warm.idle_in_redis() == 2

    asyncio.run(scenario())


def test_redis_away_for_a_while_costs_no_idle_pod(warm: Warm) -> None:
    """All signs of life expire meanwhile, and come back."""

    async def scenario() -> None:
        async with warm.launcher():
            await warm.filled()
            before = set(warm.pods.idle())
            warm.rig.redis.execute_command("CLIENT", "PAUSE", "5000")
            await asyncio.sleep(8.0)
            assert set(warm.pods.idle()) == before
            request = warm.request(1)
            warm.rig.offer(request)
            await warm.started(request)

    asyncio.run(scenario())
