"""Credentials that do not come: an exec plugin, a factory, a hook or a file that hangs stops nothing, and is named."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from podrelay.errors import ConfigError
from podrelay_workers.kube import authorization, credentials, unbounded_call
from podrelay_workers.kube import connection as kube_connection
from podrelay_workers.kube.client import PodClient
from podrelay_workers.kube.errors import Unauthorized
from tests.harness.scripted_server import answers, pod, refuses, scripted


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unbounded_call, "AGAIN_S", 0.5)
    monkeypatch.setattr(unbounded_call, "KILL_S", 3.0)
    monkeypatch.setattr(kube_connection, "RELOAD_PAUSE_S", 0.1)
    monkeypatch.setattr(kube_connection, "RELOAD_WAIT_S", 0.5)
    monkeypatch.setattr(authorization, "HOOK_EVERY_S", 0.0)
    monkeypatch.setattr(authorization, "HOOK_WAIT_S", 0.5)


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 50))


class Plugin:
    """An exec plugin that hangs while the file `hang` exists, and its kubeconfig."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.hang = folder / "hang"
        self.token = folder / "token"
        self.token.write_text("one")
        self.path = folder / "corp-login"
        answer = (
            '{"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": "%s"}}'
        )
        self.path.write_text(
            f"#!/bin/sh\necho $$ >>{folder}/pids\n"
            f"while [ -e {self.hang} ]; do sleep 1000 & wait; done\n"
            f"printf '{answer}' $(cat {self.token})\n"
        )
        self.path.chmod(0o755)
        monkeypatch.setenv("AIRFLOW__KUBERNETES_EXECUTOR__IN_CLUSTER", "False")
        monkeypatch.setenv("AIRFLOW__KUBERNETES_EXECUTOR__CONFIG_FILE", str(folder / "kubeconfig"))

    def kubeconfig(self, url: str, user: dict[str, Any] | None = None, **cluster: str) -> None:
        plugin = {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": str(self.path),
            "interactiveMode": "Never",
        }
        document = {
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": url, **cluster}}],
            "users": [{"name": "u", "user": user or {"exec": plugin}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        }  # fmt: skip
        (self.folder / "kubeconfig").write_text(yaml.safe_dump(document))

    def running(self) -> list[int]:
        pids = [int(line) for line in (self.folder / "pids").read_text().split()]
        return [pid for pid in pids if is_alive(pid)]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plugin:
    return Plugin(tmp_path, monkeypatch)


async def gone(plugin: Plugin) -> None:
    deadline = time.monotonic() + 5
    while plugin.running():
        assert time.monotonic() < deadline, "plugins that hung are left"
        await asyncio.sleep(0.05)


def accepts(*tokens: str) -> Callable[[Any], Awaitable[Any]]:
    async def step(request: Any) -> Any:
        good = request.headers.get("Authorization", "").removeprefix("Bearer ") in tokens
        return await (answers(pod("a")) if good else refuses(401, "Unauthorized"))(request)

    return step


def test_a_plugin_that_hangs_at_the_start_is_named_and_waited_for(
    plugin: Plugin, caplog: pytest.LogCaptureFixture
) -> None:
    plugin.hang.touch()
    reported: list[str] = []

    async def test() -> None:
        async with scripted(accepts("one")) as (script, _):
            plugin.kubeconfig(script.url)
            connecting = asyncio.ensure_future(PodClient.connect(on_wait=reported.append))
            await asyncio.sleep(4.5)  # longer than until the first plugins are killed
            assert not connecting.done()
            assert len(plugin.running()) <= unbounded_call.RUNS_MAX
            plugin.hang.unlink()
            async with await asyncio.wait_for(connecting, 5) as api:
                await api.get_pod("default", "a")
                assert not api.trouble
            await gone(plugin)

    run(test)
    assert "config_file" in reported[-1]
    assert "runs corp-login" in reported[-1]
    assert len([record for record in caplog.records if "corp-login" in record.getMessage()]) == 1


def test_a_start_that_is_stopped_leaves_no_plugin(plugin: Plugin) -> None:
    plugin.hang.touch()

    async def test() -> None:
        plugin.kubeconfig("http://127.0.0.1:1")
        connecting = asyncio.ensure_future(PodClient.connect())
        await asyncio.sleep(1.2)
        assert plugin.running()
        connecting.cancel()
        await asyncio.wait({connecting})
        await gone(plugin)

    run(test)


def test_a_plugin_that_hangs_later_leaves_the_old_credentials_in_use(plugin: Plugin) -> None:
    """Requests are answered with the last error meanwhile, and quickly; nothing else stops."""

    async def test() -> None:
        async with scripted(accepts("one")) as (script, _):
            plugin.kubeconfig(script.url)
            async with await PodClient.connect() as api:
                await api.get_pod("default", "a")
                plugin.hang.touch()
                script.steps = [accepts("two")]
                began_s = time.monotonic()
                for _ in range(3):
                    with pytest.raises(Unauthorized):
                        await api.get_pod("default", "a")
                assert time.monotonic() - began_s < 4.0
                await asyncio.sleep(1.0)
                assert "corp-login" in api.trouble
                script.steps = [accepts("one")]  # the server accepts them after all
                await api.get_pod("default", "a")
                script.steps = [accepts("two")]
                plugin.token.write_text("two")
                plugin.hang.unlink()
                await recovers(api)
                assert not api.trouble
            await gone(plugin)

    run(test)


async def recovers(api: PodClient) -> None:
    """Within ten seconds of the end of the trouble, as the launcher would try."""
    deadline = time.monotonic() + 10
    while True:
        try:
            await api.get_pod("default", "a")
            return
        except Unauthorized:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.2)


def test_a_plugin_that_fails_later_turns_the_probe_red(plugin: Plugin) -> None:
    async def test() -> None:
        async with scripted(accepts("one")) as (script, _):
            plugin.kubeconfig(script.url)
            async with await PodClient.connect() as api:
                await api.get_pod("default", "a")
                works = plugin.path.read_text()
                plugin.path.write_text("#!/bin/sh\necho expired login >&2; exit 1\n")
                script.steps = [accepts("two")]
                with pytest.raises(Unauthorized):
                    await api.get_pod("default", "a")
                assert "process returned 1" in api.trouble
                plugin.token.write_text("two")
                plugin.path.write_text(works)
                await recovers(api)
                assert not api.trouble

    run(test)


@pytest.mark.parametrize("field", ["tokenFile", "certificate-authority", "kubeconfig"])
def test_a_file_that_hangs_stops_nothing(plugin: Plugin, field: str) -> None:
    """As on a network file system whose server is away; here a pipe that nobody writes to."""
    pipe = plugin.folder / ("kubeconfig" if field == "kubeconfig" else "pipe")
    os.mkfifo(pipe)
    text = ""
    plugin_kubeconfig = plugin.folder / "kubeconfig"
    if field == "tokenFile":
        plugin.kubeconfig("http://127.0.0.1:1", {"tokenFile": str(pipe)})
        text = "one"
    elif field == "certificate-authority":
        plugin.kubeconfig("http://127.0.0.1:1", {"token": "one"})
        os.environ["AIRFLOW__KUBERNETES_EXECUTOR__SSL_CA_CERT"] = str(pipe)
    ticks = 0

    async def test() -> None:
        nonlocal ticks
        reported: list[str] = []
        connecting = asyncio.ensure_future(PodClient.connect(on_wait=reported.append))
        while not reported:
            await asyncio.sleep(0.05)
            ticks += 1
        assert not connecting.done()
        assert str(plugin_kubeconfig) in reported[0]
        if field == "kubeconfig":
            connecting.cancel()
            await asyncio.wait({connecting})
            return
        release = threading.Thread(target=write_until_read, args=(pipe, text, connecting.done), daemon=True)
        release.start()
        with contextlib.suppress(ConfigError):  # what was written is no certificate
            await (await asyncio.wait_for(connecting, 10)).close()
        release.join(10)

    try:
        run(test)
    finally:
        os.environ.pop("AIRFLOW__KUBERNETES_EXECUTOR__SSL_CA_CERT", None)
        open_all(pipe)
    assert ticks > 3, "the event loop goes on"


def write_until_read(pipe: Path, text: str, done: Callable[[], bool]) -> None:
    while not done():
        write(pipe, text)
        time.sleep(0.05)


def write(pipe: Path, text: str) -> None:
    with contextlib.suppress(OSError):  # nobody reads
        end = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        os.write(end, text.encode())
        os.close(end)


def open_all(pipe: Path) -> None:
    """Let the threads that still wait for the pipe end."""
    for _ in range(5):
        write(pipe, "")
        time.sleep(0.05)


@pytest.fixture
def factory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, Any], None]]:
    def use(option: str, made: Any) -> None:
        monkeypatch.setattr(credentials, option, made, raising=False)
        monkeypatch.setenv(
            f"AIRFLOW__KUBERNETES_EXECUTOR__{option.upper()}", f"podrelay_workers.kube.credentials.{option}"
        )

    yield use


