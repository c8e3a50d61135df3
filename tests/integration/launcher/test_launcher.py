"""One launcher and what may be wrong with a launch: only what is current, genuine and possible becomes a pod."""

from __future__ import annotations

import asyncio
import json
import pickle
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from podrelay.protocol import identifiers, jobs, redis_keys
from podrelay.protocol.messages import LaunchRequest
from podrelay_workers.launcher.pod_manifest import ManifestRenderer
from tests.harness.pod_api import status
from tests.integration.launcher.conftest import TOKEN, Bench, until


def during(bench: Bench, scenario: Callable[[], Coroutine[Any, Any, None]], **changes: Any) -> None:
    """Run the scenario beside a launcher."""

    async def run() -> None:
        async with bench.launcher(**changes):
            await scenario()

    asyncio.run(run())


def test_launches_become_pods(bench: Bench) -> None:
    requests = bench.offer_many(100)

    async def scenario() -> None:
        await until(lambda: bench.states(requests) == {"created": 100}, what="100 created")

    during(bench, scenario)
    assert len(bench.api.pods) == bench.api.calls["create"] == 100
    assert bench.in_hand() == 0
    entry = bench.ledger(requests[0])
    pod = bench.api.pods["default", entry["pod"]]
    assert pod["metadata"]["uid"] == entry["uid"]
    assert float(entry["t_offered"]) <= float(entry["t_claimed"]) <= float(entry["t_created"])
    assert pod["metadata"]["labels"][identifiers.LABEL_LAUNCH_ID] == requests[0].launch_id
    assert pod["metadata"]["annotations"][identifiers.ANNOTATION_SUBJECT] == requests[0].subject
    assert pod["metadata"]["labels"]["from"] == "template"


def test_a_finished_job_keeps_no_token_in_redis(bench: Bench) -> None:
    request = bench.request()
    bench.offer(request)
    sealed = bench.redis.hget(f"rq:job:{request.launch_id}_0", "data")

    async def scenario() -> None:
        await until(lambda: bench.states([request]) == {"created": 1})

    during(bench, scenario)
    assert sealed
    assert bench.redis.hget(f"rq:job:{request.launch_id}_0", "data") == json.dumps([jobs.LAUNCH_FUNCTION, None, [], {}])


def created(bench: Bench, request: LaunchRequest) -> bool:
    return bench.states([request]) == {"created": 1}


def test_an_idle_launcher_wakes_within_milliseconds(bench: Bench) -> None:
    waits = []

    async def scenario() -> None:
        await asyncio.sleep(0.3)
        for number in range(10):
            request = bench.request(number)
            began = time.monotonic()
            bench.offer(request)
            await until(partial(created, bench, request))
            waits.append(bench.api.creates[-1][0] - began)
            await asyncio.sleep(0.05)

    during(bench, scenario)
    assert sorted(waits)[5] < 0.05


# --- the fence --------------------------------------------------------------------------------------------------------
def test_withdrawn_and_superseded_launches_get_no_pod(bench: Bench) -> None:
    withdrawn, replaced, newer, wanted = (bench.request(number) for number in range(4))
    newer = replace(newer, subject=replaced.subject)
    bench.offer(withdrawn, replaced)
    bench.queue.withdraw([(withdrawn.launch_id, withdrawn.subject)])
    bench.offer(newer, wanted)

    async def scenario() -> None:
        await until(lambda: bench.states([newer, wanted]) == {"created": 2})

    during(bench, scenario)
    made = {pod["metadata"]["labels"][identifiers.LABEL_LAUNCH_ID] for pod in bench.api.pods.values()}
    assert made == {newer.launch_id, wanted.launch_id}
    assert bench.ledger(replaced)["state"] == "withdrawn", "in the step that offered the newer one"
    assert bench.redis.exists(f"rq:job:{replaced.launch_id}_0") == 0


