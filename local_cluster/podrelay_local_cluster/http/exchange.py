"""Bodies of requests, responses, and broken connections; used by the API of objects and by the control API."""

from __future__ import annotations

import json
import math
import socket
import struct
from typing import Any

from aiohttp import web

from podrelay_local_cluster.objects.errors import StatusError, bad_request
from podrelay_local_cluster.objects.json_text import to_json

_MAX_DEPTH = 100
"""Deeper than any object of the API; some code below here recurses."""


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
    if not raw:
        return None
    try:
        value = json.loads(raw.decode("utf-8"), parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError) as exc:
        raise bad_request(f"the body of the request is no JSON: {exc}") from exc
    # Only a body with as many brackets can be as deep, and only one with \\u can hold half of a surrogate pair.
    if raw.count(b"[") + raw.count(b"{") > _MAX_DEPTH and _is_deeper(value, _MAX_DEPTH):
        raise bad_request("the body of the request is nested too deeply")
    return _with_whole_characters(value) if b"\\u" in raw else value


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is out of range")
    return number


def _is_deeper(value: Any, most: int) -> bool:
    level = [value]
    for _ in range(most):
        level = [
            item
            for parent in level
            if isinstance(parent, (dict, list))
            for item in (parent.values() if isinstance(parent, dict) else parent)
        ]
        if not level:
            return False
    return True


def _with_whole_characters(value: Any) -> Any:
    """With U+FFFD for each half of a surrogate pair, as a server decodes it whose texts are UTF-8."""
    text = json.dumps(value, ensure_ascii=False)
    return json.loads(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
