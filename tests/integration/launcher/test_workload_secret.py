"""Launchers with `[podrelay] workload_in_secret`: each pod gets its Secret or goes, whatever happens in between."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web

from podrelay.protocol import identifiers
from podrelay.protocol.messages import LaunchRequest
from podrelay_workers.launcher import error_policy
from podrelay_workers.launcher.error_policy import SECRET_ACCESS
from podrelay_workers.launcher.wait_limit import WaitLimit
from tests.harness.launcher_rig import TOKEN, LauncherRig
from tests.harness.pod_api import Json, status
from tests.harness.waiting import until

FORBIDDEN = (
    'secrets is forbidden: User "launcher" cannot create resource "secrets" in API group "" in the namespace "default"'
)
START_S = 40.0


@pytest.fixture(autouse=True)
def in_secret(rig: LauncherRig) -> None:
    rig.settings = replace(rig.settings, workload_in_secret=True)


def during(rig: LauncherRig, *requests: LaunchRequest, **changes: Any) -> dict[str, int]:
    """Run a launcher until each launch has a complete pod or an end; the states."""

    async def scenario() -> None:
        async with rig.launcher(**changes):
            await until(lambda: set(rig.states(list(requests))) <= {"created", "finished"} and not rig.in_hand(), 20)

    asyncio.run(scenario())
    return rig.states(list(requests))


def ends(rig: LauncherRig) -> list[Any]:
    return [result for result in rig.results() if result.terminal]


def owners(rig: LauncherRig) -> set[str]:
    return {
        owner["uid"] for secret in rig.api.secrets.existing.values() for owner in secret["metadata"]["ownerReferences"]
    }


def uids(rig: LauncherRig) -> set[str]:
    return {pod["metadata"]["uid"] for pod in rig.api.pods.values()}


def answer_secrets(rig: LauncherRig, *answers: web.Response) -> None:
    """Answer the first creations like this, the rest properly."""
    left = list(answers)
    rig.api.secrets.fault = lambda *_: left.pop(0) if left else None


def test_the_secret_holds_what_the_pod_does_not(rig: LauncherRig, caplog: pytest.LogCaptureFixture) -> None:
    requests = rig.offer_many(50)
    with caplog.at_level(logging.DEBUG):
        assert during(rig, *requests) == {"created": 50}
    assert TOKEN not in json.dumps([*rig.api.pods.values()])
    assert TOKEN not in caplog.text + str([rig.ledger(request) for request in requests])
    assert rig.api.secrets.workloads() == [TOKEN] * 50
    assert owners(rig) == uids(rig)
    assert len(rig.api.creates) == len(rig.api.secrets.creates) == 50


def test_a_launch_is_finished_only_after_its_secret_exists(rig: LauncherRig) -> None:
    request = rig.request()
    rig.api.secrets.latency_s = 0.5
    rig.offer(request)

    async def scenario() -> None:
        async with rig.launcher():
            await until(lambda: rig.api.secrets.creates)
            assert len(rig.api.pods) == 1
            assert rig.states([request]) == {"claimed": 1}
            await until(lambda: rig.states([request]) == {"created": 1})
            assert rig.api.secrets.workloads() == [TOKEN]

    asyncio.run(scenario())


def test_a_launcher_that_is_killed_between_pod_and_secret_is_replaced(rig: LauncherRig) -> None:
    rig.api.secrets.latency_s = 6.0
    killed = rig.start_process(AIRFLOW__PODRELAY__WORKLOAD_IN_SECRET="True")

    async def scenario() -> None:
        await until(lambda: rig.redis.scard("rq:workers") == 1, START_S)
        requests = rig.offer_many(10)
        await until(lambda: len(rig.api.secrets.creates) == 10)
        killed.kill()
        rig.api.secrets.latency_s = 0.0
        async with rig.launcher():
            await until(lambda: rig.states(requests) == {"created": 10}, 20)

    asyncio.run(scenario())
    assert set(rig.api.names.values()) == {1}
    assert set(rig.api.secrets.names.values()) == {1}
    assert owners(rig) == uids(rig)
    assert not ends(rig)


@pytest.mark.parametrize("option", [True, False], ids=["on", "switched off since"])
def test_a_pod_that_exists_without_its_secret_is_completed(rig: LauncherRig, option: bool) -> None:
    """As its own Secret asks for, whatever the option of this launcher says."""
    request = rig.request()
    rig.offer(request)
    rig.api.secrets.fault = lambda *_: status(503, "ServiceUnavailable", "etcd is away", retry_after="1")

    async def scenario() -> None:
        async with rig.launcher():
            await until(lambda: rig.states([request]) == {"waiting": 1})

    asyncio.run(scenario())
    ((_, name),) = rig.api.pods
    rig.api.secrets.fault = None
    assert during(rig, request, workload_in_secret=option) == {"created": 1}
    assert rig.api.names == {name: 1}
    assert owners(rig) == uids(rig)
    assert rig.api.secrets.workloads() == [TOKEN]


def test_a_pod_with_its_token_in_the_arguments_gets_no_secret(rig: LauncherRig) -> None:
    """The option was switched on between two tries of one launch."""
    request = rig.request()
    rig.offer(request)
    rig.api.lose_answers = 1
    rig.api.fault = lambda *_: status(503, "ServiceUnavailable", "away", retry_after="1") if rig.api.pods else None

    async def scenario() -> None:
        async with rig.launcher(workload_in_secret=False):
            await until(lambda: rig.states([request]) == {"waiting": 1})

    asyncio.run(scenario())
    rig.api.fault = None
    assert during(rig, request) == {"created": 1}
    assert not rig.api.secrets.creates


@pytest.mark.parametrize("code", [429, 500, 503, 504, 409])
def test_an_answer_that_passes_is_waited_for(rig: LauncherRig, code: int) -> None:
    requests = rig.offer_many(5)
    answer_secrets(rig, *(status(code, "Other", "not now", retry_after="1") for _ in range(2)))
    assert during(rig, *requests) == {"created": 5}
    assert set(rig.api.names.values()) == set(rig.api.secrets.names.values()) == {1}
    assert owners(rig) == uids(rig)
    assert not ends(rig)


def test_an_answer_that_was_lost_makes_one_secret(rig: LauncherRig) -> None:
    requests = rig.offer_many(10)
    rig.api.secrets.lose_answers = 3
    assert during(rig, *requests) == {"created": 10}
    assert set(rig.api.secrets.names.values()) == {1}
    assert len(rig.api.secrets.creates) == 13, "repeated at once"


def test_a_pause_that_begins_between_the_requests_stops_the_secret(rig: LauncherRig) -> None:
    request = rig.request()
    paused: list[float] = []

    def pause(*_: object) -> None:
        if not paused:
            paused.append(time.monotonic())
            rig.redis.publish(rig.names.wake("default"), "pause 1.0")
            time.sleep(0.2)  # until the launcher has received it

    rig.api.fault = pause
    rig.offer(request)
    assert during(rig, request) == {"created": 1}
    assert rig.api.secrets.creates[0][0] - paused[0] > 0.9
    assert owners(rig) == uids(rig)


def test_secrets_count_for_the_limit_of_requests(rig: LauncherRig) -> None:
    """A server that serves two requests at once is not sent more, pods and Secrets together."""
    rig.api.seats = 2
    rig.api.latency_s = rig.api.secrets.latency_s = 0.01
    requests = rig.offer_many(60)
    assert during(rig, *requests) == {"created": 60}
    assert owners(rig) == uids(rig)
    assert rig.api.refused < 60


# --- refused for good -------------------------------------------------------------------------------------------------
def removal(rig: LauncherRig) -> list[str]:
    """Watch the pod's deletion: whether it was labelled as revoked before."""
    seen: list[str] = []

    def note(request: web.Request, _: Json) -> None:
        if request.method == "DELETE":
            (pod,) = rig.api.pods.values()
            seen.append(pod["metadata"]["labels"].get(identifiers.LABEL_REVOKED, ""))

    rig.api.fault = note
    return seen