def test_an_older_attempt_gets_no_pod(bench: Bench) -> None:
    first = bench.request()
    second = replace(first, attempt=1)
    bench.offer(first)
    bench.offer(second)

    async def scenario() -> None:
        await until(lambda: bench.states([second]) == {"created": 1})

    during(bench, scenario)
    assert [pod["metadata"]["labels"][identifiers.LABEL_ATTEMPT] for pod in bench.api.pods.values()] == ["1"]


def test_a_launch_that_is_withdrawn_while_its_pod_is_made_loses_the_pod(bench: Bench) -> None:
    request = bench.request()
    bench.api.latency_s = 0.3
    bench.offer(request)

    async def scenario() -> None:
        await until(lambda: bench.api.creates)
        bench.queue.withdraw([(request.launch_id, request.subject)])
        await until(lambda: bench.api.names and not bench.api.pods, what="the pod is deleted")

    during(bench, scenario)
    assert bench.states([request]) == {"withdrawn": 1}
    assert bench.in_hand() == 0


def test_a_pod_that_began_before_its_launcher_could_say_so_is_left(bench: Bench) -> None:
    """The launcher did not reach Redis for a while: by then the pod may run the task, whatever became of its launch."""
    request = bench.request()
    bench.api.latency_s = 0.3
    bench.api.fault = lambda _, pod: pod.update(status={"phase": "Running"})
    bench.offer(request)
    job = f"rq:job:{request.launch_id}_0-pending-revoke"

    async def scenario() -> None:
        await until(lambda: bench.api.creates)
        bench.queue.withdraw([(request.launch_id, request.subject)])
        await until(lambda: bench.redis.hget(job, "status") == "finished")

    during(bench, scenario)
    assert len(bench.api.pods) == 1
    assert bench.in_hand() == 0


