"""HTTP/1.1 for short requests over kept connections, at a third of aiohttp's CPU. Used by `connection`.

One request at a time per connection, and the whole answer in memory, up to `ANSWER_MAX`. There is no redirect, no cookie, no
compression and no proxy: requests of single objects need none. The server is not trusted: an answer that breaks the
protocol, or is too long, ends its connection, and no byte behind an answer is taken for the next one.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import urlsplit

from podrelay_workers.kube.http_answer import Answer, AnswerReader, BadAnswer
from podrelay_workers.kube.send_guard import check_send

# An unused connection is closed after this time; servers and load balancers keep one for a minute or longer.
KEEP_S = 30.0
# Sent again if a kept connection breaks before the answer begins, as RFC 9110 allows: mostly the server had just closed it.
_IDEMPOTENT = frozenset({"GET", "DELETE"})
# Would end a header, or the head, in its middle.
_UNSENDABLE = re.compile(r"[\x00\r\n]")
_FIELD_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class Disconnected(OSError):
    """The connection cannot be made, or it broke before the answer was complete."""


class ReadTimeout(OSError):
    """No byte arrived for `read_s`."""


class Limits(NamedTuple):
    """Seconds: for the whole request, for a new connection, and of silence (None: as long as the request may take)."""

    request_s: float
    connect_s: float
    read_s: float | None = None


def encode_headers(headers: Iterable[tuple[str, str]]) -> bytes:
    """The lines of these headers.

    :raises ValueError: one holds a line break; its value is not shown.
    """
    lines = []
    for name, value in headers:
        if _UNSENDABLE.search(value) or not _FIELD_NAME.fullmatch(name):
            raise ValueError(f"header {name!r} cannot be sent: it holds a line break, or its name is none")
        lines.append(f"{name}: {value}\r\n")
    return "".join(lines).encode()


class ConnectionPool:
    """Connections to one server, opened when a request finds none free. Create and close it inside the event loop."""

    def __init__(
        self,
        url: str,
        tls: ssl.SSLContext | None,
        *,
        limit: int,
        server_name: str | None = None,
        socket_options: Iterable[tuple[int, int, int]] = (),
    ) -> None:
        """:param url: scheme, host and port, and the path that comes before that of each request.
        :param limit: connections at once; further requests wait for one.
        :param server_name: the name that the certificate is checked against, if not the host.
        """
        parts = urlsplit(url)
        self._tls = tls if parts.scheme == "https" else None
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if self._tls else 80)
        self._server_name = (server_name or self._host) if self._tls else None
        self._socket_options = tuple(socket_options)
        self._prefix = parts.path.rstrip("/")
        self._host_line = f"Host: {parts.netloc}\r\n".encode()
        self._limit = limit
        self._open: set[_Connection] = set()
        self._opening = 0
        # Free connections, the one that was used last at the end, each with the time when it became free.
        self._free: list[tuple[_Connection, float]] = []
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._closer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._closed = False

    async def request(self, method: str, target: str, headers: bytes, body: bytes | None, limits: Limits) -> Answer:
        """Send one request and read its answer.

        :param target: path and query, encoded.
        :param headers: their lines, from `encode_headers`.
        :raises SendBlocked: the check of `send_guard` stopped it; nothing was sent, and the connection stays usable.
        :raises TimeoutError: `request_s` has passed, or `connect_s` for a new connection.
        :raises OSError: no complete answer; whether the request had an effect is unknown, unless no connection was made.
        """
        end_s = self._loop.time() + limits.request_s
        length = b"" if body is None else b"Content-Length: %d\r\n" % len(body)
        line = f"{method} {self._prefix}{target} HTTP/1.1\r\n".encode("ascii")
        data = b"".join((line, self._host_line, headers, length, b"\r\n", body or b""))
        while True:
            connection = self._pop_free() or await self._connect(end_s, limits.connect_s)
            reused = connection.answers > 0
            try:
                check_send()
                return await connection.exchange(data, end_s, limits.read_s)
            except Disconnected:
                if not reused or connection.began or method not in _IDEMPOTENT:
                    raise
            finally:
                self._release(connection)

    async def close(self) -> None:
        """Break the requests in progress, and close all connections."""
        self._closed = True
        if self._closer is not None:
            self._closer.cancel()
        for connection in list(self._open):
            connection.abort()
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_exception(Disconnected("the connections were closed"))
        await asyncio.sleep(0)  # the transports close in the next turn of the loop

    # --- free connections ---------------------------------------------------------------------------------------------
    def _pop_free(self) -> _Connection | None:
        while self._free:
            connection, since_s = self._free.pop()
            if connection.usable and self._loop.time() - since_s < KEEP_S:
                return connection
            self._discard(connection)
        return None

    def _release(self, connection: _Connection) -> None:
        if connection.usable and not self._closed:
            self._free.append((connection, self._loop.time()))
            if self._closer is None:
                self._closer = self._loop.call_later(KEEP_S, self._close_unused)
        else:
            self._discard(connection)
        self._wake_one()

    def _wake_one(self) -> None:
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.done():
                waiting.set_result(None)
                return

    def _discard(self, connection: _Connection) -> None:
        self._open.discard(connection)
        connection.abort()

    def _close_unused(self) -> None:
        """Close what was not used for `KEEP_S`, and what the server has closed; look again while any is free."""
        self._closer = None
        now_s = self._loop.time()
        kept, self._free = self._free, []
        for connection, since_s in kept:
            if connection.usable and now_s - since_s < KEEP_S:
                self._free.append((connection, since_s))
            else:
                self._discard(connection)
        if self._free:
            self._closer = self._loop.call_at(self._free[0][1] + KEEP_S, self._close_unused)

    # --- new connections ----------------------------------------------------------------------------------------------
    async def _connect(self, end_s: float, connect_s: float) -> _Connection:
        while len(self._open) + self._opening >= self._limit:
            await self._wait_for_release(end_s)
            if free := self._pop_free():
                return free
        self._opening += 1
        try:
            connection = await asyncio.wait_for(self._opened(), min(connect_s, end_s - self._loop.time()))
        except BaseException:
            self._wake_one()
            raise
        finally:
            self._opening -= 1
        if self._closed:
            connection.abort()
            raise Disconnected("the connections were closed")
        self._open.add(connection)
        return connection

    async def _wait_for_release(self, end_s: float) -> None:
        waiting = self._loop.create_future()
        self._waiting.append(waiting)
        try:
            await asyncio.wait_for(waiting, end_s - self._loop.time())
        except BaseException:
            if waiting.done() and not waiting.cancelled():  # woken at the same moment
                self._wake_one()
            raise

    async def _opened(self) -> _Connection:
        """:raises ssl.SSLCertVerificationError: the server's certificate is not trusted."""
        try:
            transport, connection = await self._loop.create_connection(
                _Connection, self._host, self._port, ssl=self._tls, server_hostname=self._server_name,
                happy_eyeballs_delay=0.25,
            )  # fmt: skip
        except ssl.SSLCertVerificationError:
            raise
        except OSError as error:
            raise Disconnected(f"cannot connect to {self._host}:{self._port}: {error}") from error
        for level, option, value in self._socket_options:
            transport.get_extra_info("socket").setsockopt(level, option, value)
        return connection