@pytest.mark.parametrize("option", ["client_factory", "async_client_factory"])
def test_a_factory_that_hangs_is_named_and_waited_for(factory: Callable[[str, Any], None], option: str) -> None:
    import kubernetes
    import kubernetes_asyncio

    library: Any = kubernetes.client if option == "client_factory" else kubernetes_asyncio.client
    go = threading.Event()
    reported: list[str] = []

    async def test() -> None:
        async with scripted(answers(pod("a"))) as (script, _):

            def make() -> Any:
                go.wait(30)
                return library.CoreV1Api(library.ApiClient(library.Configuration(host=script.url)))

            factory(option, make)
            connecting = asyncio.ensure_future(PodClient.connect(on_wait=reported.append))
            await asyncio.sleep(1.2)
            assert not connecting.done()
            go.set()
            async with await asyncio.wait_for(connecting, 5) as api:
                await api.get_pod("default", "a")

    run(test)
    assert f"{option} = podrelay_workers.kube.credentials.{option} has not returned" in reported[0]


@pytest.mark.parametrize("kind", ["blocking", "asynchronous", "of the asynchronous client, blocking", "failing"])
def test_a_hook_that_hangs_leaves_the_token_of_before_in_use(
    factory: Callable[[str, Any], None], kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    import kubernetes
    import kubernetes_asyncio

    library: Any = kubernetes_asyncio.client if "asynchronous" in kind else kubernetes.client
    state: dict[str, Any] = {"token": "one", "hangs": False}
    go = threading.Event()

    def renew(configuration: Any) -> None:
        if state["hangs"] and kind == "failing":
            raise OSError("no login")
        if state["hangs"]:
            go.wait(30)
        configuration.api_key["authorization"] = f"Bearer {state['token']}"

    async def renew_async(configuration: Any) -> None:
        while state["hangs"]:
            await asyncio.sleep(0.05)
        configuration.api_key["authorization"] = f"Bearer {state['token']}"

    async def test() -> None:
        async with scripted(accepts("one")) as (script, _):

            def make() -> Any:
                configuration = library.Configuration(host=script.url)
                configuration.refresh_api_key_hook = renew_async if kind == "asynchronous" else renew
                return library.CoreV1Api(library.ApiClient(configuration))

            factory("async_client_factory" if "asynchronous" in kind else "client_factory", make)
            async with await PodClient.connect() as api:
                await api.get_pod("default", "a")
                state["hangs"] = True
                began_s = time.monotonic()
                for _ in range(20):
                    await api.get_pod("default", "a")
                assert time.monotonic() - began_s < 4.0
                assert "cannot renew the credentials" in api.trouble
                state.update(token="two", hangs=False)
                script.steps = [accepts("two")]
                go.set()
                await recovers(api)
                assert not api.trouble

    run(test)
    assert len([record for record in caplog.records if "cannot renew the credentials" in record.getMessage()]) == 1


EMPTY = '{"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {}}'


@pytest.mark.parametrize(
    ("script", "why"), [("exit 1", "process returned 1"), (f"echo '{EMPTY}'", "corp-login gave no credentials")]
)
def test_a_plugin_that_fails_at_the_start_is_named(plugin: Plugin, script: str, why: str) -> None:
    """The client library only logs an answer without credentials, and would go on without any."""
    plugin.path.write_text(f"#!/bin/sh\n{script}\n")
    plugin.kubeconfig("http://127.0.0.1:1")

    async def test() -> None:
        with pytest.raises(ConfigError, match=rf"config_file = .*{why}"):
            await PodClient.connect()

    run(test)


def test_a_factory_that_fails_says_why(factory: Callable[[str, Any], None]) -> None:
    def make() -> Any:
        raise SystemExit("log in first")

    factory("client_factory", make)

    async def test() -> None:
        with pytest.raises(ConfigError, match="log in first"):
            await PodClient.connect()

    run(test)
