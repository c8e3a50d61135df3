"""Refusals of a real API server: admission after a lost answer, webhooks, messages that quote arguments."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from typing import Any

import pytest
from aiohttp import web

from podrelay.protocol.messages import LaunchRequest
from podrelay_workers.launcher import error_policy
from podrelay_workers.launcher.wait_limit import WaitLimit
from tests.harness.launcher_rig import TOKEN, LauncherRig
from tests.harness.pod_api import Json, status
from tests.harness.waiting import until


def full(pod: Json) -> web.Response:
    name = pod["metadata"]["name"]
    why = "exceeded quota: q, requested: pods=1, used: pods=1, limited: pods=1"
    return status(403, "Forbidden", f'pods "{name}" is forbidden: {why}')


def test_a_pod_whose_answer_was_lost_is_found_behind_the_quota_that_it_fills(rig: LauncherRig) -> None:
    """Admission runs before the name is checked: the pod itself causes the second request to be refused."""
    request = rig.request()
    rig.api.lose_answers = 1
    rig.api.fault = lambda _, pod: full(pod) if rig.api.pods else None
    rig.offer(request)

    async def scenario() -> None:
        async with rig.launcher():
            await until(lambda: rig.states([request]) == {"created": 1})

    asyncio.run(scenario())
    assert rig.ledger(request)["uid"] == next(iter(rig.api.pods.values()))["metadata"]["uid"]
    assert not rig.results()


def test_a_timed_out_creation_that_took_effect_is_found_where_the_next_try_is_refused(rig: LauncherRig) -> None:
    request = rig.request()
    answers = [
        status(403, "Forbidden", "unable to create new content in namespace default because it is being terminated")
    ]

    def fault(_: web.Request, pod: Json) -> web.Response | None:
        if rig.api.pods:
            return answers[0]
        pod["metadata"] |= {"namespace": "default", "uid": "u-late", "resourceVersion": "1"}
        rig.api.pods["default", pod["metadata"]["name"]] = pod
        return status(504, "Timeout", "Timeout: request did not complete within requested timeout")

    rig.api.fault = fault
    rig.offer(request)

    async def scenario() -> None:
        async with rig.launcher():
            await until(lambda: rig.states([request]) == {"created": 1})

    asyncio.run(scenario())
    assert rig.ledger(request)["uid"] == "u-late"
    assert not [result for result in rig.results() if result.terminal]


def test_a_launch_whose_time_is_up_is_looked_for_before_it_is_given_up(rig: LauncherRig) -> None:
    """The first try was answered 504 and created the pod; the launch then waited for quota up to its wait limit."""
    late, other = rig.request(1), rig.request(2)

    def fault(_: web.Request, pod: Json) -> web.Response | None:
        if pod["metadata"]["annotations"]["task_id"] == "load1" and not rig.api.pods:
            pod["metadata"] |= {"namespace": "default", "uid": "u-late", "resourceVersion": "1"}
            rig.api.pods["default", pod["metadata"]["name"]] = pod
            return status(504, "Timeout", "Timeout: request did not complete within requested timeout", retry_after="1")
        return full(pod)

    rig.api.fault = fault
    rig.offer(late, other)

    async def scenario() -> None:
        async with rig.launcher(wait_limit=WaitLimit(2.0)):
            await until(lambda: rig.states([late, other]) == {"created": 1, "finished": 1}, 20)

    asyncio.run(scenario())
    assert rig.ledger(late)["uid"] == "u-late"


@pytest.mark.parametrize("code", [422, 403, 400])
def test_no_message_that_quotes_the_pod_shows_its_token(
    rig: LauncherRig, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    request = rig.request()
    rig.api.fault = lambda _, pod: status(code, "Invalid", f"Invalid value: {json.dumps(pod['spec'])}: {TOKEN[:20]}")
    rig.offer(request)

    async def scenario() -> None:
        async with rig.launcher():
            await until(lambda: rig.states([request]) == {"finished": 1} and not rig.in_hand())

    with caplog.at_level(logging.DEBUG):
        asyncio.run(scenario())
    (result,) = rig.results()
    assert "***" in result.message
    failure = rig.redis.xrange(f"rq:results:{request.launch_id}_0")
    for text in (result.message, caplog.text, str(rig.ledger(request)), unpacked(failure)):
        assert TOKEN[:13] not in text


def unpacked(entries: Any) -> str:
    import base64
    import zlib

    return " ".join(
        zlib.decompress(base64.b64decode(fields["exc_string"])).decode()
        for _, fields in entries
        if "exc_string" in fields
    )


def test_one_pod_that_the_server_stumbles_over_does_not_stop_the_others(rig: LauncherRig) -> None:
    """It waits longer each time; other launches continue meanwhile."""
    bad = rig.request(99)
    rig.api.fault = lambda _, pod: (
        status(500, "InternalError", "Internal error occurred: no such thing")
        if pod["metadata"]["annotations"]["task_id"] == "load99"
        else None
    )
    rig.offer(bad)

    async def scenario() -> None:
        async with rig.launcher():
            for number in range(30):
                (request,) = rig.offer_many(1, key=("etl", f"t{number}", "r", 1, -1))
                await until(lambda request=request: rig.states([request]) == {"created": 1})  # type: ignore[misc]
                await asyncio.sleep(0.1)

    asyncio.run(scenario())
    name = next(name for _, name in rig.api.creates if "load99" in name)
    assert 2 <= sum(made == name for _, made in rig.api.creates) <= 6


def test_a_server_that_ends_its_connections_between_requests_gets_each_pod_once(rig: LauncherRig) -> None:
    """As in a rolling restart, or after a load balancer's idle timeout: a kept connection closes without an answer."""
    requests = rig.offer_many(20)
    kept: list[Any] = []

    def close(request: web.Request, _: Any) -> web.Response | None:
        kept.append(request.transport)
        if len(kept) % 2:
            request.protocol.force_close()  # type: ignore[attr-defined]
        return None

    async def scenario() -> None:
        rig.api.fault = close
        async with rig.launcher():
            await until(lambda: rig.states(requests) == {"created": 20})
            for transport in kept:
                rig.api._loop.call_soon_threadsafe(transport.abort)  # type: ignore[union-attr]
            later = rig.offer_many(20)
            await until(lambda: rig.states(later) == {"created": 20})

    asyncio.run(scenario())
    assert set(rig.api.names.values()) == {1}
    assert not rig.redis.hget(rig.names.throttle("default"), "failures")
    assert not rig.results()


