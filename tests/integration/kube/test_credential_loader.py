"""Credentials that a process of their own loads: a worker without Airflow and client libraries gets all it needs.

The rest of the tests here load credentials in this process, which is faster; both must come to the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from podrelay.errors import ConfigError
from podrelay_workers.kube import connection as kube_connection
from podrelay_workers.kube.client import PodClient
from podrelay_workers.kube.credentials import Credentials, load_credentials
from podrelay_workers.kube.loader_process import LoaderProcess
from podrelay_workers.kube.plain_configuration import PlainConfiguration
from podrelay_workers.kube.unbounded_call import kill_with_descendants
from tests.harness.api_door import Authority, Door, Json, ca, door, encoded, exec_user, plugin
from tests.harness.forked_loader import forked_loader
from tests.harness.waiting import until

Configure = Callable[..., None]


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 100))


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a worker, which never imports the client library."""
    monkeypatch.delitem(sys.modules, "kubernetes_asyncio")


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files are made."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


# --- every plain kind ---------------------------------------------------------------------------------------------------
def certificate_files(authority: Authority, folder: Path) -> Json:
    certificate, key = authority.issue("jane")
    return {"client-certificate": certificate.name, "client-key": str(key)}


def inline_certificate(authority: Authority, folder: Path) -> Json:
    certificate, key = authority.issue("jane")
    return {"client-certificate-data": encoded(certificate), "client-key-data": encoded(key)}


def plugins_certificate(authority: Authority, folder: Path) -> Json:
    certificate, key = authority.issue("jane")
    return exec_user(folder, {"clientCertificateData": certificate.read_text(), "clientKeyData": key.read_text()})


def token_file(authority: Authority, folder: Path) -> Json:
    (folder / "token").write_text("s3cret\n")
    return {"tokenFile": "token"}


KINDS: dict[str, tuple[Callable[[Authority, Path], Json], str]] = {
    "token": (lambda authority, folder: {"token": "s3cret"}, "s3cret"),
    "token file": (token_file, "s3cret"),
    "basic": (lambda authority, folder: {"username": "u", "password": "p"}, "Basic dTpw"),
    "certificate files": (certificate_files, "jane"),
    "inline certificate": (inline_certificate, "jane"),
    "plugin's token": (lambda authority, folder: exec_user(folder, {"token": "s3cret"}), "s3cret"),
    "plugin's certificate": (plugins_certificate, "jane"),
    "impersonation": (lambda authority, folder: {"token": "s3cret", "as": "eve", "as-groups": ["a", "b"]}, "s3cret"),
}

WORKER = """
import asyncio, sys
from podrelay_workers.kube.client import PodClient
from podrelay_workers.kube.loader_process import LoaderProcess
from podrelay_workers.runtime import logs

async def main():
    logs.configure(logs.LogOptions("DEBUG"))
    first = LoaderProcess(*map(int, sys.argv[1:])) if len(sys.argv) > 1 else None
    async with await PodClient.connect(first_load=first) as api:
        for _ in range(2):
            await api.get_pod("default", "a")

asyncio.run(main())
print(sorted(name for name in sys.modules if name.startswith(("airflow", "kubernetes"))))
"""
FORKS = f"""
import os, sys
import airflow.settings
from podrelay_workers.kube import credential_loader
from podrelay_workers.runtime.copies import copy_process
copy = copy_process(lambda link: credential_loader.answer_once(link, None), 1)
(descriptor,) = copy.descriptors
os.set_inheritable(descriptor, True)
os.execv(sys.executable, [sys.executable, "-c", {WORKER!r}, str(copy.pid), str(descriptor)])
"""


async def output_of(script: str) -> list[str]:
    """Lines on stdout and stderr, of the worker and its loader; both log at DEBUG."""
    command = [sys.executable, "-c", script]
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    assert b"s3cret" not in output and b"PRIVATE" not in output
    return output.decode().splitlines()


IGNORES_CHILDREN = f"""
import signal
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
{WORKER}"""