class _Connection(asyncio.Protocol):
    """One connection: `exchange` sends a request and returns its answer, then it is `usable` again, or not."""

    def __init__(self) -> None:
        self.usable = True
        # Has the answer to the last request begun? How many are complete?
        self.began = False
        self.answers = 0
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._answer: asyncio.Future[Answer] | None = None
        self._reader = AnswerReader()
        self._read_s: float | None = None
        self._silence: asyncio.TimerHandle | None = None

    async def exchange(self, data: bytes, end_s: float, read_s: float | None) -> Answer:
        if not self.usable or self._transport is None:
            raise Disconnected("the server closed the connection")
        self.began, self._reader, self._read_s = False, AnswerReader(), read_s
        answer = self._answer = self._loop.create_future()
        end = self._loop.call_at(end_s, self._fail, asyncio.TimeoutError())
        try:
            self._transport.write(data)
            self._watch_silence()
            return await answer
        except BaseException:
            self.abort()  # the rest of the answer must not be taken for the next one
            raise
        finally:
            self._answer = None
            end.cancel()
            if self._silence is not None:
                self._silence.cancel()

    def abort(self) -> None:
        self.usable = False
        if self._transport is not None:
            self._transport.abort()
        self._fail(Disconnected("the connection was closed"))

    def _fail(self, error: Exception) -> None:
        self.usable = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)

    def _watch_silence(self) -> None:
        if self._read_s is None:
            return
        if self._silence is not None:
            self._silence.cancel()
        self._silence = self._loop.call_later(self._read_s, self._fail, ReadTimeout("no data from the server"))

    # --- called by the event loop -------------------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._answer is None or self._answer.done():
            self.abort()  # nothing was asked
            return
        self.began = True
        self._watch_silence()
        try:
            answer = self._reader.feed(data)
        except BadAnswer as error:
            self._fail(error)
            return
        if answer is not None:
            self._complete(answer)

    def eof_received(self) -> None:
        answer = self._reader.feed_end()
        if answer is not None and self._answer is not None and not self._answer.done():
            self._complete(answer)
        self._fail(Disconnected("the server closed the connection"))

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(Disconnected(str(error) if error else "the server closed the connection"))

    def _complete(self, answer: Answer) -> None:
        self.usable = self.usable and self._reader.keeps
        self.answers += 1
        assert self._answer is not None
        self._answer.set_result(answer)
