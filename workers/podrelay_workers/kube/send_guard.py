"""A check at the moment a request is sent: its sender may have lost the right to send it while it waited.

It may wait for a free connection, for a new one, or for the event loop; meanwhile the process may be suspended for minutes.
Set by `launcher.pod_creation`, applied by `connection_pool`, and by the connector and the bodies here for what aiohttp sends.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import aiohttp
from aiohttp.payload import BytesPayload


class SendBlocked(Exception):  # noqa: N818 - not an error
    """The request was stopped just before it was sent: a pause or the shutdown began, or the lease may have ended."""


# Called in the task that sends; it raises to stop the request.
before_send: ContextVar[Callable[[], None] | None] = ContextVar("before_send", default=None)


class GuardedConnector(aiohttp.TCPConnector):
    """Checks when a connection is ready and nothing was sent yet; a stopped request leaves the connection usable."""

    async def connect(self, *args: Any, **kwargs: Any) -> Any:
        connection = await super().connect(*args, **kwargs)
        try:
            check_send()
        except BaseException:
            connection.release()
            raise
        return connection


class GuardedBody(BytesPayload):
    """Checks again when the body is written, possibly later. Stopping the request then breaks the connection."""

    async def write(self, writer: Any) -> None:
        check_send()
        await super().write(writer)

    async def write_with_length(self, writer: Any, content_length: int | None) -> None:
        check_send()
        await super().write_with_length(writer, content_length)


def guarded_body(data: bytes) -> bytes | GuardedBody:
    """The body for a request of this task, guarded if the task has set `before_send`."""
    return data if before_send.get() is None else GuardedBody(data)


def check_send() -> None:
    """:raises SendBlocked: the request of this task must not be sent any more."""
    check = before_send.get()
    if check is not None:
        check()
