"""Cuttable TCP links: each process of the deployment reaches Redis and the API server through its own links.

A link that is cut behaves as a network partition does: connections stay open, new ones get no answer, and what was sent
arrives when the link is whole again.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable

from tests.harness.redis_server import free_port


class Link:
    """One way to one server."""

    def __init__(self, to_port: int) -> None:
        self.port = free_port()
        self.to_port = to_port
        self.whole = asyncio.Event()
        self.whole.set()
        self._ends: set[asyncio.StreamWriter] = set()

    def reset(self) -> None:
        """Reset all connections, with what is under way on them."""
        for end in self._ends:
            end.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks: list[asyncio.Task[None]] = []
        try:
            await self.whole.wait()
            to_reader, to_writer = await asyncio.open_connection("127.0.0.1", self.to_port)
        except OSError:
            writer.transport.abort()
            return
        self._ends |= {writer, to_writer}
        try:
            tasks = [
                asyncio.create_task(self._pump(reader, to_writer)),
                asyncio.create_task(self._pump(to_reader, writer)),
            ]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            self._ends -= {writer, to_writer}
            for end in (writer, to_writer):
                end.transport.abort()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(1 << 16):
                await self.whole.wait()
                sink.write(data)
                await sink.drain()


class Links:
    """All links, served by one thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="links", daemon=True).start()

    def open(self, to_port: int, make: Callable[[int], Link] = Link) -> Link:
        return asyncio.run_coroutine_threadsafe(self._open(make(to_port)), self._loop).result(10)

    def cut(self, link: Link) -> None:
        self._loop.call_soon_threadsafe(link.whole.clear)

    def mend(self, link: Link) -> None:
        self._loop.call_soon_threadsafe(link.whole.set)

    def reset(self, link: Link) -> None:
        """As a firewall does that lost its state: of what was sent, some has arrived, and nobody knows how much."""
        self._loop.call_soon_threadsafe(link.reset)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)

    @staticmethod
    async def _open(link: Link) -> Link:
        await asyncio.start_server(link.serve, "127.0.0.1", link.port)
        return link
