"""The three pages that a worker serves, and at which port."""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import re
import socket
import time
from collections.abc import Awaitable, Callable

import aiohttp
import pytest
from aiohttp.web_protocol import RequestHandler

from podrelay.errors import ConfigError
from podrelay.health import STALE_AFTER_S
from podrelay.monitoring_address import MonitoringAddress, parse_monitoring_bind
from podrelay.settings import Settings
from podrelay_workers.runtime import monitor as monitor_module
from podrelay_workers.runtime.monitor import Monitor
from tests.harness.redis_server import free_port
from tests.harness.waiting import until

SETTINGS = Settings("redis://nowhere", "key")


async def served(port: int, monitor: Monitor, use: Callable[[aiohttp.ClientSession, str], Awaitable[None]]) -> None:
    async with (
        monitor.served(MonitoringAddress("127.0.0.1", range(port, port + 1))),
        aiohttp.ClientSession() as session,
    ):
        await until(lambda: listens(port))
        await use(session, f"http://127.0.0.1:{port}")


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_what_each_page_answers() -> None:
    monitor = Monitor.of("launcher", SETTINGS, None)
    trouble = ""

    async def use(session: aiohttp.ClientSession, url: str) -> None:
        nonlocal trouble

        async def get(path: str, method: str = "GET") -> tuple[int, str]:
            async with session.request(method, url + path) as answer:
                return answer.status, await answer.text()

        assert await get("/livez") == (200, "ok\n")
        assert await get("/livez", "HEAD") == (200, "")
        status, text = await get("/readyz")
        assert status == 503
        assert text.endswith("is not ready: no reply from Redis yet\n")
        monitor.readiness.follow(time.time, lambda: trouble)
        status, text = await get("/readyz")
        assert (status, text.endswith("is ready\n")) == (200, True)
        assert "podrelay_ready{" in (await get("/metrics"))[1]
        trouble = "the kubeconfig is gone"
        assert (await get("/readyz"))[1].endswith("is not ready: the kubeconfig is gone\n")
        monitor.readiness.follow(lambda: time.time() - STALE_AFTER_S - 1, lambda: "")
        assert (await get("/readyz"))[0] == 503
        assert (await get("/livez"))[0] == 200, "an outage of Redis must not restart the process"
        for path in ("/", "/metrics/", "/readyz/x", "/../etc/passwd", "/debug", "/%00"):
            assert (await get(path))[0] == 404, path
        for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
            assert (await get("/metrics", method))[0] == 405, method
        async with session.get(url + "/livez") as answer:
            assert answer.headers["Server"] == "podrelay", "without the versions of Python and aiohttp"

    asyncio.run(served(free_port(), monitor, use))


