"""Access over real TLS by kubeconfig alone: certificates, rotated tokens, exec plugins, server names, proxies."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from podrelay.errors import ConfigError
from podrelay_workers.kube import connection as kube_connection
from podrelay_workers.kube.client import PodClient
from podrelay_workers.kube.credentials import Credentials
from podrelay_workers.kube.errors import Unauthorized, Unreachable
from tests.harness.api_door import Authority, Json, ca, door, encoded, plugin


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 60))


async def get_pod() -> None:
    async with await PodClient.connect() as api:
        await api.get_pod("default", "a")


# --- access --------------------------------------------------------------------------------------------------------
def test_a_client_certificate_inside_the_kubeconfig(authority: Authority, configure: Callable[..., None]) -> None:
    """A kubeconfig as kind, kubeadm and k3s write it."""
    certificate, key = authority.issue("kubernetes-admin")

    async def test() -> None:
        async with door(authority) as server:
            user = {"client-certificate-data": encoded(certificate), "client-key-data": encoded(key)}
            configure(server.port, ca(authority), user)
            await get_pod()
            assert server.shown == ["kubernetes-admin"]

    run(test)


@pytest.mark.parametrize(
    ("address", "server", "path"),
    [
        ("::1", "https://[::1]:{}", ""),
        ("127.0.0.1", "https://127.0.0.1:{}/k8s/clusters/c-1", "/k8s/clusters/c-1"),
        ("127.0.0.1", "https://127.0.0.1:{}/k8s/clusters/c-1/", "/k8s/clusters/c-1"),
    ],
)
def test_addresses_of_other_forms(
    authority: Authority, configure: Callable[..., None], address: str, server: str, path: str
) -> None:
    """An IPv6 address, and a path before that of the API, as in Rancher and other gateways to several clusters."""

    async def test() -> None:
        async with door(authority, address=address) as made:
            made.tokens.add("t")
            configure(made.port, {**ca(authority), "server": server.format(made.port)}, {"token": "t"})
            await get_pod()
            assert made.paths == [f"{path}/api/v1/namespaces/default/pods/a"]

    run(test)


@pytest.fixture
def other(tmp_path: Path) -> Authority:
    (tmp_path / "other").mkdir()
    return Authority.make(tmp_path / "other")


def test_a_server_of_another_authority_is_not_trusted(
    authority: Authority, other: Authority, configure: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        async with door(authority) as server:
            server.tokens.add("t")
            configure(server.port, ca(other), {"token": "t"})
            with pytest.raises(Unreachable, match="(?i)certificate"):
                await get_pod()
            configure(server.port, {"insecure-skip-tls-verify": True}, {"token": "t"})
            await get_pod()
            assert server.shown == ["t"]
            # Airflow's options override the kubeconfig.
            configure(server.port, {**ca(other), "insecure-skip-tls-verify": False}, {"token": "t"})
            with monkeypatch.context() as patch:
                patch.setenv("AIRFLOW__KUBERNETES_EXECUTOR__VERIFY_SSL", "False")
                await get_pod()
            with pytest.raises(Unreachable, match="(?i)certificate"):
                await get_pod()
            monkeypatch.setenv("AIRFLOW__KUBERNETES_EXECUTOR__SSL_CA_CERT", str(authority.folder / "ca.crt"))
            await get_pod()

    run(test)


def test_the_name_in_the_certificate_may_be_configured(authority: Authority, configure: Callable[..., None]) -> None:
    """tls-server-name, for a tunnel or a load balancer that the certificate does not name."""

    async def test() -> None:
        async with door(authority, "kubernetes.default.svc", address="") as server:
            server.tokens.add("t")
            configure(server.port, ca(authority), {"token": "t"})
            with pytest.raises(Unreachable, match="(?i)certificate"):
                await get_pod()
            configure(server.port, {**ca(authority), "tls-server-name": "kubernetes.default.svc"}, {"token": "t"})
            await get_pod()

    run(test)


@pytest.mark.parametrize("way", ["exec", "file", "inline"])
def test_a_token_that_changes_is_read_again(
    authority: Authority, configure: Callable[..., None], tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many requests fail at the same moment: all succeed after one reload, and no token is logged."""
    monkeypatch.setattr(kube_connection, "RELOAD_PAUSE_S", 0.1)
    token = tmp_path / "token"
    ways: dict[str, Callable[[], Json]] = {
        "exec": lambda: plugin(tmp_path),
        "file": lambda: {"tokenFile": str(token)},
        "inline": lambda: {"token": token.read_text()},
    }

    async def test() -> None:
        async with door(authority) as server:
            token.write_text("first-token")
            server.tokens = {"first-token"}
            configure(server.port, ca(authority), ways[way]())
            async with await PodClient.connect() as api:
                await api.get_pod("default", "a")
                for number in range(3):
                    token.write_text(f"token-{number}")
                    server.tokens = {f"token-{number}"}
                    configure(server.port, ca(authority), ways[way]())
                    await asyncio.gather(*(api.get_pod("default", "a") for _ in range(10)))
                    assert server.shown[-1] == f"token-{number}"
                    await asyncio.sleep(0.2)
                server.tokens = set()
                with pytest.raises(Unauthorized):
                    await api.get_pod("default", "a")
                server.tokens = {"token-2"}
                await api.get_pod("default", "a")

    run(test)
    if way == "exec":
        assert len((tmp_path / "calls").read_text()) <= 6