@pytest.mark.parametrize(
    ("code", "message", "remedy"),
    [(403, FORBIDDEN, f"grant create on secrets, as in {SECRET_ACCESS}"), (422, "too long", "")],
    ids=["no Role", "invalid"],
)
def test_a_refusal_fails_the_launch_with_the_option_and_leaves_no_pod(
    rig: LauncherRig, code: int, message: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(error_policy, "SETTLE_S", 0.5)
    request = rig.request()
    rig.api.secrets.fault = lambda *_: status(code, "Other", message)
    labelled = removal(rig)
    rig.offer(request)
    assert during(rig, request) == {"finished": 1}
    (result,) = ends(rig)
    assert (result.outcome, result.reason, result.failure_class) == ("failed", "SecretRefused", "configuration")
    assert result.message.startswith("[podrelay] workload_in_secret: ")
    assert message in result.message
    assert remedy in result.message
    assert not rig.api.pods
    assert not rig.api.secrets.existing
    assert labelled == ["True"], "no watcher reports the end of this pod"


def test_a_role_that_is_bound_soon_is_waited_for(rig: LauncherRig) -> None:
    requests = rig.offer_many(3)
    answer_secrets(rig, *(status(403, "Forbidden", FORBIDDEN) for _ in range(6)))
    assert during(rig, *requests) == {"created": 3}
    assert set(rig.api.names.values()) == {1}
    assert not ends(rig)


def test_a_pod_that_waits_for_a_role_is_found_behind_the_quota_that_it_fills(rig: LauncherRig) -> None:
    """Admission runs before the name is checked: the second request for the pod is refused because the pod exists."""
    request = rig.request()
    why = "exceeded quota: q, requested: pods=1, used: pods=1, limited: pods=1"
    rig.api.fault = lambda *_: status(403, "Forbidden", f'pods "p" is forbidden: {why}') if rig.api.pods else None
    answer_secrets(rig, status(403, "Forbidden", FORBIDDEN))
    rig.offer(request)
    assert during(rig, request) == {"created": 1}
    assert len(rig.api.creates) == 2, "found at once: the namespace does not wait for a quota"
    assert owners(rig) == uids(rig)


def test_a_pod_that_has_started_is_never_reported_as_failed(rig: LauncherRig) -> None:
    """The Secret exists: the answer to an earlier request was lost, and admission refuses the next one."""
    request = rig.request()

    def refuse(*_: object) -> web.Response:
        (pod,) = rig.api.pods.values()
        pod["status"] = {"phase": "Running"}
        return status(422, "Invalid", "a policy that is new")

    rig.api.secrets.fault = refuse
    rig.offer(request)
    assert during(rig, request) == {"created": 1}
    assert len(rig.api.pods) == 1
    assert not ends(rig)


def test_a_pod_that_cannot_be_deleted_keeps_its_launch(rig: LauncherRig) -> None:
    """Its end is not reported while it may still start; once the server answers, it goes."""
    request = rig.request()
    rig.api.secrets.fault = lambda *_: status(422, "Invalid", "no")
    broken = [True]

    def fault(http: web.Request, _: Json) -> web.Response | None:
        return status(500, "InternalError", "no") if broken[0] and http.method in ("PATCH", "DELETE") else None

    rig.api.fault = fault
    rig.offer(request)

    async def scenario() -> None:
        async with rig.launcher():
            await until(lambda: rig.api.calls["patch"] and rig.states([request]) == {"waiting": 1})
            assert not ends(rig)
            broken[0] = False
            await until(lambda: rig.states([request]) == {"finished": 1} and not rig.api.pods, 20)

    asyncio.run(scenario())
    assert [result.reason for result in ends(rig)] == ["SecretRefused"]


def test_a_quota_of_secrets_is_waited_for_by_all_launches_of_the_namespace(rig: LauncherRig) -> None:
    first, second = rig.request(1), rig.request(2)
    full = [True]

    def fault(_: web.Request, secret: Json) -> web.Response | None:
        why = "exceeded quota: q, requested: count/secrets=1, used: count/secrets=9, limited: count/secrets=9"
        text = f'secrets "{secret["metadata"]["name"]}" is forbidden: {why}'
        return status(403, "Forbidden", text) if full[0] else None

    rig.api.secrets.fault = fault
    rig.offer(first)

    async def scenario() -> None:
        async with rig.launcher():
            await until(lambda: rig.states([first]) == {"waiting": 1})
            rig.offer(second)
            await until(lambda: rig.states([second]) == {"waiting": 1})
            assert "count/secrets" in rig.ledger(second)["message"]
            assert rig.ledger(first)["message"].startswith("secrets ")
            full[0] = False
            await until(lambda: rig.states([first, second]) == {"created": 2}, 20)

    asyncio.run(scenario())
    assert set(rig.api.names.values()) == {1}
    assert owners(rig) == uids(rig)


def test_a_launch_that_waited_too_long_for_its_secret_leaves_no_pod(rig: LauncherRig) -> None:
    request = rig.request()
    rig.api.secrets.fault = lambda *_: status(503, "ServiceUnavailable", "etcd is away")
    rig.offer(request)
    assert during(rig, request, wait_limit=WaitLimit(1.0)) == {"finished": 1}
    (result,) = ends(rig)
    assert "no pod after" in result.message
    assert not rig.api.pods


# --- no longer wanted -------------------------------------------------------------------------------------------------
def test_a_launch_that_is_withdrawn_between_the_requests_leaves_nothing(rig: LauncherRig) -> None:
    request = rig.request()
    rig.api.secrets.latency_s = 0.3
    rig.offer(request)

    async def scenario() -> None:
        async with rig.launcher():
            await until(lambda: rig.api.secrets.creates)
            rig.queue.withdraw([(request.launch_id, request.subject)])
            await until(lambda: not rig.api.pods)

    asyncio.run(scenario())
    assert rig.states([request]) == {"withdrawn": 1}
    assert not rig.api.secrets.existing
    assert rig.in_hand() == 0


def test_a_launch_that_is_known_to_be_unwanted_gets_no_secret(rig: LauncherRig) -> None:
    """The lease is renewed while the pod is created, and the renewal says so."""
    request = rig.request()
    rig.api.latency_s = 1.5
    rig.offer(request)

    async def scenario() -> None:
        async with rig.launcher():
            await until(lambda: rig.api.creates)
            rig.queue.withdraw([(request.launch_id, request.subject)])
            await until(lambda: rig.api.names and not rig.api.pods)

    asyncio.run(scenario())
    assert not rig.api.secrets.creates
    assert rig.in_hand() == 0


def test_a_token_that_ends_before_the_secret_exists_makes_a_new_attempt(rig: LauncherRig) -> None:
    """The pod without its Secret would never start, and with this token its task could not begin."""
    request = rig.request(not_after_s=time.time() + 62.0)
    rig.api.secrets.fault = lambda *_: status(503, "ServiceUnavailable", "etcd is away", retry_after="3")
    labelled = removal(rig)
    rig.offer(request)
    assert during(rig, request) == {"finished": 1}
    (result,) = ends(rig)
    assert result.outcome == "expired"
    assert not rig.api.pods
    assert labelled == ["True"]


def test_after_data_loss_the_same_launch_is_offered_again_and_completed(rig: LauncherRig) -> None:
    request = rig.request()
    rig.offer(request)
    rig.api.secrets.fault = lambda *_: status(503, "ServiceUnavailable", "etcd is away", retry_after="1")

    async def scenario() -> None:
        async with rig.launcher():
            await until(lambda: rig.states([request]) == {"waiting": 1})
            rig.redis.flushall()
            rig.api.secrets.fault = None
            rig.offer(request)
            await until(lambda: rig.states([request]) == {"created": 1}, 20)

    asyncio.run(scenario())
    assert set(rig.api.names.values()) == {1}
    assert owners(rig) == uids(rig)
