"""One launcher: only a current, genuine and valid launch gets a pod."""

from __future__ import annotations

import asyncio
import json
import pickle
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import pytest
from aiohttp import web
from rq import suspension

from podrelay.protocol import identifiers, jobs, redis_keys
from podrelay.protocol.messages import LaunchRequest
from podrelay_workers.launcher.error_policy import PAUSE_MOST_S
from podrelay_workers.launcher.pod_manifest import ManifestRenderer
from podrelay_workers.launcher.throttle import Pause
from podrelay_workers.launcher.wait_limit import WaitLimit
from tests.harness.launcher_rig import TOKEN, LauncherRig
from tests.harness.pod_api import Json, status
from tests.harness.waiting import until


def during(rig: LauncherRig, scenario: Callable[[], Coroutine[Any, Any, None]], **changes: Any) -> None:
    """Run the scenario beside a launcher."""

    async def run() -> None:
        async with rig.launcher(**changes):
            await scenario()

    asyncio.run(run())


def test_launches_become_pods(rig: LauncherRig) -> None:
    requests = rig.offer_many(100)

    async def scenario() -> None:
        await until(lambda: rig.states(requests) == {"created": 100}, what="100 created")

    during(rig, scenario)
    assert len(rig.api.pods) == rig.api.calls["create"] == 100
    assert rig.in_hand() == 0
    entry = rig.ledger(requests[0])
    pod = rig.api.pods["default", entry["pod"]]
    assert pod["metadata"]["uid"] == entry["uid"]
    assert float(entry["t_offered"]) <= float(entry["t_claimed"]) <= float(entry["t_created"])
    assert pod["metadata"]["labels"][identifiers.LABEL_LAUNCH_ID] == requests[0].launch_id
    assert pod["metadata"]["annotations"][identifiers.ANNOTATION_SUBJECT] == requests[0].subject
    assert pod["metadata"]["labels"]["from"] == "template"


def test_a_finished_job_keeps_no_token_in_redis(rig: LauncherRig) -> None:
    request = rig.request()
    rig.offer(request)
    sealed = rig.redis.hget(f"rq:job:{request.launch_id}_0", "data")

    async def scenario() -> None:
        await until(lambda: rig.states([request]) == {"created": 1})

    during(rig, scenario)
    assert sealed
    assert rig.redis.hget(f"rq:job:{request.launch_id}_0", "data") == json.dumps([jobs.LAUNCH_FUNCTION, None, [], {}])


def created(rig: LauncherRig, request: LaunchRequest) -> bool:
    return rig.states([request]) == {"created": 1}


def test_an_idle_launcher_wakes_within_milliseconds(rig: LauncherRig) -> None:
    waits = []

    async def scenario() -> None:
        await asyncio.sleep(0.3)
        for number in range(10):
            request = rig.request(number)
            began = time.monotonic()
            rig.offer(request)
            await until(partial(created, rig, request))
            waits.append(rig.api.creates[-1][0] - began)
            await asyncio.sleep(0.05)

    during(rig, scenario)
    assert sorted(waits)[5] < 0.05


# --- the fence --------------------------------------------------------------------------------------------------------
def test_withdrawn_and_superseded_launches_get_no_pod(rig: LauncherRig) -> None:
    withdrawn, replaced, newer, wanted = (rig.request(number) for number in range(4))
    newer = newer.replaced(subject=replaced.subject)
    rig.offer(withdrawn, replaced)
    rig.queue.withdraw([(withdrawn.launch_id, withdrawn.subject)])
    rig.offer(newer, wanted)

    async def scenario() -> None:
        await until(lambda: rig.states([newer, wanted]) == {"created": 2})

    during(rig, scenario)
    made = {pod["metadata"]["labels"][identifiers.LABEL_LAUNCH_ID] for pod in rig.api.pods.values()}
    assert made == {newer.launch_id, wanted.launch_id}
    assert rig.ledger(replaced)["state"] == "withdrawn", "withdrawn in the step that offered the newer launch"
    assert rig.redis.exists(f"rq:job:{replaced.launch_id}_0") == 0


def test_an_older_attempt_gets_no_pod(rig: LauncherRig) -> None:
    first = rig.request()
    second = first.replaced(attempt=1)
    rig.offer(first)
    rig.offer(second)

    async def scenario() -> None:
        await until(lambda: rig.states([second]) == {"created": 1})

    during(rig, scenario)
    assert [pod["metadata"]["labels"][identifiers.LABEL_ATTEMPT] for pod in rig.api.pods.values()] == ["1"]