def test_a_supervisor_may_have_ignored_the_end_of_children(
    authority: Authority, configure: Configure, tmp_path: Path
) -> None:
    """The kernel then reaps them itself, and `waitpid` fails."""

    async def test() -> None:
        async with door(authority) as found:
            found.tokens = {"s3cret"}
            configure(found.port, ca(authority), {"token": "s3cret"})
            await output_of(IGNORES_CHILDREN)

    run(test)


@pytest.mark.parametrize("expiry", ["", "soon", None, 5])
def test_an_expiry_that_is_no_time_counts_as_none(
    authority: Authority, configure: Configure, tmp_path: Path, in_process: None, expiry: Any
) -> None:
    certificate, key = authority.issue("jane")
    status = {"clientCertificateData": certificate.read_text(), "clientKeyData": key.read_text()}

    async def test() -> None:
        async with door(authority) as found:
            configure(found.port, ca(authority), exec_user(tmp_path, {**status, "expirationTimestamp": expiry}))
            loaded = await asyncio.wait_for(load_credentials(first_load=forked_loader()), 30)
            assert loaded.renew_at_s == float("inf")

    run(test)


@pytest.mark.parametrize("kind", ["token file", "inline certificate", "plugin's token"])
def test_a_worker_imports_neither_airflow_nor_a_client_library(
    authority: Authority, configure: Configure, tmp_path: Path, temporary: Path, kind: str
) -> None:
    make, shown = KINDS[kind]

    async def test() -> None:
        async with door(authority) as server:
            server.tokens.add(shown)
            configure(server.port, ca(authority), make(authority, tmp_path))
            assert "[]" in await output_of(WORKER)
            assert server.shown == [shown, shown]

    run(test)
    assert not list(temporary.iterdir()), "what a kubeconfig holds stays in memory"


def test_a_loader_may_begin_before_the_worker(
    authority: Authority, configure: Configure, tmp_path: Path, temporary: Path
) -> None:
    async def test() -> None:
        async with door(authority) as server:
            configure(server.port, ca(authority), inline_certificate(authority, tmp_path))
            assert "[]" in await output_of(FORKS)
            assert server.shown == ["jane", "jane"]

    run(test)
    assert not list(temporary.iterdir())


@pytest.mark.usefixtures("in_process")
def test_where_no_file_can_be_in_memory_none_is_left(
    authority: Authority, configure: Configure, tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on macOS. The process that loads them has not ended by itself when it is killed."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "airflow_local_settings.py").write_text("import os\ndel os.memfd_create\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))

    async def test() -> None:
        async with door(authority) as server:
            configure(server.port, ca(authority), inline_certificate(authority, tmp_path))
            async with await PodClient.connect() as api:
                assert not list(temporary.iterdir())
                await api.get_pod("default", "a")
            assert server.shown == ["jane"]

    run(test)