def test_a_launch_that_is_withdrawn_while_it_waits_for_its_template_gets_no_pod(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hook that takes longer than a lease: the renewal finds out that nobody wants the pod any more."""
    monkeypatch.setattr("airflow.settings.pod_mutation_hook", lambda pod: time.sleep(2.0))
    request = bench.request()
    bench.offer(request)

    async def scenario() -> None:
        await until(lambda: bench.states([request]) == {"claimed": 1})
        bench.queue.withdraw([(request.launch_id, request.subject)])
        await until(lambda: bench.redis.hget(f"rq:job:{request.launch_id}_0", "status") == "canceled")

    during(bench, scenario)
    assert not bench.api.creates
    assert bench.in_hand() == 0


def test_after_data_loss_the_same_launch_is_offered_again_and_keeps_its_pod(bench: Bench) -> None:
    request = bench.request()
    bench.offer(request)

    async def scenario() -> None:
        await until(lambda: bench.states([request]) == {"created": 1})
        bench.redis.flushall()
        bench.offer(request)
        await until(lambda: bench.states([request]) == {"created": 1})

    during(bench, scenario)
    assert sum(bench.api.names.values()) == 1


# --- 409 and lost answers ---------------------------------------------------------------------------------------------
def test_a_pod_of_ours_that_is_there_already_is_success(bench: Bench) -> None:
    requests = bench.offer_many(20)
    bench.api.lose_answers = 7

    async def scenario() -> None:
        await until(lambda: bench.states(requests) == {"created": 20})

    during(bench, scenario)
    assert set(bench.api.names.values()) == {1}
    assert len(bench.api.names) == 20
    for request in requests:
        entry = bench.ledger(request)
        assert bench.api.pods["default", entry["pod"]]["metadata"]["uid"] == entry["uid"]


def test_a_strangers_pod_of_that_name_fails_the_launch(bench: Bench) -> None:
    request = bench.request()
    body = ManifestRenderer("default").render(request)
    name = body["metadata"]["name"]
    bench.api.pods["default", name] = {"metadata": {"name": name, "namespace": "default", "uid": "other", "labels": {}}}
    bench.offer(request)

    async def scenario() -> None:
        await until(bench.results)

    during(bench, scenario)
    (result,) = bench.results()
    assert (result.outcome, result.reason, result.pod) == ("failed", "PodRefused", "")
    assert "is not of this launch" in result.message


# --- what can never succeed -------------------------------------------------------------------------------------------
def test_a_refused_pod_fails_its_launch_with_the_servers_words_and_no_other(bench: Bench) -> None:
    bad, good = bench.request(1), bench.request(2)
    bench.api.fault = lambda _, pod: (
        status(422, "Invalid", "spec.containers[0].image: Required value")
        if pod["metadata"]["annotations"]["task_id"] == "load1"
        else None
    )
    bench.offer(bad, good)

    async def scenario() -> None:
        await until(lambda: bench.states([bad, good]) == {"finished": 1, "created": 1})

    during(bench, scenario)
    (result,) = bench.results()
    assert (result.launch_id, result.failure_class) == (bad.launch_id, "configuration")
    assert result.message == "spec.containers[0].image: Required value"
    assert bench.redis.hget(f"rq:job:{bad.launch_id}_0", "status") == "failed"
    assert bench.redis.zcard(redis_keys.rq_failed(bench.names.launch_queue("default"))) == 1
    assert bench.redis.ttl(f"rq:job:{bad.launch_id}_0") <= 86_400


def test_what_the_server_says_may_be_any_text(bench: Bench) -> None:
    bad = bench.request(1)
    bench.api.fault = lambda *_: status(422, "Invalid", "half a pair: \ud800, a nul: \x00, a bell: \a")
    bench.offer(bad)

    async def scenario() -> None:
        await until(lambda: bench.states([bad]) == {"finished": 1} and not bench.in_hand())

    during(bench, scenario)
    assert bench.results()[0].message.startswith("half a pair: ?")


def test_a_fault_of_the_launcher_is_tried_again_before_it_fails_a_launch(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(ManifestRenderer, "render")
    first, often = bench.request(1), bench.request(2)
    bench.offer(first, often)
    bench.redis.hset(f"rq:job:{often.launch_id}_0", "waits", 4)

    async def scenario() -> None:
        await until(lambda: bench.states([first, often]) == {"waiting": 1, "finished": 1})

    during(bench, scenario)
    (result,) = bench.results()
    assert (result.launch_id, result.reason) == (often.launch_id, "LauncherError")
    assert bench.ledger(first)["reason"] == "LauncherError"


def test_a_missing_template_fails_only_the_launches_that_need_it(bench: Bench) -> None:
    bench.template.unlink()
    own = bench.folder / "own.yaml"
    own.write_text("spec: {containers: [{name: base, image: x}]}")
    bad, good = bench.request(1), bench.request(2, pod_template_file=str(own))
    bench.offer(bad, good)

    async def scenario() -> None:
        await until(lambda: bench.states([bad, good]) == {"finished": 1, "created": 1})

    during(bench, scenario)
    (result,) = bench.results()
    assert result.reason == "InvalidPod"
    assert "[kubernetes_executor] pod_template_file" in result.message


def test_an_edited_template_counts_from_the_next_pod_on(bench: Bench) -> None:
    first, second = bench.request(1), bench.request(2)

    async def scenario() -> None:
        bench.offer(first)
        await until(lambda: bench.states([first]) == {"created": 1})
        bench.template.write_text(bench.template.read_text().replace("3.3.2", "3.3.3-edited"))
        bench.offer(second)
        await until(lambda: bench.states([second]) == {"created": 1})

    during(bench, scenario)
    images = [pod["spec"]["containers"][0]["image"] for pod in bench.api.pods.values()]
    assert images == ["apache/airflow:3.3.2", "apache/airflow:3.3.3-edited"]


def test_a_token_that_ends_too_soon_makes_no_pod(bench: Bench) -> None:
    old, fresh = bench.request(not_after_s=time.time() + 30), bench.request(not_after_s=time.time() + 90)
    bench.offer(old, fresh)

    async def scenario() -> None:
        await until(lambda: bench.states([old, fresh]) == {"finished": 1, "created": 1})

    during(bench, scenario)
    (result,) = bench.results()
    assert (result.launch_id, result.outcome) == (old.launch_id, "expired")
    assert bench.api.calls["create"] == 1


# --- poison -----------------------------------------------------------------------------------------------------------
class Gadget:
    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise SystemExit('a gadget ran')",))


def forge(bench: Bench, request: LaunchRequest, data: bytes | str) -> None:
    bench.redis.hset(f"rq:job:{request.launch_id}_{request.attempt}", "data", data)  # type: ignore[arg-type]


def test_numbers_that_are_none_hold_up_nothing(bench: Bench) -> None:
    forged, good = bench.request(1), bench.request(2)
    bench.offer(forged, good)
    bench.redis.hset(f"rq:job:{forged.launch_id}_0", "waits", "x")
    bench.redis.hset(bench.names.launch(forged.launch_id), mapping={"t_offered": "x", "t_pending": "nan"})

    during(bench, lambda: until(lambda: bench.states([forged, good]) == {"created": 2}))


def test_poison_goes_to_quarantine_and_the_rest_goes_on(bench: Bench) -> None:
    gadget, function, flipped, replayed, good = (bench.request(number) for number in range(5))
    bench.offer(gadget, function, flipped, replayed, good)
    forge(bench, gadget, pickle.dumps(Gadget()))
    call = json.loads(bench.redis.hget(f"rq:job:{function.launch_id}_0", "data") or "")
    forge(bench, function, json.dumps(["os.system", None, call[2], {}]))
    call = json.loads(bench.redis.hget(f"rq:job:{flipped.launch_id}_0", "data") or "")
    call[2][0] = call[2][0][:50] + ("A" if call[2][0][50] != "A" else "B") + call[2][0][51:]
    forge(bench, flipped, json.dumps(call))
    forge(bench, replayed, bench.redis.hget(f"rq:job:{good.launch_id}_0", "data") or "")
    # A stranger's job, and one that nobody offered.
    queue = redis_keys.rq_queue(bench.names.launch_queue("default"))
    for job in ("evil", f"{good.launch_id}x_0"):
        bench.redis.hset(f"rq:job:{job}", mapping={"status": "queued", "data": pickle.dumps(Gadget()), "origin": "x"})
        bench.redis.rpush(queue, job)

    # And one whose keys are of another type.
    bench.redis.set("rq:job:0-0_0", "x")
    bench.redis.lpush(queue, "0-0_0")

    async def scenario() -> None:
        await until(lambda: bench.states([good]) == {"created": 1})
        await until(lambda: len(bench.quarantined()) == 7 and not bench.in_hand())

    during(bench, scenario)
    assert bench.api.calls["create"] == 1
    told = json.dumps(bench.quarantined())
    assert "gAAAA" not in told
    assert TOKEN not in told
    for request in (gadget, function, flipped, replayed):
        assert bench.redis.hget(f"rq:job:{request.launch_id}_0", "status") == "failed"


# --- priorities -------------------------------------------------------------------------------------------------------
def test_urgent_launches_overtake_a_backlog(bench: Bench) -> None:
    bench.api.latency_s = 0.02
    backlog = bench.offer_many(300, priority=1)

    async def scenario() -> None:
        await until(lambda: len(bench.api.creates) > 20)
        urgent = bench.offer_many(20, priority=10)
        await until(lambda: bench.states(urgent) == {"created": 20})
        assert bench.states(backlog).get("created", 0) < 150

    during(bench, scenario, launcher_concurrency=8)


def test_low_priorities_are_not_starved(bench: Bench) -> None:
    bench.api.latency_s = 0.02
    bench.offer_many(300, priority=64)
    low = bench.offer_many(5, priority=1)

    async def scenario() -> None:
        await until(lambda: bench.states(low) == {"created": 5})

    during(bench, scenario, launcher_concurrency=8)
    assert bench.api.calls["create"] < 150
