"""What an error of the API server means for a launch."""

from __future__ import annotations

import json

import pytest

from podrelay_workers.kube.errors import error_of
from podrelay_workers.launcher.error_policy import (
    PAUSE_MOST_S,
    SETTLE_S,
    UNAUTHORIZED_S,
    ApiServerHealth,
    classify_error,
    shared_message,
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
        (401, "who", "Unauthorized", None, "cluster", UNAUTHORIZED_S),
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
        (500, "resourceVersion should not be set on objects to be created", "", None, "never", None),
        (400, "bad", "BadRequest", None, "never", None),
        (404, "no namespace", "NotFound", None, "never", None),
        (422, "bad", "Invalid", None, "never", None),
        (413, "large", "RequestEntityTooLarge", None, "never", None),
    ],
)
def test_policies(
    status: int, message: str, reason: str, retry_after: str | None, scope: str, seconds: float | None
) -> None:
    policy = classify_error(error(status, message, reason, retry_after), 0)  # type: ignore[arg-type]
    assert (policy.scope, policy.seconds, policy.message) == (scope, seconds, message)


def test_a_pod_larger_than_its_quota_blocks_no_other_launch() -> None:
    waits = [classify_error(error(403, LARGE, "Forbidden"), tries) for tries in (0, 20)]  # type: ignore[arg-type]
    assert [(wait.scope, wait.reason) for wait in waits] == [("launch", "QuotaExceeded")] * 2
    assert (waits[0].seconds or 0) <= 1.0 < (waits[1].seconds or 0) <= 15.0


@pytest.mark.parametrize("tries", [0, 50])
@pytest.mark.parametrize(
    "message",
    [
        NO_ACCOUNT,
        NO_ROLE,
        NO_ROLE + ': RBAC: role.rbac.authorization.k8s.io "podrelay" not found',
        NO_ROLE.replace("create", "get"),
        NO_ROLE.replace("create", "patch"),
        NO_ROLE.replace("create", "delete"),
        'pods "x" is forbidden: not yet ready to handle request',
    ],
)
def test_a_refusal_that_may_pass_is_final_only_by_time(message: str, tries: int) -> None:
    """However often the launch was tried before, for quota or while the server was away."""

    def at(refused_s: float) -> object:
        return classify_error(error(403, message, "Forbidden"), tries, refused_s=refused_s)  # type: ignore[arg-type]

    early = [at(second) for second in (0.0, 3.0, SETTLE_S - 0.1)]
    assert [(policy.scope, policy.settles) for policy in early] == [("launch", True)] * 3  # type: ignore[attr-defined]
    assert all(0.2 <= policy.seconds <= 4.0 for policy in early)  # type: ignore[attr-defined]
    assert early[0].seconds <= 0.5, "the first wait is short"  # type: ignore[attr-defined]
    assert at(SETTLE_S + 0.1).scope == "never"  # type: ignore[attr-defined]


@pytest.mark.parametrize("status", [401, 429, 500, 503])
def test_the_status_of_a_webhook_does_not_pause_the_cluster(status: int) -> None:
    policy = classify_error(error(status, DENIED), 3)  # type: ignore[arg-type]
    assert (policy.scope, policy.slower) == ("launch", False)
    assert classify_error(error(403, DENIED, "Forbidden"), 0).scope == "never"  # type: ignore[arg-type]


BROKEN = 'Internal error occurred: failed calling webhook "w.io": failed to call webhook: Post "https://w.svc:443": EOF'


def test_a_webhook_that_cannot_be_called_does_not_pause_the_cluster() -> None:
    policies = [classify_error(error(500, BROKEN, "InternalError"), tries) for tries in (0, 20)]  # type: ignore[arg-type]
    assert [(policy.scope, policy.reason, policy.slower) for policy in policies] == [
        ("launch", "WebhookFailed", False)
    ] * 2
    assert (policies[0].seconds or 0.0) <= 1.0 < 7.0 < (policies[1].seconds or 0.0) <= 15.0


