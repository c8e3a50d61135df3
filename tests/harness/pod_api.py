"""A pods API whose every answer a test decides: it keeps pods in memory, counts each request and runs nothing.

The local cluster is the real thing; this one is for faults at an exact request: the third create, the first answer.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from aiohttp import web
from aiohttp.typedefs import Handler

from tests.harness.secret_api import SecretApi

Json = dict[str, Any]


class PodApi:
    """Serves on a free port of loopback in its own thread. The attributes may be set at any time."""

    def __init__(self) -> None:
        self.pods: dict[tuple[str, str], Json] = {}
        self.creates: list[tuple[float, str]] = []  # (monotonic time, name) of each POST that arrived
        self.calls: Counter[str] = Counter()
        self.names: Counter[str] = Counter()  # pods that came to be, by name
        self.latency_s = 0.0
        # How many requests are served at once; more are answered with 429. None: all.
        self.seats: int | None = None
        self.seats_taken = self.refused = 0
        self.quota: dict[str, int] = {}
        self.fault: Callable[[web.Request, Json], web.Response | None] | None = None
        self.look_fault: Callable[[web.Request], web.Response | None] | None = None  # of each GET
        self.namespaces: set[str] | None = None  # those that exist; None: every one
        self.lose_answers = 0  # so many creates take effect, but their connection breaks before the answer
        self.secrets = SecretApi(self.pods, status)
        self.port = 0
        self._ready = threading.Event()
        self._stop: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    def __enter__(self) -> PodApi:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *exc: object) -> None:
        assert self._loop is not None
        assert self._stop is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    def kubeconfig(self, folder: Path) -> Path:
        path = folder / "kubeconfig"
        document = {
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{self.port}"}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        }  # fmt: skip
        path.write_text(yaml.safe_dump(document))
        return path

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        app = web.Application(middlewares=[self._take_seat])
        pods = "/api/v1/namespaces/{namespace}/pods"
        app.router.add_post(pods, self._create)
        for method, handler in (("GET", self._get), ("PATCH", self._patch), ("DELETE", self._delete)):
            app.router.add_route(method, pods + "/{name}", handler)
        app.router.add_get("/api/v1/namespaces/{namespace}", self._get_namespace)
        self.secrets.add_routes(app)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.port = runner.addresses[0][1]
        self._ready.set()
        await self._stop.wait()
        await runner.cleanup()

    @web.middleware
    async def _take_seat(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """As priority and fairness with the limit response Reject."""
        if self.seats is None:
            return await handler(request)
        if self.seats_taken >= self.seats:
            self.refused += 1
            return status(429, "TooManyRequests", "Too many requests, please try again later.", retry_after="1")
        self.seats_taken += 1
        try:
            return await handler(request)
        finally:
            self.seats_taken -= 1

    async def _create(self, request: web.Request) -> web.StreamResponse:
        pod = await request.json()
        namespace, name = request.match_info["namespace"], pod["metadata"]["name"]
        self.creates.append((time.monotonic(), name))
        self.calls["create"] += 1
        if self.latency_s:
            await asyncio.sleep(self.latency_s)
        answer = self.fault(request, pod) if self.fault else None
        if answer is not None:
            return answer
        if (namespace, name) in self.pods:
            return status(409, "AlreadyExists", f'pods "{name}" already exists')
        alive = sum(1 for space, _ in self.pods if space == namespace)
        if alive >= self.quota.get(namespace, 1 << 30):
            return status(403, "Forbidden", f'pods "{name}" is forbidden: exceeded quota: q, requested: pods=1')
        pod["metadata"] |= {"namespace": namespace, "uid": str(uuid.uuid4()), "resourceVersion": "1"}
        self.pods[namespace, name] = pod
        self.names[name] += 1
        if self.lose_answers > 0:
            self.lose_answers -= 1
            assert request.transport is not None
            request.transport.close()
        return web.json_response(pod, status=201)

    async def _get(self, request: web.Request) -> web.Response:
        self.calls["get"] += 1
        refused = self.look_fault(request) if self.look_fault else None
        if refused is not None:
            return refused
        pod = self.pods.get((request.match_info["namespace"], request.match_info["name"]))
        return web.json_response(pod) if pod else status(404, "NotFound", "no such pod")

    async def _get_namespace(self, request: web.Request) -> web.Response:
        refused = self.look_fault(request) if self.look_fault else None
        name = request.match_info["namespace"]
        if refused is None and self.namespaces is not None and name not in self.namespaces:
            return status(404, "NotFound", f'namespaces "{name}" not found')
        return refused or web.json_response({"kind": "Namespace", "metadata": {"name": name}})

    async def _patch(self, request: web.Request) -> web.Response:
        self.calls["patch"] += 1
        answer = self.fault(request, {}) if self.fault else None
        pod = self.pods.get((request.match_info["namespace"], request.match_info["name"]))
        if answer is not None or pod is None:
            return answer or status(404, "NotFound", "no such pod")
        patch = await request.json()
        version = patch["metadata"].get("resourceVersion")
        if version and version != pod["metadata"]["resourceVersion"]:
            return status(409, "Conflict", "the object has been modified")
        if patch["metadata"].get("uid") not in (None, pod["metadata"]["uid"]):
            return status(422, "Invalid", 'Pod "p" is invalid: metadata.uid: Invalid value: "u": field is immutable')
        pod["metadata"]["resourceVersion"] = str(int(pod["metadata"].get("resourceVersion", "1")) + 1)
        labels = pod["metadata"].setdefault("labels", {}) | patch["metadata"]["labels"]
        pod["metadata"]["labels"] = {name: value for name, value in labels.items() if value is not None}
        return web.json_response(pod)

    async def _delete(self, request: web.Request) -> web.Response:
        self.calls["delete"] += 1
        if self.latency_s:
            await asyncio.sleep(self.latency_s)
        answer = self.fault(request, {}) if self.fault else None
        key = (request.match_info["namespace"], request.match_info["name"])
        if answer is not None or key not in self.pods:
            return answer or status(404, "NotFound", "no such pod")
        body = json.loads(await request.text() or "{}")
        uid = (body.get("preconditions") or {}).get("uid")
        if uid and uid != self.pods[key]["metadata"]["uid"]:
            return status(409, "Conflict", "the UID in the precondition does not match")
        version = (body.get("preconditions") or {}).get("resourceVersion")
        if version and version != self.pods[key]["metadata"]["resourceVersion"]:
            return status(409, "Conflict", "the ResourceVersion in the precondition does not match")
        return web.json_response(self.pods.pop(key))


def status(code: int, reason: str, message: str, retry_after: str | None = None) -> web.Response:
    body = {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "code": code,
        "reason": reason,
        "message": message,
    }
    headers = {"Retry-After": retry_after} if retry_after is not None else {}
    return web.json_response(body, status=code, headers=headers)
