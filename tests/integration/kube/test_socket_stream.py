"""TLS on sockets that never block, against servers that end, stall, renew their keys or speak something else."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import socketserver
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from podrelay_workers.kube.connection_pool import ConnectionPool, Disconnected, Limits
from podrelay_workers.kube.http_answer import Answer, BadAnswer
from podrelay_workers.kube.socket_stream import Address, connect
from tests.harness.certificates import make_certificates

SECRET = b"Authorization: Bearer s3cret\r\n"
# More than socket buffers hold.
LARGE = os.urandom(1 << 20) * 12
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

Handle = Callable[[socket.socket], None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the certificates."""
    made = tmp_path_factory.mktemp("certificates")
    make_certificates(made)
    return made


def of_server(folder: Path, name: str = "server") -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / f"{name}.crt", folder / f"{name}.key")
    return context


def of_client(folder: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(folder / "ca.crt"))


@contextlib.contextmanager
def serving(handle: Handle, tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """A server on a free port of loopback, each connection in a thread, closed when `handle` returns."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.settimeout(20)
            with contextlib.suppress(OSError):  # the client has closed it
                if tls is None:
                    handle(self.request)
                else:
                    with tls.wrap_socket(self.request, server_side=True, suppress_ragged_eofs=False) as secured:
                        handle(secured)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def request_of(connection: socket.socket) -> tuple[bytes, bytes]:
    """Head and body of one request."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += read(connection)
    head, _, body = data.partition(b"\r\n\r\n")
    _, _, length = head.partition(b"Content-Length: ")
    parts, missing = [body], int(length or 0) - len(body)
    while missing:
        parts.append(read(connection))
        missing -= len(parts[-1])
    return head, b"".join(parts)


def read(connection: socket.socket) -> bytes:
    data = connection.recv(1 << 16)
    if not data:
        raise ConnectionError("the client has closed it")
    return data


def answers_ok(connection: socket.socket) -> None:
    while True:
        request_of(connection)
        connection.sendall(OK)


def run(
    port: int,
    tls: ssl.SSLContext | None,
    test: Callable[[ConnectionPool], Awaitable[None]],
    host: str = "localhost",
    **more: Any,
) -> None:
    async def with_pool() -> None:
        pool = ConnectionPool(f"{'https' if tls else 'http'}://{host}:{port}", tls, limit=4, **more)
        try:
            await asyncio.wait_for(test(pool), 30)
        finally:
            await pool.close()

    asyncio.run(with_pool())


def ask(pool: ConnectionPool, method: str = "GET", body: bytes | None = None, **limits: float) -> Awaitable[Answer]:
    return pool.request(method, "/a", SECRET, body, Limits(**{"request_s": 20.0, "connect_s": 20.0, **limits}))


def open_files() -> int:
    """Those of the servers are counted too, until they notice that the client has gone."""
    return len(list(Path("/proc/self/fd").iterdir()))


async def until(reached: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not reached():
        assert time.monotonic() < end
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("body", [b"small", LARGE])
def test_bodies_of_any_size_arrive_both_ways(folder: Path, version: ssl.TLSVersion, body: bytes) -> None:
    """A large one is more than a record of TLS, than the buffers of a socket, and than this end may send at once."""
    versions = []

    def echo(connection: socket.socket) -> None:
        assert isinstance(connection, ssl.SSLSocket)
        versions.append(connection.version())
        while True:
            _, received = request_of(connection)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(received) + received)

    async def test(pool: ConnectionPool) -> None:
        for _ in range(3):
            assert (await ask(pool, "POST", body)).body == body
        assert [name.replace(".", "_") for name in versions if name] == [version.name]

    tls = of_server(folder)
    tls.minimum_version = tls.maximum_version = version
    with serving(echo, tls) as port:
        run(port, of_client(folder), test)


@pytest.mark.parametrize("secured", [True, False])
def test_the_loop_goes_on_while_a_server_reads_slowly(folder: Path, secured: bool) -> None:
    go_on, found = threading.Event(), []

    def slow(connection: socket.socket) -> None:
        go_on.wait(20)
        found.append(request_of(connection)[1])
        connection.sendall(OK)

    async def test(pool: ConnectionPool) -> None:
        asked = asyncio.ensure_future(ask(pool, "POST", LARGE))
        done, _ = await asyncio.wait({asked}, timeout=0.2)
        assert not done
        go_on.set()
        assert (await asked).body == b"ok"
        assert found == [LARGE]

    with serving(slow, of_server(folder) if secured else None) as port:
        run(port, of_client(folder) if secured else None, test)


@pytest.mark.parametrize("secured", [True, False])
def test_a_connection_with_the_rest_of_a_request_is_not_used_again(folder: Path, secured: bool) -> None:
    """The server answers before it has read the body, and would read the rest as the next request."""
    connections, done = [], threading.Event()

    def early(connection: socket.socket) -> None:
        connections.append(connection)
        if len(connections) > 1:
            return answers_ok(connection)
        read(connection)
        connection.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        done.wait(20)
        return None

    async def test(pool: ConnectionPool) -> None:
        assert (await ask(pool, "POST", LARGE)).status == 413
        assert (await ask(pool)).body == b"ok"
        assert len(connections) == 2
        done.set()

    with serving(early, of_server(folder) if secured else None) as port:
        run(port, of_client(folder) if secured else None, test)


@pytest.mark.parametrize("trusted", [True, False])
def test_a_client_certificate_is_sent_where_the_server_asks_for_one(folder: Path, trusted: bool) -> None:
    names: list[str] = []

    def named(connection: socket.socket) -> None:
        assert isinstance(connection, ssl.SSLSocket)
        certificate: Any = connection.getpeercert()
        names.append(certificate["subject"][0][0][1])
        answers_ok(connection)

    async def test(pool: ConnectionPool) -> None:
        if trusted:
            assert (await ask(pool)).body == b"ok"
            assert names == ["client"]
        else:  # in TLS 1.3 the server refuses after the handshake
            with pytest.raises(Disconnected):
                await ask(pool)
            assert not names

    server, client = of_server(folder), of_client(folder)
    server.verify_mode = ssl.CERT_REQUIRED
    server.load_verify_locations(folder / "ca.crt")
    if trusted:
        client.load_cert_chain(folder / "client.crt", folder / "client.key")
    with serving(named, server) as port:
        run(port, client, test)


@pytest.mark.parametrize(
    ("certificate", "host", "server_name", "valid"),
    [
        ("server", "localhost", None, True),
        ("server", "127.0.0.1", "localhost", True),
        ("server", "127.0.0.1", None, False),
        ("server", "localhost", "kubernetes", False),
        ("stranger", "localhost", None, False),
        ("stale", "localhost", None, False),
    ],
)
def test_nothing_is_sent_to_a_server_whose_certificate_is_not_valid(
    folder: Path, certificate: str, host: str, server_name: str | None, valid: bool
) -> None:
    received = []

    def records(connection: socket.socket) -> None:
        received.append(read(connection))
        connection.sendall(OK)

    async def test(pool: ConnectionPool) -> None:
        before = open_files()
        if valid:
            assert (await ask(pool)).body == b"ok"
        else:
            with pytest.raises(ssl.SSLCertVerificationError):
                await ask(pool)
            await until(lambda: open_files() <= before)
        assert [SECRET in data for data in received] == [True] * valid

    with serving(records, of_server(folder, certificate)) as port:
        run(port, of_client(folder), test, host, server_name=server_name)


@pytest.mark.parametrize("answer", [OK, b"", b"\x15\x03\x03\x00\x02\x02\x28"])
def test_nothing_is_sent_without_tls_to_a_server_that_has_none(folder: Path, answer: bytes) -> None:
    """It answers the handshake with HTTP, by closing, or with an alert."""
    received = []

    def plain(connection: socket.socket) -> None:
        received.append(read(connection))
        connection.sendall(answer)

    async def test(pool: ConnectionPool) -> None:
        before = open_files()
        with pytest.raises(Disconnected, match="cannot connect to localhost"):
            await ask(pool)
        await until(lambda: open_files() <= before)
        assert len(received) == 1
        assert b"HTTP" not in received[0]
        assert b"s3cret" not in received[0]

    with serving(plain) as port:
        run(port, of_client(folder), test)


def test_a_handshake_that_is_never_answered_takes_no_longer_than_a_connection_may(folder: Path) -> None:
    end = threading.Event()

    async def test(pool: ConnectionPool) -> None:
        before = open_files()
        with pytest.raises(asyncio.TimeoutError):
            await ask(pool, connect_s=0.1)
        await until(lambda: open_files() <= before + 1)  # the server's end, as long as it waits
        end.set()

    def silent(connection: socket.socket) -> None:
        end.wait(20)

    with serving(silent) as port:
        run(port, of_client(folder), test)


def close_orderly(connection: socket.socket) -> None:
    if isinstance(connection, ssl.SSLSocket):
        connection.unwrap()


def close_with_reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


@pytest.mark.parametrize("secured", [True, False])
@pytest.mark.parametrize("close", [close_orderly, close_with_reset, lambda _: None])
@pytest.mark.parametrize("sent", [b"", OK[:10], OK[:-1]])
def test_an_answer_that_is_cut_is_none(folder: Path, secured: bool, close: Handle, sent: bytes) -> None:
    def cuts(connection: socket.socket) -> None:
        request_of(connection)
        connection.sendall(sent)
        close(connection)

    async def test(pool: ConnectionPool) -> None:
        with pytest.raises(Disconnected):
            await ask(pool)

    with serving(cuts, of_server(folder) if secured else None) as port:
        run(port, of_client(folder) if secured else None, test)


def test_the_orderly_end_of_tls_ends_an_answer_without_a_length(folder: Path) -> None:
    def endless(connection: socket.socket) -> None:
        request_of(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\nall of it")
        close_orderly(connection)

    async def test(pool: ConnectionPool) -> None:
        assert (await ask(pool)).body == b"all of it"

    with serving(endless, of_server(folder)) as port:
        run(port, of_client(folder), test)


def test_bytes_that_are_no_tls_end_the_request(folder: Path) -> None:
    def breaks(connection: socket.socket) -> None:
        request_of(connection)
        connection.sendall(OK[:10])
        socket.socket.sendall(connection, OK)  # past the encryption
        time.sleep(0.2)

    async def test(pool: ConnectionPool) -> None:
        with pytest.raises(Disconnected):
            await ask(pool)

    with serving(breaks, of_server(folder)) as port:
        run(port, of_client(folder), test)


@pytest.mark.parametrize("phase", ["handshake", "sending", "waiting", "reading"])
def test_who_gives_up_leaves_no_connection(folder: Path, phase: str) -> None:
    reached, ended = threading.Event(), threading.Event()
    tls = of_server(folder)

    def until_closed(raw: socket.socket) -> None:
        if phase == "handshake":
            read(raw)
            reached.set()
        else:
            connection = tls.wrap_socket(raw, server_side=True)
            read(connection) if phase == "sending" else request_of(connection)
            if phase == "reading":
                connection.sendall(OK[:-1])
            reached.set()
            raw = socket.socket(fileno=connection.detach())
            raw.settimeout(20)
        with raw, contextlib.suppress(OSError):
            while raw.recv(1 << 16):
                pass
        ended.set()

    async def test(pool: ConnectionPool) -> None:
        asked = asyncio.ensure_future(ask(pool, "POST", LARGE if phase == "sending" else b"x"))
        await until(reached.is_set)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        await until(ended.is_set)

    with serving(until_closed) as port:
        run(port, of_client(folder), test)


def test_a_free_connection_that_the_server_closes_is_closed_here(folder: Path) -> None:
    def once(connection: socket.socket) -> None:
        request_of(connection)
        connection.sendall(OK)

    async def test(pool: ConnectionPool) -> None:
        await ask(pool)
        before = open_files()
        await until(lambda: open_files() < before)
        assert (await ask(pool, "POST", b"x")).body == b"ok"

    with serving(once, of_server(folder)) as port:
        run(port, of_client(folder), test)


def test_an_endless_answer_is_given_up(folder: Path) -> None:
    def endless(connection: socket.socket) -> None:
        request_of(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            connection.sendall(LARGE)

    async def test(pool: ConnectionPool) -> None:
        with pytest.raises(BadAnswer, match="longer than"):
            await ask(pool)

    with serving(endless, of_server(folder)) as port:
        run(port, of_client(folder), test)


@pytest.mark.parametrize(("version", "command"), [("-tls1_3", b"K"), ("-tls1_3", b"k"), ("-tls1_2", b"r")])
def test_the_server_may_renew_the_keys_at_any_time(folder: Path, version: str, command: bytes) -> None:
    """Then what is read makes this end write, or the other way round."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    files = ["-cert", str(folder / "server.crt"), "-key", str(folder / "server.key")]
    server = subprocess.Popen(
        [openssl, "s_server", "-accept", f"127.0.0.1:{port}", "-naccept", "1", version, *files],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert server.stdin is not None
    assert server.stdout is not None
    commands, output = server.stdin, server.stdout

    def until_printed(text: bytes) -> None:
        """It prints what it receives."""
        for line in output:
            if text in line:
                return
        raise AssertionError(text)

    async def test(pool: ConnectionPool) -> None:
        await asyncio.to_thread(until_printed, b"ACCEPT")
        for number in range(3):
            asked = asyncio.ensure_future(pool.request("GET", f"/{number}", b"", None, Limits(10.0, 10.0)))
            await asyncio.to_thread(until_printed, b"/%d HTTP" % number)
            commands.write(command + b"\n")
            commands.flush()
            await asyncio.sleep(0.1)
            commands.write(OK + b"\n" if number == 2 else OK[:-2] + b"o\n")
            commands.flush()
            assert (await asked).body[:1] == b"o"

    try:
        run(port, of_client(folder), test)
    finally:
        server.kill()
        server.wait()
        commands.close()
        output.close()


@pytest.mark.parametrize("close", [close_with_reset, lambda _: None])
def test_an_answer_without_a_length_is_complete_only_if_its_sender_says_so(folder: Path, close: Handle) -> None:
    """Whoever stands in between can end a TCP connection, but not TLS."""

    def cut(connection: socket.socket) -> None:
        request_of(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\na part")
        time.sleep(0.05)
        close(connection)

    async def test(pool: ConnectionPool) -> None:
        with pytest.raises(Disconnected):
            await ask(pool)

    with serving(cut, of_server(folder)) as port:
        run(port, of_client(folder), test)


def test_a_second_answer_in_a_record_of_its_own_is_not_taken_for_the_next(folder: Path) -> None:
    sent = threading.Event()

    def twice(connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        request_of(connection)
        connection.sendall(OK)
        request_of(connection)
        connection.sendall(OK)
        connection.sendall(OK.replace(b"ok", b"no"))
        sent.set()
        request_of(connection)

    async def test(pool: ConnectionPool) -> None:
        await ask(pool)
        asyncio.get_running_loop().call_soon(sent.wait, 20)  # both are there when the first is read
        assert (await ask(pool)).body == b"ok"
        assert (await ask(pool)).body == b"ok"

    with serving(twice, of_server(folder)) as port:
        run(port, of_client(folder), test)


@pytest.mark.parametrize("secured", [True, False])
@pytest.mark.parametrize("close", [close_orderly, close_with_reset, lambda _: None])
def test_nothing_is_sent_on_a_connection_whose_end_has_arrived(folder: Path, secured: bool, close: Handle) -> None:
    """The event loop was busy, so that nobody has seen it."""
    closed = threading.Event()

    def once(connection: socket.socket) -> None:
        request_of(connection)
        connection.sendall(OK)
        if not closed.is_set():
            go_on.wait(20)
            close(connection)
        else:
            answers_ok(connection)

    go_on = threading.Event()

    async def test(pool: ConnectionPool) -> None:
        await ask(pool)
        go_on.set()
        time.sleep(0.3)
        closed.set()
        assert (await ask(pool, "POST", b"x")).body == b"ok"

    with serving(once, of_server(folder) if secured else None) as port:
        run(port, of_client(folder) if secured else None, test)


@pytest.mark.parametrize("secured", [True, False])
def test_an_answer_before_a_reset_is_read_though_the_request_cannot_be_sent(folder: Path, secured: bool) -> None:
    def early(connection: socket.socket) -> None:
        read(connection)
        go_on.wait(20)
        connection.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        close_with_reset(connection)
        closed.set()

    go_on, closed = threading.Event(), threading.Event()

    async def test(pool: ConnectionPool) -> None:
        asked = asyncio.ensure_future(ask(pool, "POST", LARGE))
        await asyncio.sleep(0.2)
        go_on.set()
        closed.wait(20)  # the loop is busy
        time.sleep(0.1)
        assert (await asked).status == 413

    with serving(early, of_server(folder) if secured else None) as port:
        run(port, of_client(folder) if secured else None, test)


def test_no_connection_without_tls_is_made_for_https() -> None:
    async def test() -> None:
        with pytest.raises(ValueError, match="https"):
            ConnectionPool("https://localhost:1", None, limit=1)

    asyncio.run(test())


def test_a_connection_that_is_reset_before_the_handshake_is_closed(folder: Path) -> None:
    connected, reset = threading.Event(), threading.Event()

    def resets(connection: socket.socket) -> None:
        connected.wait(20)
        close_with_reset(connection)
        reset.set()

    class Waits(tuple[tuple[int, int, int], ...]):
        def __iter__(self) -> Iterator[tuple[int, int, int]]:
            connected.set()
            assert reset.wait(20)
            return iter(())

    async def test() -> None:
        before = open_files()
        with pytest.raises(OSError, match="Errno") as caught:
            await connect(Address("127.0.0.1", port, of_client(folder), "localhost", Waits()))
        assert open_files() <= before
        del caught

    with serving(resets) as port:
        asyncio.run(asyncio.wait_for(test(), 30))
