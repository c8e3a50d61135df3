"""A real Redis over TCP, TLS and a Unix socket: what works, and what podrelay says at start where it cannot."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis

from podrelay.cli.check import run_checks
from podrelay.cli.dashboard import make_app
from podrelay.errors import ConfigError, PodrelayError, RedisUnavailable
from podrelay.settings import Settings, load_settings
from podrelay.store.async_scripts import AsyncScripts
from podrelay.store.circuit_breaker import CircuitBreaker
from podrelay.store.connection import check, connect, connect_async
from tests.harness.certificates import make_certificates
from tests.harness.redis_server import RedisServer, find_server, free_port
from tests.unit.test_settings import Options


class TlsServers:
    """Two servers with TLS: `any` accepts every client, `strict` those with a certificate of the CA."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.any, self.strict = free_port(), free_port()


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsServers]:
    find_server()
    folder = tmp_path_factory.mktemp("tls")
    make_certificates(folder)
    found = TlsServers(folder)
    with ExitStack() as stack:
        for port, clients in ((found.any, "no"), (found.strict, "yes")):
            try:
                stack.enter_context(_tls_server(folder, port, clients))
            except redis.RedisError:
                pytest.skip(f"{find_server()} was built without TLS")
        yield found


def _tls_server(folder: Path, port: int, clients: str, certificate: str = "server") -> RedisServer:
    return RedisServer(
        folder, "--tls-port", str(port), "--tls-auth-clients", clients, "--tls-ca-cert-file", f"{folder}/ca.crt",
        "--tls-cert-file", f"{folder}/{certificate}.crt", "--tls-key-file", f"{folder}/{certificate}.key",
    )  # fmt: skip


def settings(url: str, **more: Any) -> Settings:
    return Settings(redis_url=url, fernet_key="", **{"redis_timeout_s": 1.0, **more})


def at_start(url: str, **more: Any) -> list[str]:
    with connect(settings(url, **more)) as client:
        return check(client)


def use_both_clients(url: str) -> None:
    with connect(settings(url)) as client:
        client.set("from", "scheduler")

    async def worker() -> Any:
        async with connect_async(settings(url)) as client:
            return await client.get("from")

    assert asyncio.run(worker()) == b"scheduler"


def test_a_unix_socket_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find_server()
    path = tmp_path / "re dis.sock"
    with RedisServer(tmp_path, "--unixsocket", str(path)) as server:
        url = f"unix://{str(path).replace(' ', '%20')}?db=3"
        use_both_clients(url)
        assert redis.Redis(port=server.port, db=3).get("from") == b"scheduler"
        assert not any(item.name == "Redis" and not item.ok for item in _checks(url, monkeypatch))
    with pytest.raises(RedisUnavailable, match="re dis.sock"):
        at_start(url)


