"""podrelay's Kubernetes client, as the tests of this suite call it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest

from podrelay_workers.kube.client import PodClient
from podrelay_workers.kube.errors import ApiError
from tests.real_cluster.server import Json, Server

T = TypeVar("T")

# The label of the pods of the fixture `seven`.
LABELS = "podrelay.test/of=seven"


def ask(work: Callable[[PodClient], Awaitable[T]]) -> T:
    """Run `work` with podrelay's client; returns its result."""

    async def run() -> T:
        async with await PodClient.connect() as api:
            return await asyncio.wait_for(work(api), 60)

    return asyncio.run(run())


def refusal(work: Callable[[PodClient], Awaitable[Any]], kind: type[ApiError]) -> ApiError:
    """The error of a refused request, which must be exactly of this class."""
    with pytest.raises(kind) as caught:
        ask(work)
    assert type(caught.value) is kind
    return caught.value


async def events(api: PodClient, server: Server, version: str, count: int, **options: Any) -> list[Json]:
    """The first `count` events of a watch, without bookmarks; fewer when an ERROR event ends it."""
    found: list[Json] = []
    stream = api.watch_stream(server.namespace, version=version, labels=LABELS, timeout_s=20, **options)
    async for event in stream:
        if event["type"] != "BOOKMARK":
            found.append(event)
        if len(found) == count or event["type"] == "ERROR":
            break
    await stream.aclose()
    return found
