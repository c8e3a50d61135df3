"""A way to a server that takes time in one direction: a Redis or an API server that answers late.

`SlowLink` serves it in a thread; `slow_process` in a separate process, for traffic that would cost its caller time.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

_ROOT = Path(__file__).resolve().parents[2]
_START_LIMIT_S = 30.0


class _End(asyncio.Protocol):
    """One end of a connection. What it reads, and that it was closed, reaches the other end `delay_s` later, in order."""

    def __init__(self, link: Link, delay_s: float) -> None:
        self._link = link
        self._delay_s = delay_s
        self._waiting: deque[tuple[float, bytes | None]] = deque()
        self.transport: asyncio.Transport | None = None
        self.other: _End | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._link.transports.add(self.transport)

    def data_received(self, data: bytes) -> None:
        self._pass_on(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.transport is not None:
            self._link.transports.discard(self.transport)
        self._pass_on(None)

    def _pass_on(self, data: bytes | None) -> None:
        if not self._delay_s:
            self._deliver(data)
            return
        loop = asyncio.get_running_loop()
        due_s = loop.time() + self._delay_s
        self._waiting.append((due_s, data))
        if len(self._waiting) == 1:
            loop.call_at(due_s, self._deliver_due)

    def _deliver_due(self) -> None:
        loop = asyncio.get_running_loop()
        self._deliver(self._waiting.popleft()[1])
        while self._waiting and self._waiting[0][0] <= loop.time():
            self._deliver(self._waiting.popleft()[1])
        if self._waiting:
            loop.call_at(self._waiting[0][0], self._deliver_due)

    def _deliver(self, data: bytes | None) -> None:
        if self.other is None or self.other.transport is None:
            return
        if data is None:
            self.other.transport.close()
        elif not self.other.transport.is_closing():
            self.other.transport.write(data)


class _Client(_End):
    """The end of whoever uses the link. What it sends before the server is reached waits here."""

    answered = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._early: list[bytes | None] = []
        task = asyncio.get_running_loop().create_task(self._reach_server())
        self._link.tasks.add(task)
        task.add_done_callback(self._link.tasks.discard)

    async def _reach_server(self) -> None:
        assert self.transport is not None
        server = _Server(self._link, self._link.delay_s)
        server.other = self
        try:
            await asyncio.get_running_loop().create_connection(lambda: server, *self._link.address)
        except OSError:
            self.transport.abort()
            return
        self.other = server
        for data in self._early:
            self._deliver(data)

    def data_received(self, data: bytes) -> None:
        self._link.round_trips += self.answered
        self.answered = False
        super().data_received(data)

    def _deliver(self, data: bytes | None) -> None:
        if self.other is None:
            self._early.append(data)
        else:
            super()._deliver(data)


class _Server(_End):
    """The end of the server, which answers late."""

    def _deliver(self, data: bytes | None) -> None:
        cast("_Client", self.other).answered = True
        super()._deliver(data)


class Link:
    """A server on a free port of loopback that passes everything on, what comes back `delay_s` later.

    `round_trips` counts how often somebody wrote after an answer: what is written without waiting for one is one trip.
    """

    def __init__(self, to_port: int, delay_s: float, to_host: str = "127.0.0.1") -> None:
        self.address = (to_host, to_port)
        self.delay_s = delay_s
        self.round_trips = 0
        self.transports: set[asyncio.Transport] = set()
        self.tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> int:
        """The port."""
        self._server = await asyncio.get_running_loop().create_server(lambda: _Client(self, 0.0), "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def end(self) -> None:
        self._server.close()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        for transport in self.transports:
            transport.abort()
        await asyncio.sleep(0.01)  # an aborted transport closes its socket in the next round of the loop


class SlowLink:
    """A link served by a thread; a context manager. `port` is known inside it."""

    def __init__(self, to_port: int, delay_s: float, to_host: str = "127.0.0.1") -> None:
        self._link = Link(to_port, delay_s, to_host)
        self._loop = asyncio.new_event_loop()
        self.port = 0

    @property
    def round_trips(self) -> int:
        return self._link.round_trips

    def __enter__(self) -> SlowLink:
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.port = asyncio.run_coroutine_threadsafe(self._link.start(), self._loop).result(10)
        return self

    def __exit__(self, *exc: object) -> None:
        asyncio.run_coroutine_threadsafe(self._link.end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


class SlowProcess(NamedTuple):
    port: int
    pid: int


@contextmanager
def slow_process(to_port: int, delay_s: float, to_host: str = "127.0.0.1") -> Iterator[SlowProcess]:
    """A link served by a process, which ends with this one.

    :raises RuntimeError: it did not start; its own errors are on stderr.
    """
    words = ["--to-host", to_host, "--to-port", str(to_port), "--delay-s", str(delay_s)]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks.slow_link", *words],
        cwd=_ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        port = process.stdout.readline()
        if not port:
            raise RuntimeError("the slow link did not start")
        yield SlowProcess(int(port), process.pid)
    finally:
        process.stdin.close()
        process.wait(_START_LIMIT_S)
        process.stdout.close()


async def _serve(link: Link) -> None:
    """Until standard input is closed: by the parent, or by its death."""
    print(await link.start(), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await link.end()


def _run(serving: Coroutine[Any, Any, None]) -> None:
    """With uvloop where it is installed, which halves what the link takes from the cores that it shares."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(serving)
    else:
        uvloop.run(serving)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to-host", required=True)
    parser.add_argument("--to-port", type=int, required=True)
    parser.add_argument("--delay-s", type=float, required=True)
    options = parser.parse_args()
    _run(_serve(Link(options.to_port, options.delay_s, options.to_host)))
