"""Kept connections, with TLS and without, to a server that answers, closes and falls silent whenever it likes."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple

import pytest

from podrelay_workers.kube import connection_pool
from podrelay_workers.kube.connection_pool import ConnectionPool, Disconnected, Limits, ReadTimeout, encode_headers
from podrelay_workers.kube.http_answer import Answer, BadAnswer
from podrelay_workers.kube.send_guard import SendBlocked, before_send
from tests.harness.certificates import make_certificates

# What a server does with one request on a connection; it returns False to close it.
Handle = Callable[[bytes, asyncio.StreamWriter], Awaitable[bool]]


def answer(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body


class Transport(NamedTuple):
    """How both ends encrypt; None for no TLS."""

    server: ssl.SSLContext | None = None
    client: ssl.SSLContext | None = None


IN_USE = [Transport()]


@pytest.fixture(params=["plain", "tls"], autouse=True)
def _transport(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> None:
    IN_USE[:] = [Transport()]
    if request.param == "tls":
        folder = tmp_path_factory.mktemp("certificates")
        make_certificates(folder)
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(folder / "server.crt", folder / "server.key")
        IN_USE[:] = [Transport(server, ssl.create_default_context(cafile=str(folder / "ca.crt")))]


class Server:
    """Counts connections, and keeps the requests it received: first line and body."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle
        self.requests: list[bytes] = []
        self.connections = 0
        self.open = 0
        self.most_open = 0
        self.port = 0
        self.tasks: set[asyncio.Task[None] | None] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.tasks.add(asyncio.current_task())
        self.connections += 1
        self.open += 1
        self.most_open = max(self.open, self.most_open)
        try:
            while await self._answer(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client has closed it
        finally:
            self.open -= 1
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        _, found, rest = head.partition(b"Content-Length: ")
        body = await reader.readexactly(int(rest.split(b"\r\n")[0])) if found else b""
        self.requests.append(head.split(b" HTTP/1.1")[0] + b" " + body)
        return await self._handle(self.requests[-1], writer)

    async def end(self) -> None:
        tasks = [task for task in self.tasks if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.01)


@asynccontextmanager
async def served(handle: Handle, limit: int = 8, prefix: str = "") -> AsyncIterator[tuple[Server, ConnectionPool]]:
    server, transport = Server(handle), IN_USE[0]
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=transport.server)
    server.port = listening.sockets[0].getsockname()[1]
    scheme = "https" if transport.client else "http"
    pool = ConnectionPool(f"{scheme}://localhost:{server.port}{prefix}", transport.client, limit=limit)
    try:
        yield server, pool
    finally:
        await pool.close()
        listening.close()
        await server.end()


def ask(
    pool: ConnectionPool, method: str = "GET", target: str = "/a", body: bytes | None = None, **limits: float
) -> Awaitable[Answer]:
    return pool.request(method, target, b"", body, Limits(**{"request_s": 5.0, "connect_s": 5.0, **limits}))


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 30))


async def echo(request: bytes, writer: asyncio.StreamWriter) -> bool:
    writer.write(answer(request))
    return True


async def slow_echo(request: bytes, writer: asyncio.StreamWriter) -> bool:
    await asyncio.sleep(0.05)
    return await echo(request, writer)


def test_requests_one_after_the_other_share_a_connection() -> None:
    async def test() -> None:
        async with served(echo, prefix="/cluster/1/") as (server, pool):
            for number in range(5):
                found = await ask(pool, "POST", f"/a{number}", b"body")
                assert found.body == b"POST /cluster/1/a%d body" % number
            assert server.connections == 1

    run(test)


def test_as_many_connections_as_requests_at_once_up_to_the_limit() -> None:
    async def test() -> None:
        async with served(slow_echo, limit=4) as (server, pool):
            for count, open_most in ((2, 2), (20, 4)):
                found = await asyncio.gather(*(ask(pool, target=f"/{number}") for number in range(count)))
                assert [item.body for item in found] == [b"GET /%d " % number for number in range(count)]
                assert server.most_open == open_most
            assert server.connections == 4

    run(test)


def test_a_request_that_gives_up_waiting_takes_no_connection_from_another() -> None:
    async def test() -> None:
        async with served(slow_echo, limit=1) as (server, pool):
            first = asyncio.ensure_future(ask(pool, target="/first"))
            await asyncio.sleep(0)
            with pytest.raises(asyncio.TimeoutError):
                await ask(pool, request_s=0.01)
            waiting = [asyncio.ensure_future(ask(pool, target=f"/{number}")) for number in range(3)]
            await asyncio.sleep(0)
            waiting[0].cancel()
            await first
            waiting[1].cancel()  # it has just been woken; since Python 3.12 it may have sent its request by then
            assert (await waiting[2]).body == b"GET /2 "
            assert server.connections <= 2

    run(test)


@pytest.mark.parametrize(("method", "again"), [("GET", True), ("DELETE", True), ("POST", False), ("PATCH", False)])
def test_what_a_closing_server_may_have_lost_is_sent_again_if_that_is_harmless(method: str, again: bool) -> None:
    """The server closes a kept connection at the moment when a request is on the way."""
    lost: list[bytes] = []

    async def closes_at_second(request: bytes, writer: asyncio.StreamWriter) -> bool:
        if b"/second" in request and not lost:
            lost.append(request)
            return False
        return await echo(request, writer)

    async def test() -> None:
        async with served(closes_at_second) as (server, pool):
            await ask(pool)
            if again:
                assert (await ask(pool, method, "/second")).status == 200
            else:
                with pytest.raises(Disconnected):
                    await ask(pool, method, "/second", b"x")
            assert (len(server.requests), server.connections) == ((3, 2) if again else (2, 1))

    run(test)


