"""Options of `[kubernetes_executor]` for access to the API server, each with a value other than its default."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from aiohttp import web

from podrelay_workers.kube.credentials import CONNECT_S, REQUEST_S, load_credentials

Configure = Callable[..., None]


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch) -> Configure:
    """Set options, of a team if one is named."""

    def write(team: str = "", **options: str) -> None:
        prefix = f"{team.upper()}___" if team else ""
        for name, value in options.items():
            monkeypatch.setenv(f"AIRFLOW__{prefix}KUBERNETES_EXECUTOR__{name.upper()}", value)

    return write


@pytest.fixture
def kubeconfig(tmp_path: Path, configure: Configure) -> Path:
    path = tmp_path / "kubeconfig"
    servers = {"one": "http://127.0.0.1:1", "two": "http://127.0.0.1:2"}
    document = {
        "apiVersion": "v1", "kind": "Config", "current-context": "one", "users": [{"name": "u", "user": {}}],
        "clusters": [{"name": name, "cluster": {"server": server}} for name, server in servers.items()],
        "contexts": [{"name": name, "context": {"cluster": name, "user": "u"}} for name in servers],
    }  # fmt: skip
    path.write_text(yaml.safe_dump(document))
    configure(in_cluster="False", config_file=str(path))
    return path


def test_the_context_that_is_named_is_used(kubeconfig: Path, configure: Configure) -> None:
    assert asyncio.run(load_credentials()).host == "http://127.0.0.1:1"
    configure(cluster_context="two")
    assert asyncio.run(load_credentials()).host == "http://127.0.0.1:2"


def test_the_request_timeout_of_a_team_is_its_own(kubeconfig: Path, configure: Configure) -> None:
    """No option of a team falls back to the one without its prefix."""
    configure(kube_client_request_args='{"_request_timeout": 7}')
    configure("red", kube_client_request_args='{"_request_timeout": [3, 9]}')

    def limits(team: str | None) -> tuple[float, float, float | None]:
        access = asyncio.run(load_credentials(team))
        return access.connect_s, access.request_s, access.read_s

    assert limits(None) == (CONNECT_S, 7.0, 7.0)
    assert limits("red") == (3.0, REQUEST_S, 9.0)
    assert limits("blue") == (CONNECT_S, REQUEST_S, None)


@pytest.mark.parametrize("enabled", [True, False])
def test_tcp_keepalive_reaches_the_socket(kubeconfig: Path, configure: Configure, enabled: bool) -> None:
    configure(enable_tcp_keepalive=str(enabled), tcp_keep_idle="77", tcp_keep_intvl="11", tcp_keep_cnt="4")

    async def seen() -> tuple[bool, list[int]]:
        async def answer_at_length(request: web.Request) -> web.Response:
            return web.Response(body=b"x" * 20_000_000)

        app = web.Application()
        app.router.add_get("/", answer_at_length)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            access = await load_credentials()
            address = f"http://127.0.0.1:{runner.addresses[0][1]}/"
            async with access.session(1) as session, session.get(address) as answer:
                assert answer.connection is not None
                assert answer.connection.transport is not None
                used = answer.connection.transport.get_extra_info("socket")
                numbers = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
                on = bool(used.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))
                return on, [used.getsockopt(socket.IPPROTO_TCP, number) for number in numbers]
        finally:
            await runner.cleanup()

    on, numbers = asyncio.run(seen())
    assert (numbers == [77, 11, 4]) == enabled
    assert on or not enabled
