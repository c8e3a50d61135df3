"""Refusals of a real API server: admission after a lost answer, webhooks, messages that quote arguments."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest
from aiohttp import web

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
