"""Reads a stream in few and large pieces: what arrives shortly after one piece waits for the next. Used by `client`.

The events of a busy cluster come one by one, thousands a second, each in a TLS record of its own. To be woken for each one
costs a watcher more than to process it.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import aiohttp

# More than this arrives in a pause only in a burst, which is read without pauses.
BURST_BYTES = 65536


class PacedReader:
    """The body of one answer. While nothing is read, what arrives waits in the kernel and wakes nobody."""

    def __init__(self, answer: aiohttp.ClientResponse, pause_s: float) -> None:
        """:param pause_s: after a silence, the first piece is read at once, and the next one this much later, with all that
        has arrived meanwhile; 0 for no pauses.
        """
        self._answer = answer
        self._pause_s = pause_s
        self._next_s = 0.0

    async def read(self) -> bytes:
        """What has arrived, or the first of what arrives next; empty at the end of the body.

        :raises aiohttp.ClientError: or OSError: the connection failed, or was silent for too long.
        """
        if self._next_s:
            await asyncio.sleep(self._next_s - time.monotonic())
            self._next_s = 0.0
            self._resume()
        try:
            piece = await self._answer.content.readany()
        except RuntimeError as error:  # aiohttp's, where this side closed the connection in a pause
            raise aiohttp.ClientConnectionError(str(error)) from error
        if self._pause_s and len(piece) < BURST_BYTES and self._pause():
            self._next_s = time.monotonic() + self._pause_s
        return piece

    def _pause(self) -> bool:
        transport = self._transport
        if transport is None:
            return False
        transport.pause_reading()
        if hasattr(transport, "set_read_buffer_limits"):  # TLS since Python 3.11: it would go on to read, undecrypted
            transport.set_read_buffer_limits(1, 0)
        return True

    def _resume(self) -> None:
        transport = self._transport
        if transport is None:
            return
        if hasattr(transport, "set_read_buffer_limits"):
            transport.set_read_buffer_limits()
        transport.resume_reading()

    @property
    def _transport(self) -> Any:
        """None once the body has arrived, or the connection is closed."""
        connection = self._answer.connection
        transport = connection.transport if connection is not None else None
        return transport if transport is not None and not transport.is_closing() else None
