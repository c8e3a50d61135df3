"""What an answer of the API server means for a launch, and how many creations are in flight."""

from __future__ import annotations

import asyncio
import json

import pytest

from podrelay_workers.kube.errors import error_of
from podrelay_workers.launcher.error_policy import (
    PAUSE_MOST_S,
    SETTLE_TRIES,
    ApiServerHealth,
    Concurrency,
    classify_error,
)


def error(status: int, message: str = "m", reason: str = "", retry_after: str | None = None) -> object:
    body = json.dumps({"kind": "Status", "message": message, "reason": reason}).encode()
    return error_of(status, "phrase", {"Retry-After": retry_after} if retry_after else {}, body)


EXCEEDED = 'pods "x" is forbidden: exceeded quota: q, '
FULL = EXCEEDED + "requested: limits.cpu=500m,pods=1, used: limits.cpu=4,pods=9, limited: limits.cpu=4,pods=9"
HELD = EXCEEDED + "requested: count/pods=1,pods=1, used: count/pods=0,pods=0, limited: count/pods=0,pods=0"
LARGE = EXCEEDED + "requested: requests.memory=9Gi, used: requests.memory=0, limited: requests.memory=8192Mi"
NO_ACCOUNT = 'pods "x" is forbidden: error looking up service account n/default: serviceaccount "default" not found'
NO_ROLE = 'pods is forbidden: User "u" cannot create resource "pods" in API group "" in the namespace "n"'
ENDING = 'pods "x" is forbidden: unable to create new content in namespace n because it is being terminated'
DENIED = 'admission webhook "w" denied the request: no'


@pytest.mark.parametrize(
    ("status", "message", "reason", "retry_after", "scope", "seconds"),
    [
        (429, "slow", "TooManyRequests", "7", "cluster", 7.0),
        (429, "slow", "TooManyRequests", None, "cluster", None),
        (429, "slow", "TooManyRequests", "99999", "cluster", PAUSE_MOST_S),
        (500, "etcd", "InternalError", None, "cluster", None),
        (503, "busy", "ServiceUnavailable", "2", "cluster", 2.0),
        (401, "who", "Unauthorized", None, "cluster", None),
        (403, "exceeded quota: q", "Forbidden", None, "namespace", None),
        (403, FULL, "Forbidden", None, "namespace", None),
        (403, HELD, "Forbidden", None, "namespace", None),
        (
            403,
            'pods "x" is forbidden: status unknown for quota: q, resources: pods',
            "Forbidden",
            None,
            "namespace",
            None,
        ),
        (403, 'pods "x" is forbidden: failed quota: q: must specify cpu for: base', "Forbidden", None, "never", None),
        (
            403,
            'pods "x" is forbidden: violates PodSecurity "baseline:latest": host namespaces',
            "Forbidden",
            None,
            "never",
            None,
        ),
        (403, "cannot create", "Forbidden", None, "never", None),
        (403, ENDING, "Forbidden", None, "never", None),
        (500, "etcdserver: request is too large", "", None, "never", None),
        (400, "bad", "BadRequest", None, "never", None),
        (404, "no namespace", "NotFound", None, "never", None),
        (422, "bad", "Invalid", None, "never", None),
        (413, "large", "RequestEntityTooLarge", None, "never", None),
    ],
)
def test_verdicts(
    status: int, message: str, reason: str, retry_after: str | None, scope: str, seconds: float | None
) -> None:
    verdict = classify_error(error(status, message, reason, retry_after), 0)  # type: ignore[arg-type]
    assert (verdict.scope, verdict.seconds, verdict.message) == (scope, seconds, message)


def test_a_pod_larger_than_its_quota_holds_up_nobody_else() -> None:
    waits = [classify_error(error(403, LARGE, "Forbidden"), tries) for tries in (0, 20)]  # type: ignore[arg-type]
    assert [(wait.scope, wait.reason) for wait in waits] == [("launch", "QuotaExceeded")] * 2
    assert (waits[0].seconds or 0) <= 1.0 < (waits[1].seconds or 0) <= 15.0


@pytest.mark.parametrize("message", [NO_ACCOUNT, NO_ROLE])
def test_what_a_new_namespace_lacks_is_waited_for_about_ten_seconds(message: str) -> None:
    verdicts = [classify_error(error(403, message, "Forbidden"), tries) for tries in range(SETTLE_TRIES + 1)]  # type: ignore[arg-type]
    assert [verdict.scope for verdict in verdicts] == ["launch"] * SETTLE_TRIES + ["never"]
    assert 5.0 < sum(verdict.seconds or 0.0 for verdict in verdicts) < 30.0


@pytest.mark.parametrize("status", [401, 429, 500, 503])
def test_a_webhooks_own_code_says_nothing_about_the_server(status: int) -> None:
    verdict = classify_error(error(status, DENIED), 3)  # type: ignore[arg-type]
    assert (verdict.scope, verdict.slower) == ("launch", False)
    assert classify_error(error(403, DENIED, "Forbidden"), 0).scope == "never"  # type: ignore[arg-type]