def test_a_conflict_waits_longer_each_time() -> None:
    waits = [classify_error(error(409, "object has been modified", "Conflict"), tries).seconds for tries in (0, 8)]  # type: ignore[arg-type]
    assert waits[0] is not None
    assert waits[1] is not None
    assert waits[0] <= 0.2 < waits[1] <= 5.0


def test_a_server_error_of_a_single_launch_delays_only_that_launch_and_longer_each_time() -> None:
    policies = [classify_error(error(500, "webhook", "InternalError"), tries, alone=True) for tries in (0, 1, 20)]  # type: ignore[arg-type]
    assert [policy.scope for policy in policies] == ["launch"] * 3
    assert all(policy.ambiguous and not policy.slower for policy in policies)
    waits = [policy.seconds or 0.0 for policy in policies]
    assert waits[0] <= 0.25 < 5.0 < waits[2] <= 15.0
    asked = classify_error(error(503, "busy", "ServiceUnavailable", "2"), 0, alone=True)  # type: ignore[arg-type]
    assert (asked.scope, asked.seconds) == ("cluster", 2.0)


def test_one_launch_that_fails_among_others_that_succeed_is_alone() -> None:
    health = ApiServerHealth()
    assert not health.failed_alone("a"), "a server that has never worked may be down"
    health.succeeded()
    assert health.failed_alone("a")
    assert health.failed_alone("a")
    assert not health.failed_alone("b"), "two in a row: the server fails"
    health.succeeded()
    assert health.failed_alone("b")


FULL = "exceeded quota: q, used: pods=2,limits.cpu=2, limited: pods=2,limits.cpu=2"


@pytest.mark.parametrize(
    ("message", "shared"),
    [
        (
            EXCEEDED + "requested: pods=1,limits.cpu=1, used: pods=2,limits.cpu=2, limited: pods=2,limits.cpu=2",
            FULL,
        ),
        (
            'pods "x" is forbidden: status unknown for quota: q, resources: pods',
            "status unknown for quota: q, resources: pods",
        ),
        (
            'admission of pods "nap-1" refused: exceeded quota: q',
            'admission of pods "a pod" refused: exceeded quota: q',
        ),
        (
            "pods is forbidden: exceeded quota: q, requested: pods=1",
            "pods is forbidden: exceeded quota: q, requested: pods=1",
        ),
        ("", ""),
    ],
)
def test_what_launches_share_names_no_pod(message: str, shared: str) -> None:
    assert shared_message(message, "nap-1") == shared


def test_an_amount_beyond_any_number_ends_no_launcher() -> None:
    message = EXCEEDED + "requested: cpu=1e99999999999999999999, used: cpu=0, limited: cpu=1"
    assert classify_error(error(403, message), 0).reason == "QuotaExceeded"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "retry_after",
    ["9" * 400, "Fri, 27 Nov 9999 23:59:59 -2359", "Fri, 27 Nov 99999999999999999999 10:00:00 GMT", "-5", "1e9"],
)
def test_no_header_asks_for_a_longer_pause_than_the_longest(retry_after: str) -> None:
    policy = classify_error(error(429, retry_after=retry_after), 0)  # type: ignore[arg-type]
    assert policy.seconds is None or 0.0 <= policy.seconds <= PAUSE_MOST_S


@pytest.mark.parametrize("seconds", ["1" + "0" * 400, "1e400", "NaN", "-1", "true"])
def test_no_status_asks_for_a_longer_pause_than_the_longest(seconds: str) -> None:
    body = b'{"kind": "Status", "details": {"retryAfterSeconds": %s}}' % seconds.encode()
    policy = classify_error(error_of(429, "phrase", {}, body), 0)
    assert policy.seconds is None or 0.0 <= policy.seconds <= PAUSE_MOST_S
