"""The front door: who may ask, which faults strike, who answers, and what the audit log keeps of it."""

from __future__ import annotations

import asyncio
import hmac
import socket
import struct
from collections.abc import Awaitable, Callable

from aiohttp import web

from podrelay_local_cluster.api import request_info
from podrelay_local_cluster.api.core_api import Call, CoreApi, json_response
from podrelay_local_cluster.control.audit import Audit
from podrelay_local_cluster.control.faults import Decision, Faults
from podrelay_local_cluster.kubectl import discovery
from podrelay_local_cluster.kubectl.kubeconfig import TOKEN_PREFIX
from podrelay_local_cluster.objects import errors
from podrelay_local_cluster.objects.errors import ApiError
from podrelay_local_cluster.storage.record import to_json

CONTROL_PREFIX = "/local-cluster/"
Control = Callable[[web.BaseRequest, str], Awaitable[web.StreamResponse]]

_HANG_CHECK_S = 0.1
_TOO_LARGE = ApiError(413, "RequestEntityTooLarge", "the body of the request is too large")


class HttpApi:
    """Handles every request of the server."""

    def __init__(self, core: CoreApi, control: Control, faults: Faults, audit: Audit, token: str) -> None:
        self._core = core
        self._control = control
        self._faults = faults
        self._audit = audit
        self._bearer = f"Bearer {token}".encode()
        self._prefix = f"{TOKEN_PREFIX}{token}/"

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.path
        authorized = path.startswith(self._prefix) or hmac.compare_digest(
            request.headers.get("Authorization", "").encode("utf-8", "replace"), self._bearer
        )
        if path.startswith(self._prefix):
            path = path[len(self._prefix) - 1 :]
        path = path.rstrip("/") or "/"
        if not authorized and path not in discovery.PUBLIC:
            return status_response(errors.unauthorized())
        try:
            if path.startswith(CONTROL_PREFIX):
                return await self._control(request, path[len(CONTROL_PREFIX) :])
            return await self._api(request, path)
        except ApiError as exc:
            return status_response(exc)
        except web.HTTPRequestEntityTooLarge:
            return status_response(_TOO_LARGE)
        except ConnectionError:
            return web.Response()  # nobody is there to read it

    async def _api(self, request: web.BaseRequest, path: str) -> web.StreamResponse:
        info = request_info.parse(request.method, path, request.query)
        if info is None:
            raise errors.unknown_path()
        raw = await request.read() if request.body_exists else b""
        call = Call(request, info, raw)
        name = call.name
        decision = self._faults.decide(info, name)
        try:
            response = await self._faulty(call, name, decision)
        except ApiError as exc:
            response = status_response(exc)
        except asyncio.CancelledError:  # the client has gone without waiting for the answer
            if info.verb not in ("watch", "log"):
                self._note(call, name, 0)
            raise
        if response is None:
            self._note(call, name, 0)
            return web.Response()
        if info.verb not in ("watch", "log") or response.status != 200:
            self._note(call, name, response.status)
        return response

    async def _faulty(self, call: Call, name: str, decision: Decision) -> web.StreamResponse | None:
        """The answer with its faults; None when the connection was broken instead."""
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

    async def _answer(self, call: Call, gone: bool) -> web.StreamResponse:
        info = call.info
        if info.resource:
            if info.verb in ("watch", "log"):
                self._note(call, info.name, 200)
            return await self._core.answer(call, gone)
        if info.path in discovery.HEALTH:
            return web.Response(text="ok")
        document = discovery.DOCUMENTS.get(info.path)
        if document is None:
            raise errors.unknown_path()
        if info.verb != "get":
            raise errors.method_not_allowed()
        return json_response(to_json(document))

    def _note(self, call: Call, name: str, status: int) -> None:
        agent, created = call.request.headers.get("User-Agent", ""), call.created
        if created is None:
            self._audit.add(call.info, name, status, agent)
        else:
            self._audit.add(call.info, created.name, status, agent, created.uid, created.labels)


def status_response(error: ApiError) -> web.Response:
    """The failure as the API reports it, with Retry-After where a client shall wait."""
    headers = {} if error.retry_after_s is None else {"Retry-After": str(error.retry_after_s)}
    if error.code == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return json_response(to_json(error.status()), error.code, headers)


def reset_connection(request: web.BaseRequest) -> None:
    """End the TCP connection with RST, so that the client sees a reset rather than an orderly end."""
    transport = request.transport
    if transport is None:
        return
    sock = transport.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