def test_several_processes_share_a_range_of_ports(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    first = random.randrange(20_000, 30_000)  # below those that the system gives to other connections
    address = MonitoringAddress("127.0.0.1", range(first, first + 10))

    def ports() -> set[str]:
        return set(re.findall(r"on port (\d+) of 127.0.0.1", caplog.text))

    async def test() -> None:
        one, another = Monitor.of("launcher", SETTINGS, None), Monitor.of("watcher", SETTINGS, None)
        async with one.served(address):
            await until(lambda: len(ports()) == 1)
            async with another.served(address):
                await until(lambda: len(ports()) == 2)
                assert all(map(listens, map(int, ports())))
        assert not any(map(listens, map(int, ports())))

    asyncio.run(test())


def test_a_port_in_use_is_waited_for(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor_module, "RETRY_S", 0.05)
    caplog.set_level(logging.INFO)

    async def test() -> None:
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            port = other.getsockname()[1]
            monitor = Monitor.of("launcher", SETTINGS, None)
            async with monitor.served(MonitoringAddress("127.0.0.1", range(port, port + 1))):
                await until(lambda: "Cannot serve health and metrics" in caplog.text)
                other.close()
                await until(lambda: f"on port {port}" in caplog.text)
        errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
        assert len(errors) == 1, "it is said once"
        assert f"127.0.0.1:{port} ([podrelay] monitoring_bind)" in errors[0].getMessage()

    asyncio.run(test())


def test_an_address_of_another_host_does_not_end_the_process(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        async with Monitor.of("launcher", SETTINGS, None).served(parse_monitoring_bind("192.0.2.1:1234")):
            await until(lambda: "Cannot serve health and metrics at 192.0.2.1:1234" in caplog.text)

    asyncio.run(test())


def test_idle_connections_are_few_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reaches the port cannot use up the files of the process, which it needs for its work."""
    monkeypatch.setattr(monitor_module, "_REQUEST_S", 1.0)

    async def use(session: aiohttp.ClientSession, url: str) -> None:
        port = int(url.rpartition(":")[2])
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(80)]
        refused = await asyncio.gather(*(ended(reader, 0.3) for reader, _ in idle))
        assert sum(refused) == 80 - monitor_module._CONNECTIONS_MAX
        assert all(await asyncio.gather(*(ended(reader, 5.0) for reader, _ in idle)))
        async with session.get(url + "/livez") as answer:
            assert answer.status == 200
        for _, writer in idle:
            writer.close()

    asyncio.run(served(free_port(), Monitor.of("launcher", SETTINGS, None), use))


def test_connections_that_have_ended_are_forgotten() -> None:
    """Whoever opens many, one after the other, does not fill the memory."""

    async def use(session: aiohttp.ClientSession, url: str) -> None:
        for _ in range(300):
            async with session.get(url + "/livez") as answer:
                assert answer.status == 200
        gc.collect()
        assert sum(isinstance(item, RequestHandler) for item in gc.get_objects()) < 50

    asyncio.run(served(free_port(), Monitor.of("launcher", SETTINGS, None), use))


@pytest.mark.parametrize(
    "sent",
    [b"\x16\x03\x01\x02\x00\x01\x00", b"GET\r\n\r\n", b"GET /livez HTTP/9.9\r\n\r\n", b"GET /livez HTTP/1.1\r\n\r\n",
     b"GET /livez HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n", b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n"],
)  # fmt: skip
def test_what_is_no_request_is_no_error_of_the_process(sent: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async def use(session: aiohttp.ClientSession, url: str) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        writer.write(sent)
        await asyncio.wait_for(reader.read(), 5.0)
        writer.close()
        async with session.get(url + "/livez") as answer:
            assert answer.status == 200

    asyncio.run(served(free_port(), Monitor.of("launcher", SETTINGS, None), use))
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


async def ended(reader: asyncio.StreamReader, within_s: float) -> bool:
    try:
        return await asyncio.wait_for(reader.read(1), within_s) == b""
    except asyncio.TimeoutError:
        return False


def test_off_serves_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def test() -> None:
        async with Monitor.of("launcher", SETTINGS, None).served(parse_monitoring_bind("off")):
            await asyncio.sleep(0.05)

    asyncio.run(test())
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("text", "host", "ports"),
    [
        ("127.0.0.1:8790", "127.0.0.1", range(8790, 8791)),
        ("0.0.0.0:8790-8809", "0.0.0.0", range(8790, 8810)),
        ("[::]:8790", "::", range(8790, 8791)),
        ("localhost:0", "localhost", range(1)),
        ("off", "", range(0)),
    ],
)
def test_addresses(text: str, host: str, ports: range) -> None:
    address = parse_monitoring_bind(text)
    assert (address.host, address.ports) == (host, ports)
    assert str(address) == text


@pytest.mark.parametrize(
    "text",
    ["", "8790", ":8790", "127.0.0.1", "127.0.0.1:", "::1:8790", "host:99999", "host:9-8", "host:0-3", "host:1-65535",
     "http://host:8790", "host:8790/metrics", "on", "host:-1", "host:80,81", "[host:80", "ho st:80", "host:8790\n"],
)  # fmt: skip
def test_mistakes_name_the_option(text: str) -> None:
    with pytest.raises(ConfigError, match=r"\[podrelay\] monitoring_bind"):
        parse_monitoring_bind(text)
