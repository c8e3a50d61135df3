"""A last look at the moment a request leaves: whoever asked for it may have lost the right to it while it waited.

Waiting for a free connection, or for a new one to be made, is the time in which a process may be stopped for minutes.
Used by the launcher, through the connections of `api_access`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import aiohttp

# What is asked in the task that sends; it raises to keep the request back.
last_look: ContextVar[Callable[[], None] | None] = ContextVar("last_look", default=None)


class LookingConnector(aiohttp.TCPConnector):
    """Connections that ask once more, when there is one and nothing was sent on it yet."""

    async def connect(self, *args: Any, **kwargs: Any) -> Any:
        connection = await super().connect(*args, **kwargs)
        look = last_look.get()
        if look is not None:
            try:
                look()
            except BaseException:
                connection.release()
                raise
        return connection