def test_a_new_connection_that_breaks_is_not_tried_again() -> None:
    async def closes(request: bytes, writer: asyncio.StreamWriter) -> bool:
        return False

    async def test() -> None:
        async with served(closes) as (server, pool):
            with pytest.raises(Disconnected):
                await ask(pool)
            assert len(server.requests) == 1

    run(test)


def test_no_answer_is_taken_for_that_of_another_request() -> None:
    """A late answer, a second one, or one to nothing."""

    async def late(request: bytes, writer: asyncio.StreamWriter) -> bool:
        if b"/late" in request:
            await asyncio.sleep(0.1)
        if b"/twice" in request:
            writer.write(answer(b"first") + answer(b"second"))
        elif b"/later" in request:
            writer.write(answer(b"first"))
            await asyncio.sleep(0.05)
            writer.write(answer(b"second"))
        else:
            await echo(request, writer)
        return True

    async def test() -> None:
        async with served(late) as (server, pool):
            with pytest.raises(asyncio.TimeoutError):
                await ask(pool, target="/late", request_s=0.05)
            assert (await ask(pool, target="/b")).body == b"GET /b "
            given_up = asyncio.ensure_future(ask(pool, target="/late"))
            await asyncio.sleep(0.05)
            given_up.cancel()
            assert (await ask(pool, target="/c")).body == b"GET /c "
            for target in ("/twice", "/later"):
                assert (await ask(pool, target=target)).body == b"first"
                await asyncio.sleep(0.1)
                assert (await ask(pool, target="/d")).body == b"GET /d "

    run(test)


def test_silence_and_nonsense_end_a_request() -> None:
    async def says(request: bytes, writer: asyncio.StreamWriter) -> bool:
        if b"/silent" in request:
            writer.write(b"HTTP/1.1 200 OK\r\n")
            await asyncio.sleep(1)
        elif b"/slow" in request:
            for byte in answer(b"ok"):
                writer.write(bytes([byte]))
                await asyncio.sleep(0.01)
        elif b"/cut" in request:
            writer.write(answer(b"1234")[:-1])
            return False
        elif b"/endless" in request:
            writer.write(b"HTTP/1.1 200 OK\r\n\r\nall of it")
            return False
        else:
            writer.write(b"no HTTP\r\n\r\n")
        return True

    async def test() -> None:
        async with served(says) as (_, pool):
            with pytest.raises(ReadTimeout):
                await ask(pool, target="/silent", read_s=0.1)
            assert (await ask(pool, target="/slow", read_s=0.2)).body == b"ok"
            with pytest.raises(Disconnected):
                await ask(pool, target="/cut")
            with pytest.raises(BadAnswer):
                await ask(pool, target="/other")
            assert (await ask(pool, target="/endless")).body == b"all of it"

    run(test)


def test_a_request_that_is_blocked_sends_nothing_and_leaves_its_connection() -> None:
    async def blocked(pool: ConnectionPool) -> None:
        def block() -> None:
            raise SendBlocked

        before_send.set(block)
        with pytest.raises(SendBlocked):
            await ask(pool, target="/blocked")

    async def test() -> None:
        async with served(echo) as (server, pool):
            await ask(pool)
            await asyncio.gather(asyncio.ensure_future(blocked(pool)))
            await ask(pool)
            assert server.requests == [b"GET /a "] * 2
            assert server.connections == 1

    run(test)


def test_unused_connections_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_pool, "KEEP_S", 0.1)

    async def test() -> None:
        async with served(slow_echo) as (server, pool):
            await asyncio.gather(*(ask(pool) for _ in range(3)))
            assert server.open == 3
            for _ in range(100):
                await asyncio.sleep(0.02)
                if not server.open:
                    break
            assert server.open == 0
            await ask(pool)
            assert server.connections == 4

    run(test)


def test_closing_ends_the_requests_in_progress() -> None:
    async def never(request: bytes, writer: asyncio.StreamWriter) -> bool:
        await asyncio.sleep(1)
        return False

    async def test() -> None:
        async with served(never) as (server, pool):
            asked = asyncio.ensure_future(ask(pool))
            while not server.requests:
                await asyncio.sleep(0.01)
            await pool.close()
            with pytest.raises(Disconnected):
                await asked

    run(test)


def test_closing_fails_the_requests_that_wait_for_a_connection() -> None:
    async def test() -> None:
        async with served(slow_echo, limit=1) as (_, pool):
            asked = [asyncio.ensure_future(ask(pool)) for _ in range(3)]
            await asyncio.sleep(0.01)
            await pool.close()
            found = await asyncio.gather(*asked, return_exceptions=True)
            assert [type(item) for item in found] == [Disconnected] * 3  # nobody has cancelled them

    run(test)


@pytest.mark.parametrize("host", ["127.0.0.1", "no-such.invalid", "a..b", "a" * 64])
def test_a_server_that_is_not_there_is_named(host: str) -> None:
    async def test() -> None:
        pool = ConnectionPool(f"http://{host}:1", None, limit=1)
        for _ in range(2):  # the failure gives back its place under the limit
            with pytest.raises(Disconnected, match=re.escape(f"cannot connect to {host}:1")):
                await ask(pool)

    run(test)


def test_a_header_with_a_line_break_is_refused_without_its_value() -> None:
    assert encode_headers([("A", "b"), ("C", "é")]) == "A: b\r\nC: é\r\n".encode()
    for name, value in (
        ("Authorization", "Bearer s3cret\r\nX: y"),
        ("A", "s3cret\n"),
        ("A: b", "s3cret"),
        ("", "s3cret"),
    ):
        with pytest.raises(ValueError, match="cannot be sent") as caught:
            encode_headers([(name, value)])
        assert "s3cret" not in str(caught.value)