# --- roles that are not there yet -------------------------------------------------------------------------------------
def forbidden(verb: str, what: str = "pods", why: str = "") -> web.Response:
    user = 'User "system:serviceaccount:airflow:podrelay"'
    return status(403, "Forbidden", f'{what} is forbidden: {user} cannot {verb} resource "{what}" in API group ""{why}')


def nobody_knows(rig: LauncherRig, until_s: float) -> None:
    """Refuse everything, as a server whose role caches are not filled yet does."""
    verbs = {"POST": "create", "GET": "get", "PATCH": "patch", "DELETE": "delete"}

    def refuse(request: web.Request) -> web.Response | None:
        return forbidden(verbs[request.method]) if time.monotonic() < until_s else None

    rig.api.fault = lambda request, _: refuse(request)
    rig.api.look_fault = refuse


def test_a_server_that_does_not_know_its_roles_yet_fails_no_launch(rig: LauncherRig) -> None:
    """The pods exist already: the first try's answer was lost, and the look for them is refused as well."""
    requests = rig.offer_many(20)
    rig.api.lose_answers = 20

    async def scenario() -> None:
        async with rig.launcher():
            await until(lambda: len(rig.api.pods) == 20)
            nobody_knows(rig, time.monotonic() + 3.0)
            await until(lambda: rig.states(requests) == {"created": 20}, 20)

    asyncio.run(scenario())
    assert not [result for result in rig.results() if result.terminal]
    assert set(rig.api.names.values()) == {1}


