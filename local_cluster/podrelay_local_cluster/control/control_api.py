"""What tests do to the cluster beside the Kubernetes API: faults, compaction, restarts, forced endings, and a look inside."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from podrelay_local_cluster.api.core_api import json_response
from podrelay_local_cluster.api.listing import Lister, integer
from podrelay_local_cluster.api.watching import Streams
from podrelay_local_cluster.control.audit import CAPACITY, Audit
from podrelay_local_cluster.control.faults import Faults
from podrelay_local_cluster.kubelet.ending import Ending
from podrelay_local_cluster.kubelet.node import LocalNode
from podrelay_local_cluster.objects.errors import bad_request, method_not_allowed, unknown_path
from podrelay_local_cluster.storage.pods import PodRegistry
from podrelay_local_cluster.storage.record import to_json
from podrelay_local_cluster.storage.store import ObjectStore

Json = dict[str, Any]

_MAX_DOWN_S = 3600.0


@dataclass(frozen=True)
class ControlApi:
    """Paths below ``/local-cluster/``; `restart` takes the seconds the server shall be away."""

    store: ObjectStore
    pods: PodRegistry
    node: LocalNode
    lister: Lister
    streams: Streams
    faults: Faults
    audit: Audit
    restart: Callable[[float], None]

    async def answer(self, request: web.BaseRequest, path: str) -> web.StreamResponse:
        """Raises `ApiError`."""
        body = await _body(request)
        if path == "faults":
            return self._faults(request, body)
        if path in ("audit", "stats"):
            if request.method != "GET":
                raise method_not_allowed()
            return self._audit(request) if path == "audit" else _ok(self._stats())
        if request.method != "POST":
            raise method_not_allowed()
        return self._act(path, body)

    def _act(self, path: str, body: Any) -> web.Response:
        if path == "compact":
            self._forget()
        elif path == "drop-streams":
            self.streams.drop()
        elif path == "restart":
            self._restart({} if body is None else body)
        elif path.startswith("pods/"):
            return self._pod(path.split("/")[1:], body)
        else:
            raise unknown_path()
        return _ok({"resourceVersion": str(self.store.version)})

    def _faults(self, request: web.BaseRequest, body: Any) -> web.Response:
        if request.method == "PUT":
            self.faults.replace(body)
        elif request.method == "POST":
            return _ok({"ids": self.faults.add(body)})
        elif request.method == "DELETE":
            self.faults.remove(request.query.get("id", ""))
        elif request.method != "GET":
            raise method_not_allowed()
        return _ok(self.faults.to_json())

    def _audit(self, request: web.BaseRequest) -> web.Response:
        since, limit = integer(request.query, "since") or 0, integer(request.query, "limit") or CAPACITY
        return _ok(self.audit.since(since, limit))

    def _stats(self) -> Json:
        phases = Counter(record.obj["status"].get("phase", "") for record in self.store.unordered("pods"))
        return {
            "resourceVersion": str(self.store.version),
            "oldestResourceVersion": str(self.store.logs["pods"].oldest_version),
            "pods": dict(phases),
            "podsRunByNode": self.node.running,
            "podWatches": self.store.logs["pods"].watchers,
            "podEventsKept": len(self.store.logs["pods"]),
            "requests": self.audit.total,
        }

    def _restart(self, body: Any) -> None:
        """`forget` also empties the event window, as a new API server process without a warm watch cache may."""
        down_s = body.get("down_s", 0.0) if isinstance(body, dict) else None
        if not isinstance(down_s, (int, float)) or not 0 <= down_s <= _MAX_DOWN_S:
            raise bad_request("restart takes down_s, the seconds the server is away")
        if body.get("forget"):
            self._forget()
        self.restart(float(down_s))

    def _forget(self) -> None:
        self.store.compact()
        self.lister.forget()

    def _pod(self, parts: list[str], body: Any) -> web.Response:
        if len(parts) != 3 or parts[2] not in ("end", "vanish"):
            raise unknown_path()
        record = self.pods.get(parts[0], parts[1])
        if parts[2] == "vanish":
            return json_response(self.pods.vanish(record).json())
        self.node.end(record, Ending.of_json(body))
        latest = self.pods.latest(record)
        return json_response((latest or record).json())


async def _body(request: web.BaseRequest) -> Any:
    raw = await request.read() if request.body_exists else b""
    try:
        return json.loads(raw) if raw else None
    except (ValueError, RecursionError) as exc:
        raise bad_request(f"the body of the request is no JSON: {exc}") from exc


def _ok(value: Json) -> web.Response:
    return json_response(to_json(value))