BROKEN = 'Internal error occurred: failed calling webhook "w.io": failed to call webhook: Post "https://w.svc:443": EOF'


def test_a_webhook_that_cannot_be_called_says_nothing_about_the_server() -> None:
    verdicts = [classify_error(error(500, BROKEN, "InternalError"), tries) for tries in (0, 20)]  # type: ignore[arg-type]
    assert [(verdict.scope, verdict.reason, verdict.slower) for verdict in verdicts] == [
        ("launch", "WebhookFailed", False)
    ] * 2
    assert (verdicts[0].seconds or 0.0) <= 1.0 < 7.0 < (verdicts[1].seconds or 0.0) <= 15.0


def test_a_conflict_waits_longer_each_time() -> None:
    waits = [classify_error(error(409, "object has been modified", "Conflict"), tries).seconds for tries in (0, 8)]  # type: ignore[arg-type]
    assert waits[0] is not None
    assert waits[1] is not None
    assert waits[0] <= 0.2 < waits[1] <= 5.0


def test_a_server_error_that_meets_one_launch_alone_is_its_own_and_waits_longer_each_time() -> None:
    verdicts = [classify_error(error(500, "webhook", "InternalError"), tries, alone=True) for tries in (0, 1, 20)]  # type: ignore[arg-type]
    assert [verdict.scope for verdict in verdicts] == ["launch"] * 3
    assert all(verdict.ambiguous and not verdict.slower for verdict in verdicts)
    waits = [verdict.seconds or 0.0 for verdict in verdicts]
    assert waits[0] <= 0.25 < 5.0 < waits[2] <= 15.0
    asked = classify_error(error(503, "busy", "ServiceUnavailable", "2"), 0, alone=True)  # type: ignore[arg-type]
    assert (asked.scope, asked.seconds) == ("cluster", 2.0)


def test_one_launch_that_fails_among_others_that_succeed_is_alone() -> None:
    health = ApiServerHealth()
    assert not health.failed_alone("a"), "a server that never worked may be down"
    health.succeeded()
    assert health.failed_alone("a")
    assert health.failed_alone("a")
    assert not health.failed_alone("b"), "two in a row: the server fails"
    health.succeeded()
    assert health.failed_alone("b")


def used(concurrency: Concurrency, latency_s: float, times: int = 1) -> None:
    """Answers while every slot is in use."""
    concurrency._sending = concurrency.limit
    for _ in range(times):
        concurrency.succeeded(latency_s)


def test_concurrency_doubles_while_latency_is_flat_up_to_the_ceiling() -> None:
    concurrency = Concurrency(64, start=8)
    for _ in range(3):
        used(concurrency, 0.05, concurrency.limit)
    assert concurrency.limit == 64


def test_concurrency_does_not_grow_with_latency_nor_without_load() -> None:
    slow = Concurrency(1000, start=100)
    used(slow, 0.05)
    used(slow, 0.5, 1000)
    assert slow.limit < 130
    idle = Concurrency(1000, start=100)
    for _ in range(1000):
        idle.succeeded(0.05)
    assert idle.limit == 100


def test_concurrency_halves_once_for_what_failed_together_and_never_below_one() -> None:
    concurrency = Concurrency(64, start=64)
    for number in range(10):
        concurrency.failed(99.0 + number / 100, 100.0 + number / 100)
    assert concurrency.limit == 32
    concurrency.failed(99.9, 120.0)
    assert concurrency.limit == 32, "sent before, answered late"
    concurrency.failed(120.1, 120.2)
    assert concurrency.limit == 16, "after a pause, however short"
    for second in range(121, 130):
        concurrency.failed(float(second), second + 0.1)
    assert (concurrency.limit, concurrency.free) == (1, 1)


def test_no_more_are_sent_at_once_than_allowed_and_a_cancelled_turn_is_passed_on() -> None:
    concurrency = Concurrency(8, start=8)
    most, sent = 0, 0

    async def send() -> None:
        nonlocal most, sent
        async with concurrency.slot():
            most = max(most, concurrency._sending)
            await asyncio.sleep(0)
            sent += 1

    async def scenario() -> None:
        tasks = [asyncio.ensure_future(send()) for _ in range(100)]
        await asyncio.sleep(0)
        for task in tasks[20:40]:
            task.cancel()
        concurrency.failed(0.0, 0.1)
        await asyncio.wait(tasks)

    asyncio.run(scenario())
    assert (most, sent, concurrency._sending) == (8, 80, 0)


def test_a_few_more_are_in_hand_than_sent() -> None:
    concurrency = Concurrency(64, start=64)
    assert concurrency.free == 80
    concurrency.in_flight = 80
    assert concurrency.free == 0
