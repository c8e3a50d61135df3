"""A slow link delays each answer on its own, in order, and loses nothing when an end closes."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.benchmarks.slow_link import SlowLink, slow_process

DELAY_S = 0.2
TIMER_S = 0.005  # the timers of an event loop are that exact


@contextmanager
def server(handle: Callable[[socket.socket], None]) -> Iterator[int]:
    """The port of a server that handles each connection in a thread."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def accept() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

        def serve(connection: socket.socket) -> None:
            with connection:
                handle(connection)

        threading.Thread(target=accept, daemon=True).start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)


def echo(connection: socket.socket) -> None:
    while data := connection.recv(65536):
        connection.sendall(data)


def read_all(connection: socket.socket) -> bytes:
    found = b""
    while data := connection.recv(65536):
        found += data
    return found


def test_answers_overlap_and_keep_their_order() -> None:
    with server(echo) as port, slow_process(port, DELAY_S) as link:
        connections = [socket.create_connection(("127.0.0.1", link.port), 10) for _ in range(20)]
        for connection in connections:  # connected on both sides
            connection.sendall(b"-")
        for connection in connections:
            assert connection.recv(1) == b"-"
        began_s = time.monotonic()
        for number in range(10):
            for connection in connections:
                connection.sendall(b"%d" % number)
        for connection in connections:
            found = b""
            while len(found) < 10:
                found += connection.recv(65536)
            assert found == b"0123456789"
        took_s = time.monotonic() - began_s
        for connection in connections:
            connection.close()
    assert DELAY_S - TIMER_S <= took_s < 5 * DELAY_S, "200 answers one after the other would take 200 delays"


def test_what_is_sent_at_once_is_not_lost() -> None:
    """As a TLS handshake is, which begins before the link has reached the server."""
    with server(echo) as port, slow_process(port, 0.0) as link:
        for _ in range(200):
            with socket.create_connection(("127.0.0.1", link.port), 10) as connection:
                connection.sendall(b"hello")
                connection.settimeout(5)
                assert connection.recv(5) == b"hello"


def test_what_a_server_said_before_it_closed_arrives() -> None:
    text = b"x" * 1_000_000
    with server(lambda connection: connection.sendall(text)) as port, slow_process(port, DELAY_S) as link:
        began_s = time.monotonic()
        with socket.create_connection(("127.0.0.1", link.port), 10) as connection:
            assert read_all(connection) == text
        assert time.monotonic() - began_s >= DELAY_S - TIMER_S


def test_a_client_that_leaves_ends_the_connection_to_the_server() -> None:
    ended = threading.Event()

    def wait_for_the_end(connection: socket.socket) -> None:
        read_all(connection)
        ended.set()

    with server(wait_for_the_end) as port, SlowLink(port, DELAY_S) as link:
        with socket.create_connection(("127.0.0.1", link.port), 10) as connection:
            connection.sendall(b"x")
        assert ended.wait(10)


def test_a_server_that_is_not_there_closes_the_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    with SlowLink(port, DELAY_S) as link, socket.create_connection(("127.0.0.1", link.port), 10) as connection:
        assert connection.recv(1) == b""


def test_one_write_after_an_answer_is_one_round_trip() -> None:
    with server(echo) as port, SlowLink(port, 0.01) as link:
        with socket.create_connection(("127.0.0.1", link.port), 10) as connection:
            for _ in range(3):
                connection.sendall(b"ask")
                assert connection.recv(3) == b"ask"
        assert link.round_trips == 3
