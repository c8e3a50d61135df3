"""A stream that arrives in many small parts is read in few large ones, over TLS too, and nothing of it is lost."""

from __future__ import annotations

import asyncio
import asyncio.sslproto
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from podrelay_workers.kube.paced_reading import PacedReader
from tests.harness.certificates import make_certificates

Send = Callable[[web.StreamResponse], Awaitable[None]]

PARTS = [f"{number:04d};".encode() * 20 for number in range(300)]


@pytest.fixture(params=["plain", "tls"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    """Of the certificates; None without TLS."""
    if request.param == "plain":
        return None
    make_certificates(tmp_path)
    return tmp_path


@contextlib.asynccontextmanager
async def streaming(send: Send, folder: Path | None) -> AsyncIterator[tuple[aiohttp.ClientSession, str]]:
    async def handle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await send(response)
        return response

    server_tls = client_tls = None
    if folder is not None:
        server_tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        server_tls.load_cert_chain(folder / "server.crt", folder / "server.key")
        client_tls = ssl.create_default_context(cafile=str(folder / "ca.crt"))
    app = web.Application()
    app.router.add_get("/", handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=server_tls).start()
    scheme = "https" if folder else "http"
    connector = aiohttp.TCPConnector(ssl=client_tls or True)
    try:
        async with aiohttp.ClientSession(connector=connector) as session:
            yield session, f"{scheme}://localhost:{runner.addresses[0][1]}/"
    finally:
        await runner.cleanup()


async def one_by_one(response: web.StreamResponse) -> None:
    with contextlib.suppress(ConnectionError):
        for part in PARTS:
            await response.write(part)
            await asyncio.sleep(0.001)


async def pieces_of(answer: aiohttp.ClientResponse, pause_s: float) -> list[bytes]:
    reader, found = PacedReader(answer, pause_s), []
    while piece := await reader.read():
        found.append(piece)
    return found


def test_parts_that_follow_each_other_are_read_together(folder: Path | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even TLS records wake the process one by one."""
    woken = 0
    updated = asyncio.sslproto.SSLProtocol.buffer_updated

    def counted(self: asyncio.sslproto.SSLProtocol, nbytes: int) -> None:
        nonlocal woken
        woken += 1
        updated(self, nbytes)

    async def read(pause_s: float) -> tuple[list[bytes], float]:
        async with streaming(one_by_one, folder) as (session, url), session.get(url) as answer:
            monkeypatch.setattr(asyncio.sslproto.SSLProtocol, "buffer_updated", counted)
            began_s = time.monotonic()
            pieces = await pieces_of(answer, pause_s)
            monkeypatch.undo()
            return pieces, time.monotonic() - began_s

    pieces, took_s = asyncio.run(read(0.05))
    assert b"".join(pieces) == b"".join(PARTS)
    assert len(pieces) <= took_s / 0.05 + 2
    assert woken <= 4 * (len(pieces) + 2)
    at_once, _ = asyncio.run(read(0.0))
    assert b"".join(at_once) == b"".join(PARTS)
    assert len(at_once) > 3 * len(pieces)


def test_what_follows_a_silence_is_read_at_once(folder: Path | None) -> None:
    sent_s: list[float] = []

    async def rarely(response: web.StreamResponse) -> None:
        for part in PARTS[:3]:
            sent_s.append(time.monotonic())
            await response.write(part)
            await asyncio.sleep(0.8)

    async def test() -> None:
        async with streaming(rarely, folder) as (session, url), session.get(url) as answer:
            reader = PacedReader(answer, 0.4)
            for number in range(3):
                assert await reader.read() == PARTS[number]
                assert time.monotonic() - sent_s[number] < 0.3

    asyncio.run(test())


def test_a_burst_is_read_without_pauses(folder: Path | None) -> None:
    burst = b"".join(PARTS) * 130  # 4 MB

    async def send(response: web.StreamResponse) -> None:
        await response.write(burst)

    async def test() -> list[bytes]:
        async with streaming(send, folder) as (session, url), session.get(url) as answer:
            return await pieces_of(answer, 0.5)

    began_s = time.monotonic()
    pieces = asyncio.run(test())
    assert b"".join(pieces) == burst and len(pieces) > 12
    assert time.monotonic() - began_s < 0.4 * len(pieces)


def test_a_connection_that_fails_in_a_pause_fails_the_next_read(folder: Path | None) -> None:
    async def breaks(response: web.StreamResponse) -> None:
        await response.write(PARTS[0])
        await asyncio.sleep(0.05)
        await response.write(PARTS[1])
        await asyncio.sleep(0.05)
        request = response._req
        assert request is not None and request.transport is not None
        request.transport.abort()

    async def test() -> None:
        async with streaming(breaks, folder) as (session, url), session.get(url) as answer:
            reader = PacedReader(answer, 0.3)
            assert await reader.read() == PARTS[0]
            with pytest.raises((aiohttp.ClientError, OSError)):
                while await reader.read():
                    pass

    asyncio.run(test())


def test_a_connection_that_is_closed_in_a_pause_fails_the_next_read(folder: Path | None) -> None:
    """As that of credentials that were replaced twice."""

    async def test() -> None:
        async with streaming(one_by_one, folder) as (session, url), session.get(url) as answer:
            reader = PacedReader(answer, 0.1)
            await reader.read()
            await asyncio.sleep(0.05)
            await session.close()
            with pytest.raises((aiohttp.ClientError, OSError)):
                while await reader.read():
                    pass

    asyncio.run(test())
