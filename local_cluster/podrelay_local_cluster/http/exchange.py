"""Bodies of requests, responses, and broken connections; used by the API of objects and by the control API."""

from __future__ import annotations

import json
import socket
import struct
from typing import Any

from aiohttp import web

from podrelay_local_cluster.objects.errors import StatusError, bad_request
from podrelay_local_cluster.objects.json_text import to_json


def json_response(body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(body=body, status=status, headers={"Content-Type": "application/json", **(headers or {})})


def status_response(error: StatusError) -> web.Response:
    """The failure as its `Status` object, with Retry-After where the client must wait."""
    headers = {} if error.retry_after_s is None else {"Retry-After": str(error.retry_after_s)}
    if error.code == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return json_response(to_json(error.status()), error.code, headers)


def reset_connection(request: web.BaseRequest) -> None:
    """End the TCP connection with RST, so that the client sees a reset instead of an orderly end."""
    transport = request.transport
    if transport is None:
        return
    sock = transport.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def parse_body(raw: bytes) -> Any:
    """The JSON value of a request's body; None for an empty body. Raises `StatusError` 400."""
    try:
        return json.loads(raw) if raw else None
    except (ValueError, RecursionError) as exc:
        raise bad_request(f"the body of the request is no JSON: {exc}") from exc
