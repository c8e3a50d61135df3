"""An API server that follows a script: each request is answered by the next step, or the last one over and over."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

from aiohttp import web

from podrelay_workers.kube.client import PodClient
from podrelay_workers.kube.credentials import Credentials

Json = dict[str, Any]
Step = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Script:
    """What the server answers, and what it was asked."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.requests: list[web.Request] = []
        self.bodies: list[bytes] = []
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        self.bodies.append(await request.read())
        step = self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]
        return await step(request)

    def queries(self, name: str) -> list[str]:
        return [request.query.get(name, "") for request in self.requests]


@asynccontextmanager
async def scripted(*steps: Step, **limits: float) -> AsyncIterator[tuple[Script, PodClient]]:
    script = Script()
    script.steps = list(steps)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", script.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    script.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    access = Credentials(configuration(script.url), **limits)  # type: ignore[arg-type]
    try:
        async with PodClient(access) as api:
            yield script, api
    finally:
        await runner.cleanup()


def configuration(url: str, token: str = "") -> Any:
    """As much of a Kubernetes client's configuration as is read."""
    return SimpleNamespace(
        host=url, api_key={"BearerToken": f"Bearer {token}"} if token else {}, api_key_prefix={}, username=None,
        password=None, proxy=None, proxy_headers=None, refresh_api_key_hook=None,
    )  # fmt: skip


def answers(document: Any, status: int = 200, **headers: str) -> Step:
    async def step(_: web.Request) -> web.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if isinstance(document, (str, bytes)):
            return web.Response(body=document, status=status, headers=named)
        return web.json_response(document, status=status, headers=named)

    return step


def refuses(code: int, reason: str = "", message: str = "no", **headers: str) -> Step:
    return answers({"kind": "Status", "code": code, "reason": reason, "message": message}, code, **headers)


def lists(*pods: Json, version: str = "10", more: str = "") -> Step:
    return answers({"kind": "PodList", "metadata": {"resourceVersion": version, "continue": more}, "items": list(pods)})


def streams(*events: Json | bytes, then: str = "end") -> Step:
    """A watch that sends these and then does as requested: end, hang, cut (in the middle of a chunk)."""

    async def step(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for event in events:
            await response.write(event if isinstance(event, bytes) else json.dumps(event).encode() + b"\n")
        if then == "hang":
            await asyncio.sleep(30)
        if then == "cut":
            await asyncio.sleep(0.3)  # a reset takes with it what the other side has not read yet
            assert request.transport is not None
            request.transport.abort()
        return response

    return step


def breaks() -> Step:
    async def step(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    return step


def pod(name: str = "a", version: str = "11", namespace: str = "default") -> Json:
    return {"metadata": {"name": name, "namespace": namespace, "resourceVersion": version}}


def event(kind: str, name: str = "a", version: str = "11") -> Json:
    return {"type": kind, "object": pod(name, version)}


def expired() -> Json:
    return {"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}}
