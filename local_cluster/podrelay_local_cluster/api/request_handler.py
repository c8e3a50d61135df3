"""The entry point of every request: authentication, faults, routing, audit log; used by `server`."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable

from aiohttp import web

from podrelay_local_cluster.api.core_api import ApiCall, CoreApi
from podrelay_local_cluster.control.audit import AuditLog
from podrelay_local_cluster.control.faults import FaultDecision, Faults
from podrelay_local_cluster.http import request_info
from podrelay_local_cluster.http.exchange import json_response, reset_connection, status_response
from podrelay_local_cluster.kubectl import discovery
from podrelay_local_cluster.objects import errors
from podrelay_local_cluster.objects.errors import StatusError
from podrelay_local_cluster.objects.json_text import to_json

CONTROL_PREFIX = "/local-cluster/"
HEALTH_PATHS = frozenset({"/healthz", "/livez", "/readyz"})
PUBLIC_PATHS = HEALTH_PATHS | {"/version"}
"""Need no token, as under the role `system:public-info-viewer`."""
ControlHandler = Callable[[web.BaseRequest, str], Awaitable[web.StreamResponse]]

MAX_BODY_BYTES = 3 * 1024 * 1024
"""The limit of a real API server."""

_HANG_CHECK_S = 0.1


class RequestHandler:
    """Handles every request of the server."""

    def __init__(self, core: CoreApi, control: ControlHandler, faults: Faults, audit: AuditLog, token: str) -> None:
        self._core = core
        self._control = control
        self._faults = faults
        self._audit = audit
        self._bearer = f"Bearer {token}".encode()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.path.rstrip("/") or "/"
        if path not in PUBLIC_PATHS and not self._is_authorized(request):
            return status_response(errors.unauthorized())
        try:
            if path.startswith(CONTROL_PREFIX):
                return await self._control(request, path[len(CONTROL_PREFIX) :])
            return await self._api(request, path)
        except StatusError as exc:
            return status_response(exc)
        except web.HTTPRequestEntityTooLarge:
            return status_response(errors.body_too_large(MAX_BODY_BYTES))
        except ConnectionError:
            return web.Response()  # the client has disconnected

    def _is_authorized(self, request: web.BaseRequest) -> bool:
        header = request.headers.get("Authorization", "").encode("utf-8", "replace")
        return hmac.compare_digest(header, self._bearer)

    async def _api(self, request: web.BaseRequest, path: str) -> web.StreamResponse:
        info = request_info.parse(request.method, path, request.query)
        if info is None:
            raise errors.unknown_path()
        raw = await request.read() if request.body_exists else b""
        call = ApiCall(request, info, raw)
        name = call.name
        decision = self._faults.decide(info, name)
        try:
            response = await self._answer_with_faults(call, name, decision)
        except StatusError as exc:
            response = status_response(exc)
        except asyncio.CancelledError:  # the client disconnected before the response
            if not info.is_stream:
                self._record(call, name, 0)
            raise
        finally:
            self._faults.leave(decision)
        if response is None:
            self._record(call, name, 0)
            return web.Response()
        if not info.is_stream or response.status != 200:
            self._record(call, name, response.status)
        return response

    async def _answer_with_faults(self, call: ApiCall, name: str, decision: FaultDecision) -> web.StreamResponse | None:
        """The response after all faults of the decision; None when a fault broke the connection instead."""
        if decision.latency_s:
            await asyncio.sleep(decision.latency_s)
        if decision.reset:
            reset_connection(call.request)
            return None
        if decision.hang:
            while self._faults.is_hanging(call.info, name):
                await asyncio.sleep(_HANG_CHECK_S)
            reset_connection(call.request)
            return None
        if decision.error is not None:
            raise decision.error
        if decision.gone and call.info.verb != "watch":
            raise errors.expired("injected by a fault rule")
        response = await self._answer(call, decision.gone)
        if decision.lost_response:
            reset_connection(call.request)
            return None
        return response

    async def _answer(self, call: ApiCall, gone: bool) -> web.StreamResponse:
        info = call.info
        if info.resource:
            if info.is_stream:
                self._record(call, info.name, 200)
            return await self._core.answer(call, gone)
        if info.path in HEALTH_PATHS:
            return web.Response(text="ok")
        document = discovery.DOCUMENTS.get(info.path)
        if document is None:
            raise errors.unknown_path()
        if info.verb != "get":
            raise errors.method_not_allowed()
        return json_response(to_json(document))

    def _record(self, call: ApiCall, name: str, status: int) -> None:
        agent, created = call.request.headers.get("User-Agent", ""), call.created
        if created is None:
            self._audit.add(call.info, name, status, agent)
        else:
            self._audit.add(call.info, created.name, status, agent, created.uid, created.labels)