def test_a_token_never_reaches_the_log(
    authority: Authority, configure: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        async with door(authority) as server:
            configure(server.port, ca(authority), {"token": "s3cret-of-ours"})
            with pytest.raises(Unauthorized) as caught:
                await get_pod()
            assert "s3cret" not in str(caught.value)
            assert server.shown.count("s3cret-of-ours") == 2

    with caplog.at_level("DEBUG"):
        run(test)
    assert "s3cret" not in caplog.text


def test_requests_go_through_the_proxy_that_the_kubeconfig_names(
    authority: Authority, configure: Callable[..., None]
) -> None:
    tunnels: list[str] = []

    async def tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        tunnels.append(head.split()[1])
        host, _, port = tunnels[-1].partition(":")
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")

        async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                sink.write(data)
                await sink.drain()
            sink.close()

        await asyncio.gather(copy(reader, far_writer), copy(far_reader, writer), return_exceptions=True)

    async def test() -> None:
        async with door(authority) as server:
            proxy = await asyncio.start_server(tunnel, "127.0.0.1", 0)
            address = f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}"
            server.tokens.add("t")
            configure(server.port, {**ca(authority), "proxy-url": address}, {"token": "t"})
            await get_pod()
            assert tunnels == [f"127.0.0.1:{server.port}"]
            proxy.close()

    run(test)


@pytest.mark.parametrize(
    ("exempt", "asked"),
    [("10.0.0.0/8,.svc", True), ("127.0.0.0/8,.svc", False), ("127.0.0.1", False), ("", True)],
)
def test_the_environments_proxy_spares_networks_too(
    authority: Authority, configure: Callable[..., None], monkeypatch: pytest.MonkeyPatch, exempt: str, asked: bool
) -> None:
    """Inside a cluster the API server is an IP address, and NO_PROXY contains the network of the services."""
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", exempt)

    async def test() -> None:
        async with door(authority) as server:
            server.tokens.add("t")
            configure(server.port, ca(authority), {"token": "t"})
            if asked:
                with pytest.raises(Unreachable):
                    await get_pod()
            else:
                await get_pod()

    run(test)


def test_a_blocking_clients_own_exemption_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocking client of a client_factory stores the environment's proxy together with its exemptions."""
    from kubernetes.client import Configuration

    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "10.96.0.0/12")
    configuration = Configuration()
    proxies = {}
    for host in ("https://10.96.0.1", "https://10.200.0.1"):
        configuration.host = host
        proxies[host] = Credentials(configuration).proxy
    assert proxies == {"https://10.96.0.1": None, "https://10.200.0.1": "http://127.0.0.1:1"}


def test_a_proxy_that_does_not_speak_http_is_refused_at_the_start(
    authority: Authority, configure: Callable[..., None]
) -> None:
    configure(1, {**ca(authority), "proxy-url": "socks5://someone:s3cret@localhost:1080"}, {"token": "t"})
    with pytest.raises(ConfigError, match=r"socks5.*proxy-url") as caught:
        run(get_pod)
    assert "s3cret" not in str(caught.value)


def test_an_authority_that_was_replaced_is_read_again(
    authority: Authority, other: Authority, configure: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service account of a pod, or a kubeconfig, changes on disk while the process runs."""
    monkeypatch.setattr(kube_connection, "RELOAD_PAUSE_S", 0.0)

    async def test() -> None:
        async with door(other) as server:
            server.tokens.add("t")
            configure(server.port, ca(authority), {"token": "t"})
            async with await PodClient.connect() as api:
                access = api._connection._access
                for _ in range(2):
                    with pytest.raises(Unreachable, match="(?i)certificate"):
                        await api.get_pod("default", "a")
                assert api._connection._access is access, "an unchanged authority closes no connection"
                configure(server.port, ca(other), {"token": "t"})
                await api.get_pod("default", "a")

    run(test)


def test_inside_a_cluster_the_token_file_is_read_again(
    authority: Authority, configure: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kubernetes rotates a pod's token about once an hour, in place."""
    from kubernetes_asyncio.config import incluster_config

    token = tmp_path / "token"
    monkeypatch.setattr(kube_connection, "RELOAD_PAUSE_S", 0.0)
    monkeypatch.setenv("AIRFLOW__KUBERNETES_EXECUTOR__IN_CLUSTER", "True")
    for name, value in (("SERVICE_TOKEN_FILENAME", token), ("SERVICE_CERT_FILENAME", tmp_path / "ca.crt")):
        monkeypatch.setattr(incluster_config, name, str(value))

    async def test() -> None:
        async with door(authority) as server:
            monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
            monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(server.port))
            token.write_text("one")
            server.tokens = {"one"}
            async with await PodClient.connect() as api:
                await api.get_pod("default", "a")
                token.write_text("two")
                server.tokens = {"two"}
                await api.get_pod("default", "a")
            assert json.dumps(server.shown) == '["one", "one", "two"]'

    run(test)
