"""A way to a server that takes time in one direction: a Redis that answers late."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable

from tests.harness.redis_server import free_port


class SlowLink:
    """Passes everything on, what comes back `delay_s` later. Served by a thread; a context manager.

    `round_trips` counts how often somebody wrote after an answer: what is written without waiting for one is one trip.
    """

    def __init__(self, to_port: int, delay_s: float) -> None:
        self.port = free_port()
        self._to_port = to_port
        self._delay_s = delay_s
        self.round_trips = 0
        self._loop = asyncio.new_event_loop()

    def __enter__(self) -> SlowLink:
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        starting = asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self._server = asyncio.run_coroutine_threadsafe(starting, self._loop).result(10)
        return self

    def __exit__(self, *exc: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _end(self) -> None:
        self._server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.01)  # an aborted transport closes its socket in the next round of the loop

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_reader, to_writer = await asyncio.open_connection("127.0.0.1", self._to_port)
        answered = True

        def ask(data: bytes) -> None:
            nonlocal answered
            self.round_trips += answered
            answered = False
            to_writer.write(data)

        def answer(data: bytes) -> None:
            nonlocal answered
            answered = True
            writer.write(data)

        ways = [
            asyncio.create_task(self._pump(reader, ask, 0.0)),
            asyncio.create_task(self._pump(to_reader, answer, self._delay_s)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:  # also when the link ends
            for way in ways:
                way.cancel()
            for end in (writer, to_writer):
                end.transport.abort()

    @staticmethod
    async def _pump(source: asyncio.StreamReader, sink: Callable[[bytes], None], delay_s: float) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):
            while data := await source.read(1 << 20):
                if delay_s:
                    loop.call_later(delay_s, sink, data)
                else:
                    sink(data)