def test_a_launch_that_is_withdrawn_while_its_pod_is_made_loses_the_pod(rig: LauncherRig) -> None:
    request = rig.request()
    rig.api.latency_s = 0.3
    rig.offer(request)

    async def scenario() -> None:
        await until(lambda: rig.api.creates)
        rig.queue.withdraw([(request.launch_id, request.subject)])
        await until(lambda: rig.api.names and not rig.api.pods, what="the pod is deleted")

    during(rig, scenario)
    assert rig.states([request]) == {"withdrawn": 1}
    assert rig.in_hand() == 0


def test_a_pod_that_began_before_its_launcher_could_say_so_is_left(rig: LauncherRig) -> None:
    """While the launcher could not reach Redis, the pod may have started its task; it then keeps running."""
    request = rig.request()
    rig.api.latency_s = 0.3
    rig.api.fault = lambda _, pod: pod.update(status={"phase": "Running"})
    rig.offer(request)
    job = f"rq:job:{request.launch_id}_0-pending-revoke"

    async def scenario() -> None:
        await until(lambda: rig.api.creates)
        rig.queue.withdraw([(request.launch_id, request.subject)])
        await until(lambda: rig.redis.hget(job, "status") == "finished")

    during(rig, scenario)
    assert len(rig.api.pods) == 1
    assert rig.in_hand() == 0


