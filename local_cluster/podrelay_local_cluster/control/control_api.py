"""The paths below ``/local-cluster/``: faults, compaction, restarts, ends of pods, audit log, statistics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from podrelay_local_cluster.control.audit import CAPACITY, AuditLog
from podrelay_local_cluster.control.faults import Faults
from podrelay_local_cluster.control.forced_end import ForcedEnd
from podrelay_local_cluster.http.exchange import json_response, parse_body
from podrelay_local_cluster.http.query import integer
from podrelay_local_cluster.kubelet.node import LocalNode
from podrelay_local_cluster.kubelet.runtime import EXIT_CODE_MOST
from podrelay_local_cluster.objects import selectors
from podrelay_local_cluster.objects.decoding import decoded
from podrelay_local_cluster.objects.errors import bad_request, method_not_allowed, unknown_path
from podrelay_local_cluster.objects.json_text import Json, to_json
from podrelay_local_cluster.registry.pods import PodRegistry
from podrelay_local_cluster.storage.store import ObjectStore

_MAX_DOWN_S = 3600.0
_END_PODS = {"exit_code": int, "namespace": str, "label_selector": str}


@dataclass(frozen=True)
class ControlApi:
    """Serves the control paths. `restart` takes the seconds for which the server is to be unreachable."""

    store: ObjectStore
    pods: PodRegistry
    node: LocalNode
    faults: Faults
    audit: AuditLog
    drop_snapshots: Callable[[], None]
    end_watches: Callable[[], None]
    restart: Callable[[float], None]

    async def answer(self, request: web.BaseRequest, path: str) -> web.StreamResponse:
        """`path` is relative to ``/local-cluster/``. Raises `StatusError`."""
        body = parse_body(await request.read() if request.body_exists else b"")
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
            self._compact()
        elif path == "drop-streams":
            self.end_watches()
        elif path == "restart":
            self._restart({} if body is None else body)
        elif path == "end-pods":
            return self._end_pods({} if body is None else body)
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
        phases = Counter(record.obj["status"].get("phase", "") for record in self.store.iterate("pods"))
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
        """`forget` also empties the event window, like a new API server process whose watch cache is still cold."""
        down_s = body.get("down_s", 0.0) if isinstance(body, dict) else None
        if not isinstance(down_s, (int, float)) or not 0 <= down_s <= _MAX_DOWN_S:
            raise bad_request(f"restart needs down_s, a number of seconds from 0 to {_MAX_DOWN_S:g}")
        if body.get("forget"):
            self._compact()
        self.restart(float(down_s))

    def _compact(self) -> None:
        self.store.compact()
        self.drop_snapshots()

    def _end_pods(self, body: Any) -> web.Response:
        """All running pods of a namespace (of all, without one) that match a label selector end at the same time."""
        body = {name: value for name, value in decoded(body, _END_PODS).items() if value is not None}
        if unknown := sorted(set(body) - set(_END_PODS)):
            raise bad_request(f"unknown fields {unknown}; known fields: {sorted(_END_PODS)}")
        exit_code, namespace = body.get("exit_code", 0), body.get("namespace", "")
        if not 0 <= exit_code <= EXIT_CODE_MOST:
            raise bad_request(f"exit_code must be a number from 0 to {EXIT_CODE_MOST}")
        selector = selectors.parse("pods", body.get("label_selector", ""), "")
        ended = self.node.end_all(exit_code, lambda pod: namespace in ("", pod.namespace) and selector.matches(pod.obj))
        return _ok({"ended": ended})

    def _pod(self, parts: list[str], body: Any) -> web.Response:
        if len(parts) != 3 or parts[2] not in ("end", "vanish"):
            raise unknown_path()
        record = self.pods.get(parts[0], parts[1])
        if parts[2] == "vanish":
            return json_response(self.pods.vanish(record).json())
        self.node.force_end(record, ForcedEnd.from_json(body).status_of(record.obj))
        latest = self.pods.latest(record)
        return json_response((latest or record).json())


def _ok(value: Json) -> web.Response:
    return json_response(to_json(value))
