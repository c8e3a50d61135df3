"""Answers of an API server for podrelay's client and for a real launcher: each call ends in an object or an `ApiError`."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from aiohttp import web
from hypothesis import strategies as st

from podrelay.protocol import identifiers
from podrelay.protocol.messages import CleanupAction, CleanupRequest, LaunchRequest
from podrelay.store.launch_queue import Acknowledgement
from podrelay_workers.kube.client import PodClient
from podrelay_workers.kube.credentials import Credentials
from podrelay_workers.kube.errors import ApiError
from podrelay_workers.launcher.error_policy import PAUSE_MOST_S, classify_error
from podrelay_workers.launcher.pod_ownership import find_own_pod, mismatch
from podrelay_workers.launcher.unstarted_pod import has_started
from podrelay_workers.watcher.pod_view import latest_warning
from tests.fuzz.part import Report, complaints, feed
from tests.fuzz.raw_api import RawApi, response
from tests.fuzz.values import jsons, mutated, nested, numbers, raw, texts, to_json
from tests.harness.launcher_rig import LauncherRig
from tests.harness.pod_api import PodApi
from tests.harness.redis_server import RedisServer
from tests.harness.scripted_server import configuration

RECOVER_S = 60.0
_STATUSES = ("200 OK", "200 OK", "200 OK", "201 Created", "202 Accepted", "204 No Content", "301 Moved", "304 Not Modified",
             "400 Bad Request", "403 Forbidden", "404 Not Found", "405 Not Allowed", "408 Timeout",
             "409 Conflict", "410 Gone", "413 Too Large", "418 T", "422 Invalid", "429 Too Many", "500 Error",
             "502 Bad Gateway", "503 Unavailable", "504 Timeout", "599 X", "999 X")  # fmt: skip
_REFUSALS = (b"400", b"403", b"404", b"405", b"409", b"410", b"413", b"422")
_LAUNCH = "00000000-0000-4000-8000-000000000001"
_NAME = identifiers.pod_name("etl", _LAUNCH, 0)
_POD = {
    "kind": "Pod", "apiVersion": "v1",
    "metadata": {"name": _NAME, "namespace": "default", "uid": "u", "resourceVersion": "1",
                 "labels": {"podrelay/launch-id": _LAUNCH, "podrelay/deployment": "default", "podrelay/attempt": "0"},
                 "annotations": {"podrelay/subject": "s"}},
    "status": {"phase": "Pending", "containerStatuses": [{"name": "base", "state": {"running": {"startedAt": "x"}}}]},
}  # fmt: skip
_STATUS = {
    "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "m", "reason": "Forbidden", "code": 403,
    "details": {"retryAfterSeconds": 1, "causes": [{"reason": "r", "message": "m", "field": "f"}]},
}  # fmt: skip
_MESSAGES = (
    "exceeded quota: q, requested: cpu=1,memory=1Gi, used: cpu=0, limited: cpu=0", "status unknown for quota: q",
    "exceeded quota: q, requested: cpu=1e99999999999999999999, used: cpu=0, limited: cpu=1E",
    "exceeded quota: q, requested: a=b=c,d, used: x, limited: =", 'admission webhook "w" denied the request: no',
    'pods "p" is forbidden: User "u" cannot create resource "pods"', "etcdserver: request is too large", "\ud800", "",
)  # fmt: skip
_LIST = {"kind": "PodList", "metadata": {"resourceVersion": "7", "continue": ""}, "items": [_POD]}
_EVENTS = {"kind": "EventList", "metadata": {}, "items": [
    {"type": "Warning", "reason": "r", "message": "m", "lastTimestamp": "2026-11-27T10:00:00Z"}]}  # fmt: skip
_DATES = ("Fri, 27 Nov 2026 10:00:00 GMT", "Fri, 27 Nov 9999 23:59:59 -2359", "Fri, 99 Foo 99999999999999999999 1:1:1 GMT",
          "Mon, 01 Jan 0001 00:00:00 +2359", "0", "1", "\u0663")  # fmt: skip


def _bodies() -> st.SearchStrategy[bytes]:
    statuses = mutated(_STATUS) | st.builds(lambda message: {**_STATUS, "message": message}, st.sampled_from(_MESSAGES))
    objects = st.sampled_from((_POD, _LIST, _EVENTS)).flatmap(lambda found: mutated(found) | st.just(found))
    odd = st.sampled_from((b"", b"{}", b"[]", b"null", b"1", b"<html>", nested(100_000), nested(100_000, '{"a":'),
                           b'{"metadata":' + nested(100_000, '{"a":') + b"}", b'{"items":' + nested(900) + b"}"))  # fmt: skip
    return statuses.map(to_json) | objects.map(to_json) | objects.map(to_json) | jsons.map(to_json) | odd | raw


@st.composite
def answers(draw: st.DrawFn, most_pause_s: float = math.inf) -> bytes:
    """One HTTP response. :param most_pause_s: no Retry-After asks for longer, apart from what is no number."""
    headers = []
    for _ in range(draw(st.integers(0, 2))):
        name = draw(
            st.sampled_from((b"Retry-After", b"Retry-After", b"Warning", b"Content-Type", b"Location", b"X-Any"))
        )
        value = draw(st.sampled_from(_DATES) | numbers | texts.filter(lambda text: len(text) < 5000))
        if name == b"Retry-After" and most_pause_s < 600 and value.strip().lstrip("0").isdecimal():
            value = str(int(most_pause_s))
        headers.append((name, re.sub(rb"[\r\n\x00]", b"", value.encode("utf-8", "surrogatepass"))[:4000]))
    body = draw(_bodies())
    if most_pause_s < 600:
        body = re.sub(rb'"retryAfterSeconds": ?\d+', b'"retryAfterSeconds": 0', body)
    return response(draw(st.sampled_from(_STATUSES)), headers, body)


# --- the client ---------------------------------------------------------------------------------------------------------
async def _watch(pods: PodClient) -> None:
    async with contextlib.aclosing(pods.watch_stream("default", version="1", silence_s=5.0, partial=True)) as events:
        async for _ in events:
            pass


_DONE = CleanupRequest(_LAUNCH, "done", "default", _NAME)
_CALLS: tuple[Callable[[PodClient], Awaitable[Any]], ...] = (
    lambda pods: pods.create_pod("default", _POD),
    lambda pods: pods.patch_pod("default", _NAME, {"metadata": {"labels": {}}}),
    lambda pods: pods.delete_pod("default", _NAME, uid="u", version="1", grace_s=1, options={"a_b": 1}),
    lambda pods: pods.get_pod("default", _NAME),
    lambda pods: find_own_pod(pods, _POD),
    lambda pods: pods.list_page("default", partial=True),
    lambda pods: pods.list_page(None),
    lambda pods: pods.list_events("default", name=_NAME, uid="u"),
    lambda pods: pods.read_log_tail("default", _NAME),
    lambda pods: pods.get_namespace("default"),
    lambda pods: pods.server_version(),
    _watch,
)


async def _call(pods: PodClient, number: int, report: Report, answer: bytes) -> None:
    try:
        found = await asyncio.wait_for(_CALLS[number](pods), 20)
        if number in (0, 1, 3) or (number == 4 and found is not None):
            has_started(found)
            mismatch(_DONE, 0, "default", found)
            metadata = found["metadata"]
            if not isinstance(metadata["name"], str) or not isinstance(metadata["namespace"], str):
                report.fault(f"call {number} took this for a pod: {answer[:300]!r}")
        if number == 7:
            latest_warning(found)
    except ApiError as error:
        policy = classify_error(error, 3)
        for seconds in (error.retry_after_s, policy.seconds):
            if seconds is not None and not seconds >= 0.0:
                report.fault(f"a pause of {seconds} s after {answer[:300]!r}")
        if policy.seconds is not None and policy.seconds > PAUSE_MOST_S:
            report.fault(f"a pause of {policy.seconds} s after {answer[:300]!r}")
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the fault that is looked for
        report.fault(f"call {number}: {type(error).__name__}: {str(error)[:200]} after {answer[:400]!r}")


def run(folder: Path, count: int, seed: int, launcher_s: float = 60.0) -> Report:
    """Fuzz the client, then for some seconds a launcher process."""
    report = Report("api", seed)
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        api = stack.enter_context(RawApi())
        loop = asyncio.new_event_loop()
        stack.callback(loop.close)

        async def connect() -> PodClient:
            return PodClient(Credentials(configuration(f"http://127.0.0.1:{api.port}")))

        pods = loop.run_until_complete(connect())
        stack.callback(lambda: loop.run_until_complete(pods.close()))

        def take(batch: list[bytes]) -> int:
            for answer in batch:
                api.answer = lambda method, path, answer=answer: answer  # type: ignore[misc]
                for number in range(len(_CALLS)):
                    api.instead[:] = [answer] * 3
                    loop.run_until_complete(_call(pods, number, report, answer))
            return len(batch) * len(_CALLS)

        feed(st.lists(answers(), min_size=1, max_size=8), take, report, count)
    _fuzz_launcher(folder, report, launcher_s)
    return report


# --- a launcher ---------------------------------------------------------------------------------------------------------
def _as_answer(found: bytes) -> web.Response:
    head, _, body = found.partition(b"\r\n\r\n")
    status = min(599, max(200, int(head.split()[1])))
    return web.Response(status=status, body=b"" if status in (204, 304) else body)


def _fuzz_launcher(folder: Path, report: Report, seconds: float) -> None:
    """Most odd answers are refusals of one launch, because any other failure makes all launches wait."""
    pool: list[bytes] = []
    chance = random.Random(report.seed)

    def collect(batch: list[bytes]) -> int:
        pool.extend(batch)
        return 0 if len(pool) < 2000 else 1

    few = Report("", report.seed)
    feed(st.lists(answers(most_pause_s=0), min_size=1, max_size=20), collect, few, 1)
    refusals = [found for found in pool if found[9:12] in _REFUSALS and b'"Status"' in found]
    (folder / "redis").mkdir()
    with RedisServer(folder / "redis") as server, PodApi() as api:
        rig = LauncherRig(server.url, api, folder)

        # The pauses after any other failure would be most of a short run.
        mild = 0.97 if seconds > 10 else 1.0

        def odd(*_: Any) -> web.Response | None:
            number = chance.random()
            return None if number < 0.3 else _as_answer(chance.choice(refusals if number < mild else pool))

        api.fault, api.look_fault = odd, odd
        try:
            process = rig.start_process()
            began_s, offered = time.monotonic(), []
            while time.monotonic() - began_s < seconds and process.is_alive():
                made = rig.offer_many(20)
                offered += made
                if chance.random() < 0.5:
                    _order_cleanups(rig, made)
                time.sleep(0.2)
            report.notes.append(f"{sum(api.calls.values())} odd answers to a launcher")
            api.fault = api.look_fault = None
            healed_s = time.monotonic()
            honest = rig.offer_many(5)
            while rig.states(honest) != {"created": 5}:
                if time.monotonic() - healed_s > RECOVER_S:
                    report.fault(f"a launcher created {rig.states(honest)} of 5 within {RECOVER_S:g} s")
                    break
                time.sleep(0.1)
            report.recovered_s = time.monotonic() - healed_s
            if not process.is_alive():
                report.fault(f"the launcher ended with {process.exitcode}: {rig.log_of(0)[-600:]}")
            report.wrong += complaints(rig.log_of(0))
        finally:
            rig.stop_processes()


def _order_cleanups(rig: LauncherRig, requests: Sequence[LaunchRequest]) -> None:
    """Clean-ups of every kind for the pods of these launches."""
    kinds: tuple[CleanupAction, ...] = ("delete", "done", "revoke", "revoke")
    items = []
    for number, request in enumerate(requests):
        pod = identifiers.pod_name("etl-load", request.launch_id, 0)
        cleanup = rig.queue.cleanup(
            kinds[number % 4], request.launch_id, "default", pod, "", unless_started=number % 4 == 3
        )
        items.append(Acknowledgement(request.launch_id, 0, request.subject, cleanup=cleanup))
    rig.queue.acknowledge(items)
