"""Quota, throttling and a failing API server: launches wait together; none is lost or failed."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from aiohttp import web

from podrelay_workers.launcher.wait_limit import WaitLimit
from tests.harness.launcher_rig import LauncherRig
from tests.harness.pod_api import Json, status
from tests.harness.waiting import LoopStall, until


def test_no_launcher_creates_inside_a_retry_after_window(rig: LauncherRig) -> None:
    requests = rig.offer_many(200)
    refused: list[float] = []

    def throttle(_: web.Request, __: Json) -> web.Response | None:
        if len(rig.api.pods) >= 60 and (not refused or time.monotonic() - refused[0] < 0.02):
            refused.append(time.monotonic())
            return status(429, "TooManyRequests", "slow down", retry_after="1")
        return None

    async def scenario() -> float:
        rig.api.latency_s = 0.02
        rig.api.fault = throttle
        async with LoopStall() as stall, rig.launcher(), rig.launcher():
            await until(lambda: rig.states(requests) == {"created": 200}, 20)
        return stall.longest_s

    stalled_s = asyncio.run(scenario())
    # Requests sent before the answer arrived cannot be recalled: one round trip, and one message to the other launcher. Each
    # of these may meet a stall: of a launcher, and of the API server in this process.
    sent_s = 0.2 + 3 * stalled_s
    inside = [at - refused[0] for at, _ in rig.api.creates if refused[0] + sent_s < at < refused[0] + 1.0]
    assert inside == []
    assert set(rig.api.names.values()) == {1}


def test_a_launcher_that_cannot_reach_redis_obeys_retry_after_by_itself(rig: LauncherRig) -> None:
    rig.offer_many(60)
    refused: list[float] = []

    def throttle(_: web.Request, __: Json) -> web.Response | None:
        if not refused:
            rig.redis.client_pause(2500)  # Redis stops answering: the launcher relies on its own memory
            refused.append(time.monotonic())
        return status(429, "TooManyRequests", "slow down", retry_after="6")

    async def scenario() -> None:
        rig.api.latency_s = 0.02
        rig.api.fault = throttle
        async with rig.launcher(launch_lease_s=30.0):
            await until(lambda: refused)
            # More jobs are held than sent: the rest are sent once the first have failed to reach Redis.
            await asyncio.sleep(4.5)

    asyncio.run(scenario())
    assert [at - refused[0] for at, _ in rig.api.creates if at > refused[0] + 0.3] == []


def test_a_new_launcher_obeys_retry_after_though_redis_lost_its_data(rig: LauncherRig) -> None:
    rig.offer_many(20)
    asked_s = 5
    refused: list[float] = []

    def throttle(_: web.Request, __: Json) -> web.Response | None:
        refused.append(time.monotonic())
        asked = refused[0] + asked_s - time.monotonic() > 0.5
        return status(429, "TooManyRequests", "slow down", retry_after=str(asked_s)) if asked else None

    async def scenario() -> None:
        rig.api.fault = throttle
        async with rig.launcher():
            await until(lambda: refused and rig.redis.exists(rig.names.throttle("default")))
            await asyncio.sleep(0.3)
            rig.redis.flushall()
            await asyncio.sleep(1.0)
            again = rig.offer_many(20)  # as a scheduler does after data loss
            async with rig.launcher():
                await until(lambda: rig.states(again) == {"created": 20}, 15)

    asyncio.run(scenario())
    inside = [at - refused[0] for at, _ in rig.api.creates if refused[0] + 0.3 < at < refused[0] + asked_s - 0.1]
    assert inside == []


def test_a_full_quota_costs_few_refusals(rig: LauncherRig) -> None:
    requests = rig.offer_many(60, namespace="small")
    other = rig.offer_many(5, namespace="default")
    rig.api.quota["small"] = 10

    async def end_pods() -> None:
        while True:
            await asyncio.sleep(0.6)
            for key in [key for key in list(rig.api.pods) if key[0] == "small"][:10]:
                rig.api.pods.pop(key, None)

    async def scenario() -> None:
        ending = asyncio.create_task(end_pods(), name="end pods")
        async with rig.launcher(), rig.launcher():
            await until(lambda: rig.states(other) == {"created": 5}, 20, "another namespace is not held up")
            await until(lambda: rig.states(requests) == {"created": 60}, 60)
        ending.cancel()

    asyncio.run(scenario())
    assert rig.api.calls["create"] - 5 <= 120
    assert not [result for result in rig.results() if result.outcome == "failed"]


def test_a_launch_that_waits_for_quota_is_reported(rig: LauncherRig) -> None:
    request = rig.request(namespace="full")
    rig.api.quota["full"] = 0
    rig.offer(request)
    # Offered a while ago, because short waits are not reported.
    rig.redis.hset(rig.names.launch(request.launch_id), "t_offered", time.time() - 60)

    async def scenario() -> None:
        async with rig.launcher():
            await until(rig.results)
            await asyncio.sleep(2.5)

    asyncio.run(scenario())
    (result,) = rig.results()
    assert (result.outcome, result.reason) == ("pending", "QuotaExceeded")
    assert "exceeded quota" in result.message
    entry = rig.ledger(request)
    assert (entry["state"], entry["reason"]) == ("waiting", "QuotaExceeded")


def test_a_failing_server_is_waited_for(rig: LauncherRig) -> None:
    requests = rig.offer_many(50)
    until_s = time.monotonic() + 2.0
    rig.api.fault = lambda *_: (
        status(500, "InternalError", "etcdserver: leader changed") if time.monotonic() < until_s else None
    )

    async def scenario() -> None:
        async with rig.launcher(), rig.launcher():
            await until(lambda: rig.states(requests) == {"created": 50}, 20)

    asyncio.run(scenario())
    assert not rig.results()
    # Two launchers send all 50 requests at once, and half as many after each pause that did not help, down to one: the outage
    # costs less than twice the first attempt.
    assert rig.api.calls["create"] < 50 + 2 * 50


def test_a_launch_that_alone_meets_a_failing_webhook_holds_up_nobody(rig: LauncherRig) -> None:
    first, bad = rig.offer_many(5), rig.request(number=1000)
    name, broken = bad.launch_id.replace("-", ""), True

    def webhook(_: web.Request, pod: Json) -> web.Response | None:
        if broken and name in pod["metadata"]["name"]:
            return status(500, "InternalError", "failed calling webhook: connection refused")
        return None

    def tries() -> list[float]:
        return [at for at, pod in rig.api.creates if name in pod]

    async def scenario() -> list[dict[str, int]]:
        nonlocal broken
        rig.api.latency_s = 0.01
        rig.api.fault = webhook
        async with rig.launcher():
            await until(lambda: rig.states(first) == {"created": 5})
            rig.offer(bad)
            seen = []
            for _ in range(15):  # other launches succeed while the bad one keeps failing
                others = rig.offer_many(4)
                await asyncio.sleep(0.15)
                seen.append(rig.states(others))
            assert rig.ledger(bad)["reason"] == "WebhookFailed"
            await until(lambda: len(tries()) > 3)
            broken = False
            await until(lambda: rig.states([bad]) == {"created": 1}, 15)
        return seen

    seen = asyncio.run(scenario())
    assert seen == [{"created": 4}] * 15
    first_s, second_s, third_s, fourth_s = tries()[:4]
    assert fourth_s - third_s > second_s - first_s, "it waits longer each time"
    assert {result.outcome for result in rig.results()} <= {"pending"}, "a wait may be reported"


def test_a_webhook_that_is_away_for_one_namespace_holds_up_no_other(rig: LauncherRig) -> None:
    """Also when a launcher has just started, and when many launches fail."""
    bad = rig.offer_many(60, namespace="bad")
    good = rig.offer_many(20, namespace="good")
    message = (
        'Internal error occurred: failed calling webhook "w.io": failed to call webhook: context deadline exceeded'
    )
    rig.api.fault = lambda request, _: (
        status(500, "InternalError", message) if request.match_info["namespace"] == "bad" else None
    )

    async def scenario() -> None:
        async with rig.launcher():
            await until(lambda: rig.states(good) == {"created": 20}, 5)
            assert not rig.redis.hget(rig.names.throttle("default"), "failures")
            rig.api.fault = None
            await until(lambda: rig.states(bad) == {"created": 60}, 20)

    asyncio.run(scenario())


def test_a_server_that_is_away_is_waited_for(rig: LauncherRig) -> None:
    requests = rig.offer_many(10)

    def refuse(request: web.Request, _: Json) -> web.Response | None:
        if time.monotonic() < until_s:
            assert request.transport is not None
            request.transport.close()
        return None

    until_s = time.monotonic() + 1.0
    rig.api.fault = refuse

    async def scenario() -> None:
        async with rig.launcher():
            await until(lambda: rig.states(requests) == {"created": 10}, 20)

    asyncio.run(scenario())
    assert set(rig.api.names.values()) == {1}


def fails_with(rig: LauncherRig, answer: Any, wait_limit: WaitLimit) -> Any:
    request = rig.request(namespace="full")
    rig.api.fault = lambda *_: answer()
    rig.offer(request)

    async def scenario() -> None:
        async with rig.launcher(wait_limit=wait_limit):
            await until(lambda: [item for item in rig.results() if item.outcome == "failed"], 15)

    asyncio.run(scenario())
    return next(item for item in rig.results() if item.outcome == "failed")


def test_patience_ends_with_the_servers_words(rig: LauncherRig) -> None:
    result = fails_with(rig, lambda: status(403, "Forbidden", "pods is forbidden: exceeded quota: q"), WaitLimit(1.5))
    assert (result.reason, result.failure_class, result.pod) == ("QuotaExceeded", "infrastructure", "")
    assert result.message.endswith("exceeded quota: q")


def test_the_configured_number_of_tries_is_kept(rig: LauncherRig) -> None:
    result = fails_with(rig, lambda: status(429, "TooManyRequests", "slow down"), WaitLimit(600.0, tries_max=1))
    assert result.reason == "Throttled"
    assert rig.api.calls["create"] == 2
