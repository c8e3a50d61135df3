"""The Secrets of `PodApi`: created and deleted like pods, and collected once their owner is gone."""

from __future__ import annotations

import asyncio
import base64
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web

Json = dict[str, Any]
Refusal = Callable[[int, str, str], web.Response]


class SecretApi:
    """The attributes may be set at any time."""

    def __init__(self, pods: Mapping[tuple[str, str], Json], refuse: Refusal) -> None:
        """:param refuse: builds an answer with a Status."""
        self._pods = pods
        self._refuse = refuse
        self._kept: dict[tuple[str, str], Json] = {}
        self.creates: list[tuple[float, str]] = []  # (monotonic time, name) of each POST that arrived
        self.deletes: list[str] = []
        self.names: Counter[str] = Counter()  # Secrets that came to be, by name
        self.latency_s = 0.0
        self.fault: Callable[[web.Request, Json], web.Response | None] | None = None
        self.lose_answers = 0  # so many creates take effect, but their connection breaks before the answer

    def add_routes(self, app: web.Application) -> None:
        path = "/api/v1/namespaces/{namespace}/secrets"
        app.router.add_post(path, self._create)
        app.router.add_delete(path + "/{name}", self._delete)

    @property
    def existing(self) -> dict[tuple[str, str], Json]:
        """The Secrets whose owner exists."""
        uids = {pod["metadata"]["uid"] for pod in self._pods.values()}
        for key, secret in list(self._kept.items()):
            owners = secret["metadata"].get("ownerReferences") or []
            if owners and not any(owner["uid"] in uids for owner in owners):
                del self._kept[key]
        return self._kept

    def put(self, namespace: str, *names: str) -> None:
        """Secrets that nothing owns."""
        for name in names:
            self._kept[namespace, name] = {"metadata": {"name": name}, "data": {}}

    def workloads(self) -> list[str]:
        """What the Secrets hold."""
        return [
            base64.b64decode(value).decode() for secret in self.existing.values() for value in secret["data"].values()
        ]

    async def _create(self, request: web.Request) -> web.StreamResponse:
        secret = await request.json()
        key = (request.match_info["namespace"], secret["metadata"]["name"])
        self.creates.append((time.monotonic(), key[1]))
        if self.latency_s:
            await asyncio.sleep(self.latency_s)
        answer = self.fault(request, secret) if self.fault else None
        if answer is not None:
            return answer
        if key in self.existing:
            return self._refuse(409, "AlreadyExists", f'secrets "{key[1]}" already exists')
        self._kept[key] = secret
        self.names[key[1]] += 1
        if self.lose_answers > 0:
            self.lose_answers -= 1
            assert request.transport is not None
            request.transport.close()
        return web.json_response(secret, status=201)

    async def _delete(self, request: web.Request) -> web.Response:
        key = (request.match_info["namespace"], request.match_info["name"])
        self.deletes.append(key[1])
        answer = self.fault(request, {}) if self.fault else None
        if answer is not None:
            return answer
        if self.existing.pop(key, None) is None:
            return self._refuse(404, "NotFound", f'secrets "{key[1]}" not found')
        return web.json_response({"kind": "Status", "apiVersion": "v1", "status": "Success"})
