"""Bytes over one TCP connection, with TLS or without. Used by `connection_pool`.

OpenSSL reads and writes the socket itself: asyncio's TLS, written in Python with buffers in between, takes more CPU.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import NamedTuple

from aiohappyeyeballs import AddrInfoType, start_connection

# A TLS record holds 16 kB; a plain socket gives what has arrived.
_READ_MAX = 1 << 16
# The next address of the host is tried beside one that has not answered for this time (RFC 8305).
_NEXT_ADDRESS_S = 0.25
_NOTHING = memoryview(b"")


class Address(NamedTuple):
    """Where a server is, and how it is reached.

    tls: None for a connection without TLS.
    server_name: what the certificate is checked against.
    """

    host: str
    port: int
    tls: ssl.SSLContext | None
    server_name: str | None
    socket_options: tuple[tuple[int, int, int], ...]


async def connect(address: Address) -> socket.socket:
    """A connected socket that never blocks, after the TLS handshake. A cancelled or failed attempt leaves none open.

    :raises ssl.SSLCertVerificationError: the server's certificate is not trusted, or is not for `server_name`.
    :raises OSError: the server cannot be reached, or it breaks the handshake.
    """
    connection = await start_connection(await _resolved(address), happy_eyeballs_delay=_NEXT_ADDRESS_S)
    try:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for option in address.socket_options:
            connection.setsockopt(*option)
        if address.tls is None:
            return connection
        connection.getpeername()  # else `wrap_socket` fails, and leaves a connection open that was reset just now
        connection = address.tls.wrap_socket(
            connection, server_hostname=address.server_name, do_handshake_on_connect=False,
            suppress_ragged_eofs=False,  # anybody in between can end the connection, but not TLS
        )  # fmt: skip
        await _handshake(connection)
    except BaseException:
        connection.close()
        raise
    return connection


async def _resolved(address: Address) -> Sequence[AddrInfoType]:
    """As `getaddrinfo`. A host that is an IP address, as in a cluster, needs no name server, and so no thread."""
    try:
        return socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        loop = asyncio.get_running_loop()
        return await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)


async def _handshake(connection: ssl.SSLSocket) -> None:
    loop, file = asyncio.get_running_loop(), connection.fileno()
    while True:
        ready = loop.create_future()
        try:
            return connection.do_handshake()
        except ssl.SSLWantReadError:
            loop.add_reader(file, _set_ready, ready)
        except ssl.SSLWantWriteError:
            loop.add_writer(file, _set_ready, ready)
        try:
            await ready
        finally:
            loop.remove_reader(file)
            loop.remove_writer(file)


def _set_ready(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


class SocketStream:
    """Sends, and passes on what arrives, until the connection has ended or is closed."""

    def __init__(
        self,
        connection: socket.socket,
        received: Callable[[bytes], None],
        ended: Callable[[OSError | None], None],
    ) -> None:
        """:param connection: from `connect`; the stream closes it.
        :param received: called with what has arrived.
        :param ended: called when the other side has ended the connection, or with what broke it; it is closed then.
        """
        self._socket = connection
        self._buffered = connection.pending if isinstance(connection, ssl.SSLSocket) else _none_buffered
        self._received = received
        self._ended = ended
        self._unsent = _NOTHING
        self._waits_to_write = False
        self._loop = asyncio.get_running_loop()
        # Not the socket: the event loop would format its addresses each time, only to find that it is a new one.
        self._file = connection.fileno()
        self._loop.add_reader(self._file, self._ready)

    @property
    def has_sent_all(self) -> bool:
        return not self._unsent

    def look(self) -> None:
        """Pass on what has arrived, the end above all: a busy event loop may not have seen it yet."""
        self._ready()

    def send(self, data: bytes) -> None:
        """Send what the socket takes now, and the rest later; `ended` is called if it cannot. Only where `has_sent_all`."""
        self._unsent = memoryview(data)
        self._send_more()

    def close(self) -> None:
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._file)
            self._loop.remove_writer(self._file)
            self._socket.close()
        self._unsent = _NOTHING

    def _send_more(self) -> None:
        try:
            while self._unsent:
                sent = self._socket.send(self._unsent)
                self._unsent = self._unsent[sent:] or _NOTHING  # an empty part would keep the whole request in memory
        except (ssl.SSLWantWriteError, BlockingIOError):
            self._wait_to_write()
        except ssl.SSLWantReadError:  # the server's part of a handshake comes first: then `_ready` is called
            return
        except OSError as error:
            self._end(error)

    def _wait_to_write(self) -> None:
        if not self._waits_to_write:
            self._waits_to_write = True
            self._loop.add_writer(self._file, self._ready)

    def _ready(self) -> None:
        """The socket can be read, or can be written again. In TLS each may wait for the other, so both are tried.

        Reading comes first: the answer may have arrived on a connection that takes no more of the request.
        """
        if self._waits_to_write:
            self._waits_to_write = False
            self._loop.remove_writer(self._file)
        self._read()
        if self._unsent:
            self._send_more()

    def _read(self) -> None:
        try:
            while data := self._socket.recv(_READ_MAX):
                self._received(data)
                if not self._buffered():  # what the system has besides calls again
                    return
        except (ssl.SSLWantReadError, BlockingIOError):
            return
        except ssl.SSLWantWriteError:
            self._wait_to_write()
        except OSError as error:
            self._end(error)
        else:
            self._end(None)

    def _end(self, error: OSError | None) -> None:
        self.close()
        self._ended(error)


def _none_buffered() -> int:
    return 0
