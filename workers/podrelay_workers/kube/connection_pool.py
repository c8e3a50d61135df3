"""HTTP/1.1 for short requests over kept connections, at a quarter of aiohttp's CPU. Used by `connection`.

One request at a time per connection, and the whole answer in memory, up to `ANSWER_MAX`. There is no redirect, no cookie, no
compression and no proxy: requests of single objects need none. The server is not trusted: an answer that breaks the
protocol, or is too long, ends its connection, and no byte behind an answer is taken for the next one.
"""

from __future__ import annotations

import asyncio
import math
import re
import socket
import ssl
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import urlsplit

from podrelay_workers.kube.http_answer import Answer, AnswerReader, BadAnswer
from podrelay_workers.kube.send_guard import check_send
from podrelay_workers.kube.socket_stream import Address, SocketStream, connect

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
        if parts.scheme == "https" and tls is None:
            raise ValueError("https needs a TLS context")
        tls = tls if parts.scheme == "https" else None
        host, port = parts.hostname or "", parts.port or (443 if tls else 80)
        self._address = Address(host, port, tls, (server_name or host) if tls else None, tuple(socket_options))
        self._prefix = parts.path.rstrip("/")
        self._host_line = f"Host: {parts.netloc}\r\n".encode()
        self._limit = limit
        self._open: set[_Connection] = set()
        self._opening = 0
        # Free connections, the one that was used last at the end.
        self._free: list[_Connection] = []
        self._waiting: deque[asyncio.Future[None]] = deque()
        # One timer for all connections: the first of them is due then, or was when the timer was set.
        self._timer: asyncio.TimerHandle | None = None
        self._timer_s = math.inf
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
                answer = connection.send(data, end_s, limits.read_s)
                self._watch(connection.due_s)
                return await answer
            except Disconnected:
                if not reused or connection.began or method not in _IDEMPOTENT:
                    raise
            finally:
                self._release(connection)

    async def close(self) -> None:
        """Break the requests in progress, and close all connections."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for connection in list(self._open):
            connection.close()
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_exception(Disconnected("the connections were closed"))
        await asyncio.sleep(0)  # the requests end in the next turn of the loop

    # --- free connections ---------------------------------------------------------------------------------------------
    def _pop_free(self) -> _Connection | None:
        while self._free:
            connection = self._free.pop()
            if self._loop.time() < connection.due_s and connection.look():
                return connection
            self._discard(connection)
        return None

    def _release(self, connection: _Connection) -> None:
        connection.finish(self._loop.time() + KEEP_S)
        if connection.usable and not self._closed:
            self._free.append(connection)
            self._watch(connection.due_s)
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
        connection.close()

    # --- limits of time -----------------------------------------------------------------------------------------------
    def _watch(self, due_s: float) -> None:
        """Look for what is due at this time at the latest."""
        if due_s < self._timer_s:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_s = due_s
            self._timer = self._loop.call_at(due_s, self._end_what_is_due)

    def _end_what_is_due(self) -> None:
        """End requests that take too long, and close what was not used for `KEEP_S`; look again when the next is due."""
        self._timer, self._timer_s = None, math.inf
        now_s = self._loop.time()
        for connection in [connection for connection in self._open if connection.due_s <= now_s]:
            if connection.is_busy:
                connection.time_out()
            else:
                self._free.remove(connection)
                self._discard(connection)
        self._watch(min((connection.due_s for connection in self._open), default=math.inf))

    # --- new connections ----------------------------------------------------------------------------------------------
    async def _connect(self, end_s: float, connect_s: float) -> _Connection:
        while len(self._open) + self._opening >= self._limit:
            await self._wait_for_release(end_s)
            if free := self._pop_free():
                return free
        self._opening += 1
        try:
            new = await asyncio.wait_for(self._opened(), min(connect_s, end_s - self._loop.time()))
        except BaseException:
            self._wake_one()
            raise
        finally:
            self._opening -= 1
        if self._closed:
            new.close()
            raise Disconnected("the connections were closed")
        connection = _Connection(new)
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

    async def _opened(self) -> socket.socket:
        """:raises ssl.SSLCertVerificationError: the server's certificate is not trusted."""
        try:
            return await connect(self._address)
        except ssl.SSLCertVerificationError:
            raise
        except (OSError, UnicodeError) as error:  # a label of the host is empty, or too long
            raise Disconnected(f"cannot connect to {self._address.host}:{self._address.port}: {error}") from error


class _Connection:
    """One connection: `send` sends a request, then comes its answer, and after `finish` it is `usable` again, or not."""

    def __init__(self, connection: socket.socket) -> None:
        self.usable = True
        # Has the answer to the last request begun? How many are complete?
        self.began = False
        self.answers = 0
        # When the request has taken too long, or, of a free connection, when it is closed.
        self.due_s = math.inf
        self._loop = asyncio.get_running_loop()
        self._stream = SocketStream(connection, self._received, self._ended)
        self._reader = AnswerReader()
        self._answer: asyncio.Future[Answer] | None = None
        self._end_s = math.inf
        self._read_s: float | None = None

    @property
    def is_busy(self) -> bool:
        return self._answer is not None

    def look(self) -> bool:
        """Is it still usable? Its end may have arrived, or bytes that must not be taken for the next answer."""
        if self.usable:
            self._stream.look()
        return self.usable

    def send(self, data: bytes, end_s: float, read_s: float | None) -> asyncio.Future[Answer]:
        """Its answer. It fails with `TimeoutError` or `OSError`, and is given up by `finish`."""
        self.began, self._end_s, self._read_s = False, end_s, read_s
        self._limit_silence()
        self._reader.begin()
        answer = self._answer = self._loop.create_future()
        self._stream.send(data)
        return answer

    def finish(self, due_s: float) -> None:
        """The answer has arrived, or nobody waits for it any more: then the rest must not be taken for the next one.

        :param due_s: the connection is kept until then.
        """
        if self._answer is not None and (self._answer.cancelled() or not self._answer.done()):
            self.usable = False
        self._answer = None
        self.due_s = due_s

    def time_out(self) -> None:
        late = self._loop.time() >= self._end_s
        self._fail(asyncio.TimeoutError() if late else ReadTimeout("no data from the server"))

    def close(self) -> None:
        self._stream.close()
        self._fail(Disconnected("the connection was closed"))

    def _fail(self, error: Exception) -> None:
        self.usable = False
        self.due_s = math.inf
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)

    def _limit_silence(self) -> None:
        self.due_s = self._end_s if self._read_s is None else min(self._end_s, self._loop.time() + self._read_s)

    # --- called by the stream -----------------------------------------------------------------------------------------
    def _received(self, data: bytes) -> None:
        if self._answer is None or self._answer.done():
            self.close()  # nothing was asked
            return
        self.began = True
        try:
            answer = self._reader.feed(data)
        except BadAnswer as error:
            self._fail(error)
            return
        if answer is None:
            self._limit_silence()
        else:
            self._complete(answer)

    def _ended(self, error: OSError | None) -> None:
        answer = self._reader.feed_end() if error is None else None
        if answer is not None and self._answer is not None and not self._answer.done():
            self._complete(answer)
        self._fail(Disconnected(str(error) if error else "the server closed the connection"))

    def _complete(self, answer: Answer) -> None:
        # What is not sent yet would come before the next request.
        self.usable = self.usable and self._reader.keeps and self._stream.has_sent_all
        self.answers += 1
        assert self._answer is not None
        self._answer.set_result(answer)