def test_a_launch_that_is_withdrawn_while_it_waits_for_its_template_gets_no_pod(
    rig: LauncherRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hook takes longer than a lease: renewing it shows that the launch was withdrawn."""
    monkeypatch.setattr("airflow.settings.pod_mutation_hook", lambda pod: time.sleep(2.0))
    request = rig.request()
    rig.offer(request)

    async def scenario() -> None:
        await until(lambda: rig.states([request]) == {"claimed": 1})
        rig.queue.withdraw([(request.launch_id, request.subject)])
        await until(lambda: rig.redis.hget(f"rq:job:{request.launch_id}_0", "status") == "canceled")

    during(rig, scenario)
    assert not rig.api.creates
    assert rig.in_hand() == 0


def test_after_data_loss_the_same_launch_is_offered_again_and_keeps_its_pod(rig: LauncherRig) -> None:
    request = rig.request()
    rig.offer(request)

    async def scenario() -> None:
        await until(lambda: rig.states([request]) == {"created": 1})
        rig.redis.flushall()
        rig.offer(request)
        await until(lambda: rig.states([request]) == {"created": 1})

    during(rig, scenario)
    assert sum(rig.api.names.values()) == 1


# --- 409 and lost answers ---------------------------------------------------------------------------------------------
def test_a_pod_of_ours_that_is_there_already_is_success(rig: LauncherRig) -> None:
    requests = rig.offer_many(20)
    rig.api.lose_answers = 7

    async def scenario() -> None:
        await until(lambda: rig.states(requests) == {"created": 20})

    during(rig, scenario)
    assert set(rig.api.names.values()) == {1}
    assert len(rig.api.names) == 20
    for request in requests:
        entry = rig.ledger(request)
        assert rig.api.pods["default", entry["pod"]]["metadata"]["uid"] == entry["uid"]


def test_a_strangers_pod_of_that_name_fails_the_launch(rig: LauncherRig) -> None:
    request = rig.request()
    body = ManifestRenderer("default").render(request)
    name = body["metadata"]["name"]
    rig.api.pods["default", name] = {"metadata": {"name": name, "namespace": "default", "uid": "other", "labels": {}}}
    rig.offer(request)

    async def scenario() -> None:
        await until(rig.results)

    during(rig, scenario)
    (result,) = rig.results()
    assert (result.outcome, result.reason, result.pod) == ("failed", "PodRefused", "")
    assert "does not belong to this launch" in result.message


# --- what can never succeed -------------------------------------------------------------------------------------------
def test_a_refused_pod_fails_its_launch_with_the_servers_words_and_no_other(rig: LauncherRig) -> None:
    bad, good = rig.request(1), rig.request(2)
    rig.api.fault = lambda _, pod: (
        status(422, "Invalid", "spec.containers[0].image: Required value")
        if pod["metadata"]["annotations"]["task_id"] == "load1"
        else None
    )
    rig.offer(bad, good)

    async def scenario() -> None:
        await until(lambda: rig.states([bad, good]) == {"finished": 1, "created": 1})

    during(rig, scenario)
    (result,) = rig.results()
    assert (result.launch_id, result.failure_class) == (bad.launch_id, "configuration")
    assert result.message == "spec.containers[0].image: Required value"
    assert rig.redis.hget(f"rq:job:{bad.launch_id}_0", "status") == "failed"
    assert rig.redis.zcard(redis_keys.rq_failed(rig.names.launch_queue("default"))) == 1
    assert rig.redis.ttl(f"rq:job:{bad.launch_id}_0") <= 86_400


def test_a_text_that_cannot_be_stored_holds_up_no_other_launch(rig: LauncherRig) -> None:
    """The refusal of the look that precedes a failure is quoted in the outcome of that launch."""
    odd, other = rig.request(1), rig.request(2)
    rig.api.fault = lambda _, pod: (
        status(422, "Invalid", "no") if odd.launch_id.replace("-", "") in pod["metadata"]["name"] else None
    )
    looks = [lambda: None]  # after the request; the one before the failure is refused
    rig.api.look_fault = lambda *_: looks.pop()() if looks else status(403, "Forbidden", "half a pair: \ud800")
    rig.offer(odd, other)
    rig.redis.hset(f"rq:job:{odd.launch_id}_0", "waits", 1)  # an earlier try may have made its pod

    during(rig, lambda: until(lambda: rig.states([odd, other]) == {"created": 1, "waiting": 1}))
    assert rig.ledger(odd)["message"].endswith("half a pair: ?")


def test_what_the_server_says_may_be_any_text(rig: LauncherRig) -> None:
    bad = rig.request(1)
    rig.api.fault = lambda *_: status(422, "Invalid", "half a pair: \ud800, a nul: \x00, a bell: \a")
    rig.offer(bad)

    async def scenario() -> None:
        await until(lambda: rig.states([bad]) == {"finished": 1} and not rig.in_hand())

    during(rig, scenario)
    assert rig.results()[0].message.startswith("half a pair: ?")


def test_a_fault_of_the_launcher_is_tried_again_before_it_fails_a_launch(
    rig: LauncherRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(ManifestRenderer, "render")
    first, often = rig.request(1), rig.request(2)
    rig.offer(first, often)
    rig.redis.hset(f"rq:job:{often.launch_id}_0", "waits", 4)

    async def scenario() -> None:
        await until(lambda: rig.states([first, often]) == {"waiting": 1, "finished": 1})

    during(rig, scenario)
    (result,) = rig.results()
    assert (result.launch_id, result.reason) == (often.launch_id, "LauncherError")
    assert rig.ledger(first)["reason"] == "LauncherError"


def test_a_missing_template_fails_only_the_launches_that_need_it(rig: LauncherRig) -> None:
    rig.template.unlink()
    own = rig.folder / "own.yaml"
    own.write_text("spec: {containers: [{name: base, image: x}]}")
    bad, good = rig.request(1), rig.request(2, pod_template_file=str(own))
    rig.offer(bad, good)

    async def scenario() -> None:
        await until(lambda: rig.states([bad, good]) == {"finished": 1, "created": 1})

    during(rig, scenario)
    (result,) = rig.results()
    assert result.reason == "InvalidPod"
    assert "[kubernetes_executor] pod_template_file" in result.message


def test_an_edited_template_counts_from_the_next_pod_on(rig: LauncherRig) -> None:
    first, second = rig.request(1), rig.request(2)

    async def scenario() -> None:
        rig.offer(first)
        await until(lambda: rig.states([first]) == {"created": 1})
        rig.template.write_text(rig.template.read_text().replace("3.3.2", "3.3.3-edited"))
        rig.offer(second)
        await until(lambda: rig.states([second]) == {"created": 1})

    during(rig, scenario)
    images = [pod["spec"]["containers"][0]["image"] for pod in rig.api.pods.values()]
    assert images == ["apache/airflow:3.3.2", "apache/airflow:3.3.3-edited"]


def test_a_token_that_ends_too_soon_makes_no_pod(rig: LauncherRig) -> None:
    old, fresh = rig.request(not_after_s=time.time() + 30), rig.request(not_after_s=time.time() + 90)
    rig.offer(old, fresh)

    async def scenario() -> None:
        await until(lambda: rig.states([old, fresh]) == {"finished": 1, "created": 1})

    during(rig, scenario)
    (result,) = rig.results()
    assert (result.launch_id, result.outcome) == (old.launch_id, "expired")
    assert rig.api.calls["create"] == 1


def test_a_short_token_is_no_reason_to_create_nothing(rig: LauncherRig) -> None:
    requests = [rig.request(not_after_s=time.time() + life_s, token_life_s=life_s) for life_s in (60.0, 30.0, 20.0)]
    rig.offer(*requests)

    async def scenario() -> None:
        await until(lambda: rig.states(requests) == {"created": 3})

    during(rig, scenario)
    assert rig.results() == []


@pytest.mark.parametrize("ahead_s", [540.0, -540.0])
def test_the_clock_of_a_launcher_does_not_count(
    rig: LauncherRig, monkeypatch: pytest.MonkeyPatch, ahead_s: float
) -> None:
    good = rig.request(1, not_after_s=time.time() + 90, token_life_s=600.0)
    ended = rig.request(2, not_after_s=time.time() + 1, token_life_s=600.0)
    rig.offer(good, ended)
    true_time = time.time
    refused: list[str] = []

    def throttle(_: web.Request, __: Json) -> web.Response | None:
        refused.append("429")
        return status(429, "TooManyRequests", "slow down", retry_after="0.2") if len(refused) < 3 else None

    async def scenario() -> None:
        rig.api.fault = throttle
        async with rig.launcher(wait_limit=WaitLimit(30.0)):
            await until(lambda: rig.states([good, ended]) == {"finished": 1, "created": 1})

    monkeypatch.setattr(time, "time", lambda: true_time() + ahead_s)
    asyncio.run(scenario())
    assert [(result.launch_id, result.outcome) for result in rig.results()] == [(ended.launch_id, "expired")]


@pytest.mark.parametrize("ahead_s", [540.0, -540.0])
def test_a_scheduler_may_have_another_clock_than_redis(
    rig: LauncherRig, monkeypatch: pytest.MonkeyPatch, ahead_s: float
) -> None:
    true_time = time.time
    with monkeypatch.context() as scheduler:
        scheduler.setattr(time, "time", lambda: true_time() + ahead_s)
        good = rig.request(1, not_after_s=time.time() + 90, token_life_s=600.0)
        ended = rig.request(2, not_after_s=time.time() + 1, token_life_s=600.0)
        rig.offer(good, ended)

    async def scenario() -> None:
        await until(lambda: rig.states([good, ended]) == {"finished": 1, "created": 1})

    during(rig, scenario)
    assert [(result.launch_id, result.outcome) for result in rig.results()] == [(ended.launch_id, "expired")]


def test_a_token_that_is_renewed_in_vain_pauses_the_launch_and_says_why(rig: LauncherRig) -> None:
    """The loop of launcher and executor: each new token has ended before a launcher sees it."""
    first = rig.request(token_life_s=5.0)

    def offer_attempt(attempt: int) -> LaunchRequest:
        request = first.replaced(attempt=attempt, not_after_s=time.time() + 0.1)
        rig.offer(request)
        return request

    def expired(attempt: int) -> bool:
        return any(report.outcome == "expired" and report.attempt == attempt for report in rig.results())

    async def scenario() -> None:
        for attempt in (0, 1):
            offer_attempt(attempt)
            await until(partial(expired, attempt))
        request, began_s = offer_attempt(2), time.monotonic()
        await until(lambda: rig.states([request]) == {"waiting": 1})
        await until(lambda: expired(2))
        assert time.monotonic() - began_s > 1.0

    during(rig, scenario)
    (pending,) = [report for report in rig.results() if report.outcome == "pending"]
    assert (pending.attempt, pending.reason) == (2, "TokenExpired")
    assert "podrelay check" in pending.message
    assert rig.api.calls["create"] == 0


# --- poison -----------------------------------------------------------------------------------------------------------
class Gadget:
    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise SystemExit('a gadget ran')",))


def forge(rig: LauncherRig, request: LaunchRequest, data: bytes | str) -> None:
    rig.redis.hset(f"rq:job:{request.launch_id}_{request.attempt}", "data", data)  # type: ignore[arg-type]


def test_numbers_that_are_none_hold_up_nothing(rig: LauncherRig) -> None:
    forged, good = rig.request(1), rig.request(2)
    rig.offer(forged, good)
    rig.redis.hset(f"rq:job:{forged.launch_id}_0", "waits", "x")
    rig.redis.hset(
        rig.names.launch(forged.launch_id), mapping={"t_offered": "x", "t_pending": "nan", "clock_skew": "inf"}
    )

    during(rig, lambda: until(lambda: rig.states([forged, good]) == {"created": 2}))


def test_a_suspension_is_logged_when_it_begins_and_when_it_ends(
    rig: LauncherRig, caplog: pytest.LogCaptureFixture
) -> None:
    suspension.suspend(rig.redis)  # type: ignore[arg-type]
    request = rig.request()
    rig.offer(request)

    async def scenario() -> None:
        await until(lambda: "RQ is suspended" in caplog.text)
        suspension.resume(rig.redis)  # type: ignore[arg-type]
        await until(lambda: rig.states([request]) == {"created": 1})

    during(rig, scenario)
    lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("launch: RQ ")]
    assert lines == ["launch: RQ is suspended on this Redis; nothing is taken until: rq resume", "launch: RQ goes on"]


def test_a_pause_in_a_message_ends_after_ten_minutes_at_most() -> None:
    pause = Pause()
    for seconds in (float("nan"), 5.0, float("inf"), 1e300):
        pause.extend(seconds)
        assert pause.remaining_s <= PAUSE_MOST_S


def test_pauses_that_are_no_numbers_hold_up_nothing(rig: LauncherRig) -> None:
    request = rig.request()
    fields = ("failures", "until", "cleanup_until", "until:default", "allow:default")
    rig.redis.hset(rig.names.throttle("default"), mapping=dict.fromkeys(fields, "x"))
    answers = [status(429, "TooManyRequests", "later", retry_after="1")]
    rig.api.fault = lambda *_: answers.pop() if answers else None
    rig.offer(request)
    during(rig, lambda: until(lambda: rig.states([request]) == {"created": 1}))


def test_poison_goes_to_quarantine_and_the_rest_goes_on(rig: LauncherRig) -> None:
    gadget, function, flipped, replayed, good = (rig.request(number) for number in range(5))
    rig.offer(gadget, function, flipped, replayed, good)
    forge(rig, gadget, pickle.dumps(Gadget()))
    call = json.loads(rig.redis.hget(f"rq:job:{function.launch_id}_0", "data") or "")
    forge(rig, function, json.dumps(["os.system", None, call[2], {}]))
    call = json.loads(rig.redis.hget(f"rq:job:{flipped.launch_id}_0", "data") or "")
    call[2][0] = call[2][0][:50] + ("A" if call[2][0][50] != "A" else "B") + call[2][0][51:]
    forge(rig, flipped, json.dumps(call))
    forge(rig, replayed, rig.redis.hget(f"rq:job:{good.launch_id}_0", "data") or "")
    # A foreign job, and one that was never offered.
    queue = redis_keys.rq_queue(rig.names.launch_queue("default"))
    for job in ("evil", f"{good.launch_id}x_0"):
        rig.redis.hset(f"rq:job:{job}", mapping={"status": "queued", "data": pickle.dumps(Gadget()), "origin": "x"})
        rig.redis.rpush(queue, job)

    # And one whose keys have unexpected types.
    rig.redis.set("rq:job:0-0_0", "x")
    rig.redis.lpush(queue, "0-0_0")

    async def scenario() -> None:
        await until(lambda: rig.states([good]) == {"created": 1})
        await until(lambda: len(rig.quarantined()) == 7 and not rig.in_hand())

    during(rig, scenario)
    assert rig.api.calls["create"] == 1
    entries = json.dumps(rig.quarantined())
    assert "gAAAA" not in entries
    assert TOKEN not in entries
    for request in (gadget, function, flipped, replayed):
        assert rig.redis.hget(f"rq:job:{request.launch_id}_0", "status") == "failed"


# --- priorities -------------------------------------------------------------------------------------------------------
def test_urgent_launches_overtake_a_backlog(rig: LauncherRig) -> None:
    rig.api.latency_s = 0.02
    backlog = rig.offer_many(300, priority=1)

    async def scenario() -> None:
        await until(lambda: len(rig.api.creates) > 20)
        urgent = rig.offer_many(20, priority=10)
        await until(lambda: rig.states(urgent) == {"created": 20})
        assert rig.states(backlog).get("created", 0) < 150

    during(rig, scenario, launcher_concurrency=8)


def test_low_priorities_are_not_starved(rig: LauncherRig) -> None:
    rig.api.latency_s = 0.02
    rig.offer_many(300, priority=64)
    low = rig.offer_many(5, priority=1)

    async def scenario() -> None:
        await until(lambda: rig.states(low) == {"created": 5})

    during(rig, scenario, launcher_concurrency=8)
    assert rig.api.calls["create"] < 150
