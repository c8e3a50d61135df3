"""The watch against a scripted server: every gap is healed where it should be, and at which version."""

from __future__ import annotations

import asyncio
import gzip
import json
from contextlib import aclosing
from typing import Any

import pytest
from aiohttp import web

from podrelay_workers.kube.client import PodClient
from podrelay_workers.kube.errors import Unreachable
from podrelay_workers.runtime.backoff import Backoff
from podrelay_workers.watcher.reflector import ListComplete, PodEvent, Reflector
from tests.harness.scripted_server import Step, answers, event, expired, lists, pod, refuses, scripted, streams


async def follow(api: PodClient, count: int, silence_s: float = 5.0) -> tuple[list[str], Reflector]:
    """The first items of a watch, as short texts."""
    watch = Reflector(api, "default", "a=b", silence_s, Backoff(first_s=0.01, most_s=0.05))
    found: list[str] = []
    async with aclosing(watch.events()) as items:
        async for item in items:
            if isinstance(item, ListComplete):
                found.append(f"complete {len(item.pods)}")
            else:
                found.append(f"{item.event} {item.pod['metadata']['name']}")
            if len(found) == count:
                break
    return found, watch


def bookmark(version: str) -> dict[str, object]:
    return {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": version}}}


HANG = streams(then="hang")

TOO_LARGE = {
    "kind": "Status", "code": 504, "reason": "Timeout", "message": "Timeout: Too large resource version: 90, current: 30",
    "details": {"causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
                "retryAfterSeconds": 0},
}  # fmt: skip
FUTURE = answers(TOO_LARGE, 504)
FUTURE_EVENT = streams({"type": "ERROR", "object": TOO_LARGE})

SCRIPTS: dict[str, tuple[list[Step], list[str], list[str]]] = {
    # what the server does, what comes out, the versions of the watch requests
    "list in pages, then watch from its version": (
        [lists(pod("a"), more="c"), lists(pod("b"), version="20"), streams(event("ADDED", "c", "21")), HANG],
        ["LISTED a", "LISTED b", "complete 2", "ADDED c"],
        ["20"],
    ),
    "resume at the version reached": (
        [lists(), streams(event("ADDED", "a", "11")), streams(event("MODIFIED", "a", "12")), HANG],
        ["complete 0", "ADDED a", "MODIFIED a"],
        ["10", "11"],
    ),
    "a bookmark moves the version": (
        [lists(), streams(bookmark("50")), streams(event("ADDED", "a", "51")), HANG],
        ["complete 0", "ADDED a"],
        ["10", "50"],
    ),
    "a cut stream resumes": (
        [lists(), streams(event("ADDED", "a", "11"), b'{"ty', then="cut"), streams(event("DELETED", "a", "12")), HANG],
        ["complete 0", "ADDED a", "DELETED a"],
        ["10", "11"],
    ),
    "an expired version in the stream lists again": (
        [lists(), streams(event("ADDED", "a", "11"), expired()), lists(version="30"),
         streams(event("ADDED", "b", "31")), HANG],
        ["complete 0", "ADDED a", "complete 0", "ADDED b"],
        ["10", "30"],
    ),
    "an expired version as an answer lists again": (
        [lists(), refuses(410, "Gone"), lists(version="30"), streams(event("ADDED", "b", "31")), HANG],
        ["complete 0", "complete 0", "ADDED b"],
        ["10", "30"],
    ),
    "a server in trouble": (
        [refuses(500), refuses(429, Retry_After="0"), lists(), refuses(503), streams(event("ADDED", "a", "11")), HANG],
        ["complete 0", "ADDED a"],
        ["10", "10"],
    ),
    "a list that expires half-way begins again": (
        [lists(pod("a"), more="c"), refuses(410, "Expired"), lists(pod("a")), streams(event("ADDED", "b")), HANG],
        ["LISTED a", "LISTED a", "complete 1", "ADDED b"],
        ["10"],
    ),
    "a page that fails is retried, not the whole list": (
        [lists(pod("a"), more="c"), refuses(500), refuses(429, Retry_After="0"), lists(pod("b"), version="20"),
         streams(event("ADDED", "c", "21")), HANG],
        ["LISTED a", "LISTED b", "complete 2", "ADDED c"],
        ["20"],
    ),
    "a version from the future (restored storage, a server that lags) lists again": (
        [lists(version="90"), FUTURE, FUTURE, FUTURE, lists(version="30"), streams(event("ADDED", "b", "31")), HANG],
        ["complete 0", "complete 0", "ADDED b"],
        ["90", "90", "90", "30"],
    ),
    "the same, reported in the stream": (
        [lists(version="90"), FUTURE_EVENT, FUTURE_EVENT, FUTURE_EVENT, lists(version="30"),
         streams(event("ADDED", "b", "31")), HANG],
        ["complete 0", "complete 0", "ADDED b"],
        ["90", "90", "90", "30"],
    ),
    "a version that is refused lists again at once": (
        [lists(version="90"), refuses(400, "BadRequest", "Invalid value"), lists(version="30"),
         streams(event("ADDED", "b", "31")), HANG],
        ["complete 0", "complete 0", "ADDED b"],
        ["90", "30"],
    ),
    "a server that has just started, and does not know its roles yet": (
        [refuses(403, "Forbidden", "pods is forbidden: not yet ready to handle request"), refuses(403), lists(),
         refuses(403), refuses(403), streams(event("ADDED", "a", "11")), HANG],
        ["complete 0", "ADDED a"],
        ["10", "10", "10"],
    ),
    "a watch that is refused for long leaves the lists": (
        [lists(), refuses(403), refuses(404), refuses(403), lists(pod("a")), refuses(403), refuses(403), refuses(403),
         lists(pod("b"), version="20"), streams(event("ADDED", "c", "21")), HANG],
        ["complete 0", "LISTED a", "complete 1", "LISTED b", "complete 1", "ADDED c"],
        ["10", "10", "10", "10", "10", "10", "20"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SCRIPTS)
def test_gaps(name: str) -> None:
    steps, expected, versions = SCRIPTS[name]

    async def test() -> None:
        async with scripted(*steps) as (script, api):
            found, _ = await asyncio.wait_for(follow(api, len(expected)), 10)
            assert found == expected
            asked = [request.query["resourceVersion"] for request in script.requests if request.query.get("watch")]
            assert asked[: len(versions)] == versions

    asyncio.run(test())


def test_silence_resumes() -> None:
    async def test() -> None:
        steps = [lists(), streams(event("ADDED", "a", "11"), then="hang"), streams(event("ADDED", "b", "12")), HANG]
        async with scripted(*steps) as (script, api):
            found, _ = await asyncio.wait_for(follow(api, 3, silence_s=0.3), 10)
            assert found == ["complete 0", "ADDED a", "ADDED b"]
            assert script.queries("resourceVersion") == ["", "10", "11"]

    asyncio.run(test())


def test_repeated_silence_lists_again() -> None:
    """A version that is ahead of a restored server brings neither events nor an error: only silence."""

    async def test() -> None:
        steps = [
            lists(version="90"),
            HANG,
            HANG,
            lists(pod("a"), version="30"),
            streams(event("ADDED", "b", "31")),
            HANG,
        ]
        async with scripted(*steps) as (script, api):
            found, _ = await asyncio.wait_for(follow(api, 4, silence_s=0.2), 10)
            assert found == ["complete 0", "LISTED a", "complete 1", "ADDED b"]
            assert script.queries("resourceVersion") == ["", "90", "90", "", "30"]

    asyncio.run(test())


def test_a_list_that_expires_between_pages_is_read_whole() -> None:
    """Storage that is compacted faster than the pages come: as the reference client does."""

    async def test() -> None:
        expires = [lists(pod("a"), more="c"), refuses(410, "Expired")]
        async with scripted(*expires, *expires, lists(pod("a"), pod("b"), version="20"), HANG) as (script, api):
            found, _ = await asyncio.wait_for(follow(api, 5), 10)
            assert found == ["LISTED a", "LISTED a", "LISTED a", "LISTED b", "complete 2"]
            assert script.queries("limit")[:5] == ["500", "500", "500", "500", ""]

    asyncio.run(test())


def test_a_server_cannot_ask_for_an_hours_pause() -> None:
    async def test() -> None:
        async with scripted(refuses(429, Retry_After="3600"), lists(pod("a")), HANG) as (_, api):
            watch = Reflector(api, "default", "a=b", 5.0, Backoff(first_s=0.01, most_s=0.05), longest_pause_s=0.1)
            async with aclosing(watch.events()) as items:
                first = await asyncio.wait_for(anext(items), 5)
                assert isinstance(first, PodEvent)
                assert first.pod["metadata"]["name"] == "a"

    asyncio.run(test())


def test_a_compressed_list() -> None:
    """The API server compresses answers above 128 KB."""
    document = {
        "kind": "PodList",
        "metadata": {"resourceVersion": "10"},
        "items": [pod("a") | {"spec": {"x": "y" * 200_000}}],
    }
    step = answers(
        gzip.compress(json.dumps(document).encode()), Content_Type="application/json", Content_Encoding="gzip"
    )

    async def test() -> None:
        async with scripted(step, HANG) as (script, api):
            found, _ = await asyncio.wait_for(follow(api, 2), 10)
            assert found == ["LISTED a", "complete 1"]
            assert "gzip" in script.requests[0].headers["Accept-Encoding"]

    asyncio.run(test())


def test_a_watch_that_always_fails_backs_off_although_the_list_works() -> None:
    async def test() -> None:
        async def step(request: web.Request) -> web.StreamResponse:
            return await (refuses(410) if request.query.get("watch") else lists())(request)

        async with scripted(step) as (script, api):
            watch = Reflector(api, "default", "a=b", 5.0, Backoff(first_s=0.1, most_s=60.0, chance=lambda: 1.0))

            async def endless() -> None:
                async with aclosing(watch.events()) as items:
                    async for _ in items:
                        pass

            task = asyncio.ensure_future(endless())
            await asyncio.sleep(1.0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        assert len(script.requests) <= 2 * 4  # after 0, 0.1, 0.3, 0.7 s

    asyncio.run(test())


def test_a_refused_namespace_is_trouble_until_it_is_not() -> None:
    async def test() -> None:
        async with scripted(refuses(403, "Forbidden", "cannot list"), refuses(403), lists(pod("a")), HANG) as (_, api):
            watch = Reflector(api, "default", "a=b", 5.0, Backoff(first_s=0.2, most_s=0.2))

            async def first() -> None:
                async with aclosing(watch.events()) as items:
                    async for item in items:
                        if isinstance(item, ListComplete):
                            await asyncio.sleep(0)
                        elif watch.position.listed_s == 0:
                            return

            task = asyncio.ensure_future(first())
            await asyncio.sleep(0.1)
            assert watch.position.trouble == "list: cannot list"
            await asyncio.wait_for(task, 5)

    asyncio.run(test())


@pytest.mark.parametrize(
    "document", [{"metadata": "x", "items": []}, {"metadata": {"resourceVersion": "9"}, "items": 5}]
)
def test_an_answer_that_is_no_list_is_asked_for_again(document: dict[str, object]) -> None:
    async def test() -> None:
        async with scripted(answers(document), lists(pod("a")), HANG) as (_, api):
            assert (await asyncio.wait_for(follow(api, 2), 10))[0] == ["LISTED a", "complete 1"]

    asyncio.run(test())


def test_an_event_without_a_pod_does_not_end_the_watch() -> None:
    odd: list[dict[str, Any]] = [
        {"type": "ADDED", "object": {"metadata": "x"}},
        {"type": "ADDED", "object": {"metadata": ["x"]}},
        {"type": []},
        {"type": "MODIFIED", "object": {"metadata": {"resourceVersion": "\ud800"}}},
        {"type": "MODIFIED", "object": {"metadata": {"resourceVersion": ["x"]}}},
        {"type": "MODIFIED", "object": {"metadata": {"name": {}, "labels": [1]}, "spec": 1, "status": [[]]}},
    ]

    async def test() -> None:
        async with scripted(lists(), streams(*odd, event("ADDED", "a", "11")), HANG) as (_, api):
            watch = Reflector(api, "default", "a=b", 5.0, Backoff(first_s=0.01, most_s=0.05))
            async with aclosing(watch.events()) as items:
                async for item in items:
                    if (
                        isinstance(item, PodEvent)
                        and item.pod["metadata"] == event("ADDED", "a", "11")["object"]["metadata"]
                    ):
                        return

    asyncio.run(asyncio.wait_for(test(), 10))


def test_an_answer_that_is_no_pod_says_nothing_about_a_pod() -> None:
    async def test() -> None:
        async with scripted(answers({"metadata": "x"})) as (_, api):
            with pytest.raises(Unreachable, match="not the pod"):
                await api.get_pod("default", "a")

    asyncio.run(test())


@pytest.mark.parametrize(
    "line", [b"[" * 100_000 + b"\n", b'{"type":"ADDED","object":' + b"[" * 100_000 + b"\n", b"1\n"]
)
def test_an_event_that_is_too_deep_is_a_gap_and_no_end(line: bytes) -> None:
    async def test() -> None:
        steps = (lists(), streams(line), streams(event("ADDED", "a", "11")), HANG)
        async with scripted(*steps) as (script, api):
            found, _ = await follow(api, 2)
            assert found == ["complete 0", "ADDED a"]
            assert script.queries("resourceVersion")[1:3] == ["10", "10"]

    asyncio.run(asyncio.wait_for(test(), 10))


@pytest.mark.parametrize("code", ["x", None, True, 10**30, 7, []])
def test_an_error_event_with_an_odd_code_is_a_failure_that_passes(code: object) -> None:
    async def test() -> None:
        steps = (
            lists(),
            streams({"type": "ERROR", "object": {"code": code}}),
            streams(event("ADDED", "a", "11")),
            HANG,
        )
        async with scripted(*steps) as (_, api):
            assert (await follow(api, 2))[0] == ["complete 0", "ADDED a"]

    asyncio.run(asyncio.wait_for(test(), 10))


@pytest.mark.parametrize(
    "metadata", [{"resourceVersion": {}}, {"resourceVersion": "\ud800"}, {"resourceVersion": "1", "continue": [1]}]
)
def test_a_list_with_an_odd_version_is_none(metadata: dict[str, object]) -> None:
    async def test() -> None:
        odd = answers(json.dumps({"kind": "PodList", "metadata": metadata, "items": []}))
        async with scripted(odd, lists(), streams(event("ADDED", "a", "11")), HANG) as (_, api):
            assert (await follow(api, 2))[0] == ["complete 0", "ADDED a"]

    asyncio.run(asyncio.wait_for(test(), 10))