def _checks(url: str, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    monkeypatch.setenv("AIRFLOW__PODRELAY__REDIS_URL", url)
    return [item for item in run_checks(None) if item.name in ("[podrelay] options", "Redis")]


@pytest.mark.parametrize(
    "url",
    ["redis://:ab@SECRET/x@127.0.0.1:1", "redis://127.0.0.1:1/0?decode_responses=1", "unix://run/redis.sock"],
)
def test_check_shows_one_line_for_a_mistake_in_the_address(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (found,) = _checks(url, monkeypatch)
    assert not found.ok
    assert found.detail.startswith("[podrelay] redis_url")
    assert "SECRET" not in found.detail


def test_check_refuses_a_prefix_of_rq(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RQ_KEY_PREFIX", "other")
    (found,) = _checks("redis://127.0.0.1:1", monkeypatch)
    assert not found.ok
    assert "RQ_KEY_PREFIX" in found.detail


def test_a_database_that_redis_does_not_have_is_refused_at_start(redis_server: RedisServer) -> None:
    url = redis_server.url.removesuffix("/0")
    assert at_start(url + "/15") is not None
    for number in ("16", "2147483647"):
        with pytest.raises(ConfigError, match="redis_url: Redis has no database of this number"):
            at_start(f"{url}/{number}")


@pytest.mark.parametrize("options", ["", "ssl_certfile={0}/client.crt&ssl_keyfile={0}/client.key"])
def test_tls_works(servers: TlsServers, options: str) -> None:
    ca = f"ssl_ca_certs={servers.folder}/ca.crt"
    port = servers.strict if options else servers.any
    use_both_clients(f"rediss://localhost:{port}/1?{ca}&{options}".rstrip("&").format(servers.folder))


def test_a_server_that_is_not_verified_is_warned_about(servers: TlsServers) -> None:
    warnings = at_start(f"rediss://127.0.0.1:{servers.any}?ssl_cert_reqs=none")
    assert any("ssl_cert_reqs=none" in warning and "ssl_ca_certs" in warning for warning in warnings)


CA = "ssl_ca_certs={0}/ca.crt"
MISTAKES = [
    ("rediss://localhost:{any}", "not trusted .*set ssl_ca_certs in .podrelay. redis_url"),
    ("rediss://localhost:{any}?ssl_ca_certs={0}/other.crt", "ssl_ca_certs in .* names .*/other.crt, which does not hold"),
    (f"rediss://127.0.0.1:{{any}}?{CA}", "for another host .*ssl_check_hostname=false"),
    (f"rediss://localhost:{{strict}}?{CA}", "requires a client certificate: set ssl_certfile and ssl_keyfile"),
    (f"rediss://localhost:{{strict}}?{CA}&ssl_certfile={{0}}/stranger.crt&ssl_keyfile={{0}}/stranger.key",
     "rejects the client certificate .*/stranger.crt"),
    (f"rediss://localhost:{{plain}}?{CA}", "does not use TLS: write redis://"),
    ("redis://localhost:{any}", "uses TLS: write rediss://"),
    ("redis://localhost:{strict}", "uses TLS: write rediss://"),
]  # fmt: skip


@pytest.mark.parametrize(("url", "says"), MISTAKES)
def test_a_mistake_with_tls_is_named_at_start(
    servers: TlsServers, redis_server: RedisServer, url: str, says: str
) -> None:
    full = url.format(servers.folder, any=servers.any, strict=servers.strict, plain=redis_server.port)
    with pytest.raises(ConfigError, match=says):
        at_start(full)


def test_a_certificate_that_is_out_of_date_is_named(servers: TlsServers) -> None:
    port = free_port()
    with (
        _tls_server(servers.folder, port, "no", "stale"),
        pytest.raises(ConfigError, match="out of date .*renew it"),
    ):
        at_start(f"rediss://localhost:{port}?ssl_ca_certs={servers.folder}/ca.crt")


def test_a_server_that_does_not_answer_is_waited_for_all_the_same(redis_server: RedisServer) -> None:
    """The search for a cause takes Redis for away, not for misconfigured, and takes no longer than a few timeouts."""
    began_s = time.monotonic()
    redis_server.pause()
    try:
        for scheme in ("redis", "rediss"):
            with pytest.raises(RedisUnavailable):
                at_start(f"{scheme}://127.0.0.1:{redis_server.port}", redis_timeout_s=0.2)
    finally:
        redis_server.resume()
    assert time.monotonic() - began_s < 5
    with pytest.raises(RedisUnavailable):
        at_start(f"rediss://127.0.0.1:{free_port()}")


def test_a_certificate_that_changes_while_podrelay_runs_is_named(servers: TlsServers, tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_bytes((servers.folder / "ca.crt").read_bytes())
    now = settings(f"rediss://localhost:{servers.any}?ssl_ca_certs={ca}")
    breaker, says = CircuitBreaker(now), f"ssl_ca_certs in .* names {ca}"
    ca.write_bytes((servers.folder / "other.crt").read_bytes())
    with pytest.raises(RedisUnavailable, match=says):
        breaker.call(lambda client: client.ping())

    async def worker() -> None:
        async with connect_async(now) as client:
            await AsyncScripts(client).call(lambda client: client.ping())

    with pytest.raises(RedisUnavailable, match=says):
        asyncio.run(worker())


def test_a_new_connection_causes_no_error_reply(redis_url: str) -> None:
    observer = redis.Redis.from_url(redis_url, protocol=2, **_silent())

    def errors(url: str) -> int:
        use_both_clients(url)
        return int(observer.info("stats")["total_error_replies"])

    before = int(observer.info("stats")["total_error_replies"])
    assert errors(redis_url) == before
    assert errors(redis_url + "?protocol=3") == before


def _silent() -> dict[str, Any]:
    with connect(settings("redis://unused")) as client:
        known = client.connection_pool.connection_kwargs
        return {name: known[name] for name in ("driver_info", "lib_name", "lib_version") if name in known}


def test_the_dashboard_reads_through_the_same_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    web = pytest.importorskip("rq_dashboard.web")
    for name in ("Worker", "from_url"):  # put back after the test
        monkeypatch.setattr(web, name, getattr(web, name))
    monkeypatch.setattr(web.config, "serializer", web.config.serializer)
    path = tmp_path / "r.sock"
    with RedisServer(tmp_path, "--unixsocket", str(path)):
        found = settings(f"unix://{path}")
        with connect(found) as client:
            client.sadd("rq:queues", "rq:queue:seen")
            queues = make_app(found.redis_url, client).test_client().get("/0/data/queues.json").get_json()["queues"]
    assert [queue["name"] for queue in queues] == ["seen"]


def test_no_error_of_an_address_is_anything_but_ours() -> None:
    """Whatever is written, loading the options either works or is a ConfigError, and so is making the client."""
    for url in ("redis://host", "rediss://host?ssl_ciphers=DEFAULT", "unix:///x", "redis://[::1]:1?protocol=3"):
        loaded = load_settings(Options(redis_url=url))
        for make in (connect, connect_async):
            try:
                make(loaded)
            except PodrelayError as error:
                pytest.fail(f"{url}: {error}")