@pytest.mark.parametrize("kind", KINDS)
def test_both_ways_come_to_the_same(
    authority: Authority, configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    make, _ = KINDS[kind]
    monkeypatch.setenv("AIRFLOW__KUBERNETES_EXECUTOR__KUBE_CLIENT_REQUEST_ARGS", '{"_request_timeout": [3, 9]}')
    cluster = {"tls-server-name": "kubernetes", "proxy-url": "http://127.0.0.1:3", "server": "https://127.0.0.1:1/x/"}
    configure(1, {**ca(authority), **cluster}, make(authority, tmp_path))

    def seen(found: Credentials) -> list[Any]:
        headers = asyncio.run(found.all_headers("agent", {"Accept": "a"}))
        limits = (found.connect_s, found.request_s, found.read_s, found.keepalive)
        tls: Any = found.tls
        trusts = tls.get_ca_certs(), tls.check_hostname, tls.verify_mode, tls.verify_flags
        text = repr(found)
        assert "s3cret" not in text and "PRIVATE" not in text
        return [found.host, headers, limits, found.request_options(), found.authority, found.impersonated, trusts]

    here = seen(asyncio.run(load_credentials()))
    other = asyncio.run(load_credentials(first_load=forked_loader()))
    assert isinstance(other.configuration, PlainConfiguration)
    assert seen(other) == here


@pytest.mark.parametrize("fault", ["missing", "context", "yaml", "proxy", "impersonation", "plugin"])
def test_both_ways_fail_in_the_same_words(
    authority: Authority, configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    users = {"impersonation": {"as-groups": ["g"]}, "plugin": exec_user(tmp_path, {})}
    cluster = {"proxy-url": "socks5://u:s3cret@127.0.0.1:1"} if fault == "proxy" else {}
    configure(1, {**ca(authority), **cluster}, users.get(fault, {"token": "t"}))
    if fault == "missing":
        (tmp_path / "kubeconfig").unlink()
    elif fault == "context":
        monkeypatch.setenv("AIRFLOW__KUBERNETES_EXECUTOR__CLUSTER_CONTEXT", "other")
    elif fault == "yaml":
        (tmp_path / "kubeconfig").write_text("{{{")

    def text(first_load: LoaderProcess | None = None) -> str:
        with pytest.raises(ConfigError) as caught:
            asyncio.run(load_credentials(first_load=first_load))
        return str(caught.value)

    here = text()
    assert text(forked_loader()) == here
    assert "s3cret" not in here


# --- renewal ------------------------------------------------------------------------------------------------------------
def in_cluster(monkeypatch: pytest.MonkeyPatch, folder: Path, port: int) -> Path:
    """A service account whose files are in `folder`, for the processes that are started."""
    local_settings = folder / "settings" / "airflow_local_settings.py"
    local_settings.parent.mkdir()
    local_settings.write_text(
        "from kubernetes_asyncio.config import incluster_config\n"
        f"incluster_config.SERVICE_TOKEN_FILENAME = {str(folder / 'token')!r}\n"
        f"incluster_config.SERVICE_CERT_FILENAME = {str(folder / 'ca.crt')!r}\n"
    )
    path = [str(local_settings.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
    monkeypatch.setenv("AIRFLOW__KUBERNETES_EXECUTOR__IN_CLUSTER", "True")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(port))
    return folder / "token"


@pytest.mark.parametrize("kind", ["service account", "token file"])
@pytest.mark.usefixtures("in_process")
def test_a_rotated_token_is_read_before_the_old_one_is_rejected(
    authority: Authority, configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    async def test() -> None:
        async with door(authority) as server:
            configure(server.port, ca(authority), token_file(authority, tmp_path))
            token = tmp_path / "token"
            if kind == "service account":
                in_cluster(monkeypatch, tmp_path, server.port)
            token.write_text("one")
            server.tokens = {"one", "two"}
            first_load = forked_loader() if kind == "token file" else None  # the other one has files of its own
            async with await PodClient.connect(first_load=first_load) as api:
                configuration = api._connection._access.credentials.configuration
                assert configuration.token_every_s == 60.0
                await api.get_pod("default", "a")
                token.write_text("two\n")
                await api.get_pod("default", "a")
                configuration.token_every_s = 0.0  # a minute later
                await api.get_pod("default", "a")
                token.unlink()  # as in the middle of a rotation
                await api.get_pod("default", "a")
                assert "cannot renew the credentials" in api.trouble
                token.write_text("one")
                await recovers(api, server, "one")
                assert not api.trouble
            assert server.shown[:4] == ["one", "one", "two", "two"]

    run(test)


@pytest.mark.usefixtures("in_process")
def test_a_rotated_client_certificate_is_read_after_a_rejection(
    authority: Authority, configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kube_connection, "RELOAD_WAIT_S", 30.0)

    async def test() -> None:
        async with door(authority) as server:
            configure(server.port, ca(authority), certificate_files(authority, tmp_path))
            async with await PodClient.connect(first_load=forked_loader()) as api:
                await api.get_pod("default", "a")
                server.rejected.add("jane")
                certificate, key = authority.issue("joan")
                certificate.rename(tmp_path / "jane.crt")
                key.rename(tmp_path / "jane.key")
                await api.get_pod("default", "a")
            assert server.shown == ["jane", "jane", "joan"]

    run(test)


@pytest.mark.usefixtures("in_process")
def test_a_plugins_token_is_renewed_before_it_expires(
    authority: Authority,
    configure: Configure,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(kube_connection, "RENEW_PAUSE_S", 0.1)

    def answer(token: str) -> Json:
        expiry = datetime.now(timezone.utc) + timedelta(minutes=10)
        return exec_user(tmp_path, {"token": token, "expirationTimestamp": expiry.isoformat()})

    async def test() -> None:
        async with door(authority) as server:
            server.tokens = {"one", "two"}
            configure(server.port, ca(authority), answer("one"))
            async with await PodClient.connect(first_load=forked_loader()) as api:
                credentials = api._connection._access.credentials
                assert 450 < credentials.renew_at_s - time.monotonic() < 540
                (tmp_path / "status.json").unlink()
                credentials.__dict__["renew_at_s"] = 0.0  # nine minutes later
                await api.get_pod("default", "a")
                await until(lambda: "Cannot reload" in caplog.text, 20, "the plugin fails")
                assert not api.trouble, "the token is still good"
                answer("two")
                while server.shown[-1] == "one":
                    await api.get_pod("default", "a")
                    await asyncio.sleep(0.1)
                assert not api.trouble
                assert api._connection._access.credentials.renew_at_s - time.monotonic() > 450
            assert set(server.shown) == {"one", "two"}

    run(test)


# --- a loader that hangs or dies ----------------------------------------------------------------------------------------
def hanging_plugin(folder: Path) -> Json:
    """It hangs while the file `hang` exists, and writes its process id to `pids`."""
    user = plugin(folder)
    path = Path(user["exec"]["command"])
    wait = f"while [ -e {folder}/hang ]; do sleep 1000 & wait; done"
    path.rename(folder / "prints")
    path = folder / "corp-login"
    path.write_text(f"#!/bin/sh\necho $$ >>{folder}/pids\n{wait}\nexec {folder}/prints\n")
    path.chmod(0o755)
    user["exec"]["command"] = str(path)
    (folder / "token").write_text("one")
    (folder / "hang").touch()
    return user


def running(folder: Path) -> list[int]:
    pids = [int(line) for line in (folder / "pids").read_text().split()] if (folder / "pids").exists() else []
    return [pid for pid in pids + children() if is_alive(pid)]


def children() -> list[int]:
    return [int(pid) for path in Path("/proc/self/task").glob("*/children") for pid in path.read_text().split()]


def loaders() -> list[int]:
    return [pid for pid in children() if b"credential_loader" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def is_alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.mark.usefixtures("in_process")
def test_a_plugin_that_hangs_is_named_and_waited_for(
    authority: Authority, configure: Configure, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = set(children())
    reported: list[str] = []

    async def test() -> None:
        async with door(authority) as server:
            server.tokens.add("one")
            configure(server.port, ca(authority), hanging_plugin(tmp_path))
            connecting = asyncio.ensure_future(PodClient.connect(on_wait=reported.append))
            await until(lambda: len(reported) >= 2, 40)
            assert not connecting.done()
            (tmp_path / "hang").unlink()
            async with await asyncio.wait_for(connecting, 20) as api:
                await api.get_pod("default", "a")
            await until(lambda: not set(running(tmp_path)) - before, 5, "nothing is left")

    run(test)
    assert f"config_file = {tmp_path}/kubeconfig runs corp-login, which has not returned" in reported[-1]
    assert len([record for record in caplog.records if "corp-login" in record.getMessage()]) == 1


@pytest.mark.usefixtures("in_process")
def test_a_start_that_is_stopped_leaves_no_process(authority: Authority, configure: Configure, tmp_path: Path) -> None:
    before = set(children())

    async def test() -> None:
        configure(1, ca(authority), hanging_plugin(tmp_path))
        connecting = asyncio.ensure_future(PodClient.connect())
        await until(lambda: (tmp_path / "pids").exists(), 40)
        connecting.cancel()
        await asyncio.wait({connecting})
        await until(lambda: not set(running(tmp_path)) - before, 5)

    run(test)


@pytest.mark.usefixtures("in_process")
def test_a_worker_that_is_killed_leaves_no_process(authority: Authority, configure: Configure, tmp_path: Path) -> None:
    before = set(children())

    async def test() -> None:
        configure(1, ca(authority), hanging_plugin(tmp_path))
        worker = await asyncio.create_subprocess_exec(sys.executable, "-c", WORKER, stderr=subprocess.DEVNULL)
        await until(lambda: (tmp_path / "pids").exists(), 40)
        worker.kill()
        await worker.wait()
        await until(lambda: not set(running(tmp_path)) - before, 15, "the loader notices, and ends the plugin")

    run(test)


@pytest.mark.usefixtures("in_process")
def test_a_loader_that_is_killed_is_started_again(
    authority: Authority, configure: Configure, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reported: list[str] = []

    async def test() -> None:
        async with door(authority) as server:
            server.tokens.add("one")
            configure(server.port, ca(authority), hanging_plugin(tmp_path))
            connecting = asyncio.ensure_future(PodClient.connect(on_wait=reported.append))
            await until(lambda: (tmp_path / "pids").exists(), 40)
            (tmp_path / "hang").unlink()
            for pid in loaders():
                kill_with_descendants(pid)
            async with await asyncio.wait_for(connecting, 40) as api:
                await api.get_pod("default", "a")

    run(test)
    assert "gave no answer (it ended with signal 9)" in caplog.text
    assert reported


@pytest.mark.usefixtures("in_process")
def test_while_a_loader_hangs_requests_go_on_with_the_old_token(
    authority: Authority, configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kube_connection, "RELOAD_PAUSE_S", 0.1)
    monkeypatch.setattr(kube_connection, "RELOAD_WAIT_S", 0.5)

    async def test() -> None:
        async with door(authority) as server:
            server.tokens.add("one")
            configure(server.port, ca(authority), hanging_plugin(tmp_path))
            (tmp_path / "hang").unlink()
            async with await PodClient.connect(first_load=forked_loader()) as api:
                await api.get_pod("default", "a")
                (tmp_path / "hang").touch()
                server.tokens = {"two"}
                began_s = time.monotonic()
                with pytest.raises(Exception, match="Unauthorized"):
                    await api.get_pod("default", "a")
                assert time.monotonic() - began_s < 3.0
                await until(lambda: "corp-login" in api.trouble, 40)
                server.tokens = {"one"}  # the server accepts it after all
                await api.get_pod("default", "a")
                server.tokens = {"two"}
                (tmp_path / "token").write_text("two")
                (tmp_path / "hang").unlink()
                await recovers(api, server, "two")
                assert not api.trouble

    run(test)


async def recovers(api: PodClient, server: Door, token: str) -> None:
    deadline_s = time.monotonic() + 20
    while server.shown[-1] != token:
        assert time.monotonic() < deadline_s
        with contextlib.suppress(Exception):
            await api.get_pod("default", "a")
        await asyncio.sleep(0.2)


# --- the headers of a request -------------------------------------------------------------------------------------------
def test_headers_are_one_list_until_something_changes(tmp_path: Path) -> None:
    async def test() -> None:
        configuration = PlainConfiguration("https://a", authorization="Bearer one")
        credentials = Credentials(configuration)
        first = await credentials.all_headers("agent", {"Accept": "a"})
        assert await credentials.all_headers("agent", {"Accept": "a"}) is first
        assert await credentials.all_headers("agent", {"Accept": "b"}) is not first
        configuration.authorization = "Bearer two"
        assert dict(await credentials.all_headers("agent", {"Accept": "a"}))["Authorization"] == "Bearer two"
        assert json.dumps(first) == json.dumps(
            [["User-Agent", "agent"], ["Accept", "a"], ["Authorization", "Bearer one"]]
        )

    run(test)
