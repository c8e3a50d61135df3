"""A last look at the moment a request leaves: whoever asked for it may have lost the right to it while it waited.

Waiting for a free connection, for a new one to be made, or for the event loop's next turn is the time in which a process
may be stopped for minutes. Used by the launcher, through the connections of `api_access` and the bodies of `pods_api`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import aiohttp
from aiohttp.payload import BytesPayload

# What is asked in the task that sends; it raises to keep the request back.
last_look: ContextVar[Callable[[], None] | None] = ContextVar("last_look", default=None)


class GuardedConnector(aiohttp.TCPConnector):
    """Connections that ask when there is one and nothing was sent on it yet: it stays usable."""

    async def connect(self, *args: Any, **kwargs: Any) -> Any:
        connection = await super().connect(*args, **kwargs)
        try:
            _look()
        except BaseException:
            connection.release()
            raise
        return connection


class GuardedBody(BytesPayload):
    """A body that asks again when it is written, which may be a turn of the loop later. A refusal breaks the connection."""

    async def write(self, writer: Any) -> None:
        _look()
        await super().write(writer)

    async def write_with_length(self, writer: Any, content_length: int | None) -> None:
        _look()
        await super().write_with_length(writer, content_length)


def body_of(data: bytes) -> bytes | GuardedBody:
    return data if last_look.get() is None else GuardedBody(data)


def _look() -> None:
    look = last_look.get()
    if look is not None:
        look()