def test_a_role_that_is_bound_after_many_tries_for_quota_is_waited_for(rig: LauncherRig) -> None:
    """Earlier waits do not use up the time."""
    requests = rig.offer_many(5)
    for request in requests:
        rig.redis.hset(f"rq:job:{request.launch_id}_0", "waits", 40)
    nobody_knows(rig, time.monotonic() + 4.0)

    async def scenario() -> None:
        async with rig.launcher():
            await until(lambda: rig.states(requests) == {"created": 5}, 20)

    asyncio.run(scenario())
    assert not [result for result in rig.results() if result.terminal]


@pytest.fixture
def settled_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refusals are final after one second."""
    monkeypatch.setattr(error_policy, "SETTLE_S", 1.0)


def ends(rig: LauncherRig) -> list[Any]:
    return [result for result in rig.results() if result.terminal]


def decided(rig: LauncherRig, request: LaunchRequest) -> dict[str, int]:
    """The state of a launch once a launcher has created its pod or failed it."""

    async def scenario() -> None:
        async with rig.launcher():
            await until(lambda: rig.states([request]) in ({"created": 1}, {"finished": 1}), 10)

    asyncio.run(scenario())
    return rig.states([request])


def test_a_pause_that_stops_a_repeated_request_does_not_hide_that_the_pod_may_exist(rig: LauncherRig) -> None:
    """Another launcher was throttled meanwhile, and the next try is refused for good."""
    request = rig.request()
    rig.api.lose_answers = 1

    def fault(_: web.Request, __: Json) -> web.Response | None:
        if rig.api.pods:
            return status(422, "Invalid", "spec: Invalid value")
        rig.redis.publish(rig.names.wake("default"), "pause 1.0")
        time.sleep(0.2)  # until the launcher has received it
        return None

    rig.api.fault = fault
    rig.offer(request)
    assert decided(rig, request) == {"created": 1}
    assert not ends(rig)


def test_a_pod_whose_answer_was_lost_is_not_given_up_for_a_new_token(rig: LauncherRig) -> None:
    """By the second try the token is about to end; a new one would be for another pod beside this one."""
    request = rig.request(not_after_s=time.time() + 62.0)

    def fault(_: web.Request, pod: Json) -> web.Response | None:
        pod["metadata"] |= {"namespace": "default", "uid": "u", "resourceVersion": "1"}
        rig.api.pods["default", pod["metadata"]["name"]] = pod
        return status(504, "Timeout", "Timeout: request did not complete within requested timeout", "3")

    rig.api.fault = fault
    rig.offer(request)
    assert decided(rig, request) == {"created": 1}
    assert not ends(rig)
    assert rig.api.calls["create"] == 1


def test_a_launch_that_is_offered_again_after_data_loss_is_not_failed_beside_its_pod(rig: LauncherRig) -> None:
    """Redis forgot that it was tried, and the server now refuses what it accepted before."""
    request = rig.request()
    rig.offer(request)

    async def scenario() -> None:
        async with rig.launcher():
            await until(lambda: rig.states([request]) == {"created": 1})
            rig.redis.flushall()
            rig.api.fault = lambda *_: status(422, "Invalid", "spec: Invalid value")
            rig.offer(request)
            await until(lambda: rig.states([request]) in ({"created": 1}, {"finished": 1}), 10)

    asyncio.run(scenario())
    assert rig.states([request]) == {"created": 1}
    assert not ends(rig)


def test_a_launch_whose_pod_may_exist_is_not_reported_as_failed(
    rig: LauncherRig, settled_soon: None, caplog: pytest.LogCaptureFixture
) -> None:
    """Each of these has an answer that left open whether the pod exists; the look for it is refused from then on."""
    lost, limited, broken = rig.request(1), rig.request(2), rig.request(3)
    asked: dict[str, int] = {}

    def fault(_: web.Request, pod: Json) -> web.Response | None:
        task = pod["metadata"]["annotations"]["task_id"]
        asked[task] = asked.get(task, 0) + 1
        if asked[task] == 1:
            pod["metadata"] |= {"namespace": "default", "uid": f"u-{task}", "resourceVersion": "1"}
            rig.api.pods["default", pod["metadata"]["name"]] = pod
            return status(504, "Timeout", "Timeout: request did not complete within requested timeout", "0")
        if task == "load2":
            return status(503, "ServiceUnavailable", "not now", "0")
        return forbidden("create") if task == "load1" else status(422, "Invalid", "spec: Invalid value")

    rig.api.fault = fault
    rig.api.look_fault = lambda _: forbidden("get")
    requests = [lost, limited, broken]
    rig.offer(*requests)

    async def scenario() -> None:
        async with rig.launcher(wait_limit=WaitLimit(2.0)):
            await until(lambda: len(asked) == 3)
            await asyncio.sleep(5.0)
            assert not ends(rig)
            rig.api.look_fault = None
            await until(lambda: rig.states(requests) == {"created": 3}, 20)

    asyncio.run(scenario())
    assert not ends(rig)


def test_a_pod_of_a_launcher_that_was_killed_is_looked_for_before_its_launch_fails(rig: LauncherRig) -> None:
    """The launcher died between the request and its answer; the next one finds the permission gone."""
    request = rig.request()
    rig.api.latency_s = 30.0
    rig.offer(request)
    process = rig.start_process()

    async def scenario() -> None:
        await until(lambda: rig.api.creates, 60)
        process.kill()
        rig.api.latency_s = 0.0
        name = rig.api.creates[0][1]
        labels = {"podrelay/launch-id": request.launch_id, "podrelay/deployment": "default", "podrelay/attempt": "0"}
        metadata = {"name": name, "namespace": "default", "uid": "u-dead", "resourceVersion": "1", "labels": labels}
        rig.api.fault = lambda *_: status(422, "Invalid", "spec: Invalid value")
        rig.api.pods["default", name] = {"metadata": metadata}
        async with rig.launcher():
            await until(lambda: rig.states([request]) == {"created": 1}, 20)

    asyncio.run(scenario())
    assert not ends(rig)
    assert rig.ledger(request)["uid"] == "u-dead"


# --- namespaces that do not exist -------------------------------------------------------------------------------------
def failure_in(rig: LauncherRig, namespace: str) -> Any:
    rig.offer(rig.request(namespace=namespace))

    async def scenario() -> None:
        async with rig.launcher():
            await until(lambda: ends(rig), 20)

    asyncio.run(scenario())
    return ends(rig)[0]


def test_a_namespace_that_does_not_exist_is_named(rig: LauncherRig) -> None:
    rig.api.fault = lambda *_: status(404, "NotFound", 'namespaces "nowhere" not found')
    result = failure_in(rig, "nowhere")
    assert result.reason == "NamespaceNotFound"
    assert result.message == 'namespace nowhere does not exist: namespaces "nowhere" not found'


def test_a_namespace_that_does_not_exist_is_named_where_only_a_role_is_missing(
    rig: LauncherRig, settled_soon: None
) -> None:
    rig.api.fault = lambda *_: forbidden("create", why=' in the namespace "nowhere"')
    rig.api.namespaces = {"default"}
    result = failure_in(rig, "nowhere")
    assert result.reason == "NamespaceNotFound"
    assert result.message.startswith("namespace nowhere does not exist: pods is forbidden")
    assert "cannot get" not in result.message


def test_both_causes_are_named_where_the_server_does_not_say_which(rig: LauncherRig, settled_soon: None) -> None:
    rig.api.fault = lambda *_: forbidden("create", why=' in the namespace "nowhere"')
    rig.api.look_fault = lambda request: forbidden("get", "namespaces" if "name" not in request.match_info else "pods")
    result = failure_in(rig, "nowhere")
    assert result.reason == "PodRefused"
    assert "either namespace nowhere does not exist, or the launcher's user has no Role there" in result.message
    assert "cannot create" in result.message


def test_a_namespace_that_exists_is_not_called_missing(rig: LauncherRig, settled_soon: None) -> None:
    rig.api.fault = lambda *_: forbidden("create", why=' in the namespace "default"')
    result = failure_in(rig, "default")
    assert (result.reason, result.message[:15]) == ("PodRefused", "pods is forbidd")
