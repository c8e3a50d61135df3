"""podrelay's own client, as the tests of this suite use it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest

from podrelay_workers.kube.client import PodClient
from podrelay_workers.kube.errors import ApiError
from tests.real_cluster.server import Json, Server

T = TypeVar("T")

# What the pods of the fixture `seven` have in common.
LABELS = "podrelay.test/of=seven"


def ask(work: Callable[[PodClient], Awaitable[T]]) -> T:
    """Let podrelay's own client do it."""

    async def run() -> T:
        async with await PodClient.connect() as api:
            return await asyncio.wait_for(work(api), 60)

    return asyncio.run(run())


def refusal(work: Callable[[PodClient], Awaitable[Any]], kind: type[ApiError]) -> ApiError:
    with pytest.raises(kind) as caught:
        ask(work)
    assert type(caught.value) is kind
    return caught.value


async def events(api: PodClient, server: Server, version: str, count: int, **options: Any) -> list[Json]:
    found: list[Json] = []
    stream = api.watch_stream(server.namespace, version=version, labels=LABELS, timeout_s=20, **options)
    async for event in stream:
        if event["type"] != "BOOKMARK":
            found.append(event)
        if len(found) == count or event["type"] == "ERROR":
            break
    await stream.aclose()
    return found
