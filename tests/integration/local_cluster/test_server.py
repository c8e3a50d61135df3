"""The server as a process: kubeconfig, signals, clean-up, and the data directory."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from podrelay_local_cluster.kubelet.reaper import groups_left
from podrelay_local_cluster.main import run_local_cluster
from tests.harness.cluster_api import NamespaceApi, held, pod, state
from tests.harness.local_cluster import ROOT, LocalCluster

STUBBORN = ("sh", "-c", "trap '' TERM; echo $$$$; sh -c 'trap \"\" TERM; echo $$$$; while :; do sleep 0.2; done'")


@pytest.fixture
def own(tmp_path: Path) -> Iterator[LocalCluster]:
    """A server for one test, with a data directory."""
    with LocalCluster(tmp_path / "files", data_dir=tmp_path / "data", namespaces="first,second") as cluster:
        yield cluster


def start_stubborn(api: NamespaceApi, name: str = "p") -> list[int]:
    """A pod of two processes that ignore SIGTERM; their ids."""
    api.create(pod(name, *STUBBORN))
    api.wait_phase(name, "Running")
    with api.client.stream("GET", f"{api.path}/{name}/log", params={"follow": "true"}) as response:
        lines = response.iter_lines()
        return [int(next(lines)), int(next(lines))]


def wait_dead(pids: list[int]) -> None:
    deadline = time.monotonic() + 10
    while any(_is_alive(pid) for pid in pids):
        assert time.monotonic() < deadline, f"still alive: {pids}"
        time.sleep(0.02)


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_kubeconfig(own: LocalCluster) -> None:
    assert stat.S_IMODE(own.kubeconfig.stat().st_mode) == 0o600
    config = json.loads(own.kubeconfig.read_text())
    assert config["contexts"][0]["context"]["namespace"] == "first"
    assert own.url.startswith("https://127.0.0.1:")
    assert len(own.token) >= 30
    names = {item["metadata"]["name"] for item in own.call("GET", "/api/v1/namespaces")["items"]}
    assert names == {"default", "first", "second", "kube-system"}
    assert own.token not in own.log_path.read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_every_process_and_exits_0(own: LocalCluster, number: int) -> None:
    pids = start_stubborn(NamespaceApi(own, "first"))
    assert own.process is not None
    own.process.send_signal(number)
    assert own.process.wait(15) == 0
    wait_dead(pids)
    assert own.kubeconfig.exists()


def test_sigkill_leaves_no_process(own: LocalCluster) -> None:
    pids = start_stubborn(NamespaceApi(own, "first"))
    own.kill()
    wait_dead(pids)


def test_forced_deletion_and_vanishing_leave_no_process(api: NamespaceApi) -> None:
    first, second = start_stubborn(api, "p"), start_stubborn(api, "q")
    api.delete("p", gracePeriodSeconds="0")
    api.cluster.vanish_pod(api.namespace, "q")
    wait_dead(first + second)


def test_temporary_files_are_removed_with_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    cluster = LocalCluster(tmp_path / "files")
    cluster.start()
    assert len(list(temporary.iterdir())) == 1
    assert cluster.stop() == 0
    assert list(temporary.iterdir()) == []


class TestDataDirectory:
    """The next server on the directory of a killed server."""

    def restarted(self, own: LocalCluster) -> NamespaceApi:
        url, token = own.url, own.token
        own.kill()
        own.start()
        assert (own.url, own.token) == (url, token)
        return NamespaceApi(own, "first")

    def test_objects_and_versions_are_kept(self, own: LocalCluster) -> None:
        api = NamespaceApi(own, "first")
        api.create(held("a", {"x": "y"}))
        kept = api.wait_scheduled("a")
        api.create(pod("b", "true"))
        done = api.wait_phase("b", "Succeeded")
        api.create(held("c"))
        api.cluster.vanish_pod("first", "c")
        version = int(api.version())
        api = self.restarted(own)
        assert api.names() == ["a", "b"]
        assert api.get("b") == done
        assert api.get("a")["metadata"]["uid"] == kept["metadata"]["uid"]
        assert int(api.version()) >= version
        made = api.create(held("d"))
        assert int(made["metadata"]["resourceVersion"]) > version
        with api.watch(resourceVersion=str(version - 1)) as events:
            assert next(events)["object"]["code"] == 410

    def test_process_lost_with_its_server(self, own: LocalCluster) -> None:
        api = NamespaceApi(own, "first")
        pids = start_stubborn(api)
        api.create(pod("again", "sleep", "60", restartPolicy="Always"))
        api.wait_phase("again", "Running")
        api = self.restarted(own)
        ended = state(api.wait_phase("p", "Failed"))["terminated"]
        assert (ended["exitCode"], ended["reason"]) == (137, "ContainerStatusUnknown")
        found = api.wait("again", lambda now: now["status"]["containerStatuses"][0]["restartCount"] == 1)
        assert found["status"]["containerStatuses"][0]["lastState"]["terminated"]["exitCode"] == 137
        wait_dead(pids)

    def test_deletion_in_progress_is_completed(self, own: LocalCluster) -> None:
        api = NamespaceApi(own, "first")
        start_stubborn(api)
        api.delete("p")
        api = self.restarted(own)
        with api.watch(timeoutSeconds="10", fieldSelector="metadata.name=p") as events:
            if api.names():
                assert any(event["type"] == "DELETED" for event in events)
        assert api.names() == []

    def test_simulated_pods_continue(self, tmp_path: Path) -> None:
        with LocalCluster(tmp_path, data_dir=tmp_path / "data", runner="simulate", namespaces="first") as own:
            api = NamespaceApi(own, "first")
            body = pod("p")
            body["metadata"]["annotations"] = {"local-cluster/duration-s": "0.5", "local-cluster/exit-code": "3"}
            api.create(body)
            api.wait_phase("p", "Running")
            found = self.restarted(own).wait_phase("p", "Failed")
            assert state(found)["terminated"]["exitCode"] == 3

    def test_incomplete_last_line_is_ignored(self, own: LocalCluster, tmp_path: Path) -> None:
        api = NamespaceApi(own, "first")
        api.create(held("a"))
        api.wait_scheduled("a")
        own.kill()
        with (tmp_path / "data" / "journal.jsonl").open("ab") as journal:
            journal.write(b'{"version": 99, "resource": "po')
        own.start()
        assert NamespaceApi(own, "first").names() == ["a"]

    def test_second_server_is_refused(self, own: LocalCluster, tmp_path: Path) -> None:
        second = LocalCluster(tmp_path / "second", data_dir=tmp_path / "data")
        with pytest.raises(RuntimeError, match="another local cluster uses"):
            second.start()


def run_command(*options: str) -> subprocess.CompletedProcess[str]:
    """The command with options with which it must end by itself."""
    command = [sys.executable, "-m", "podrelay_local_cluster", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "local_cluster")}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=20, check=False)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--port", "70000"], "--port must be between 0 and 65535"),
        (["--kubeconfig-out", "{tmp}/none/kubeconfig"], "the folder {tmp}/none does not exist"),
        (["--kubeconfig-out", "{tmp}"], "{tmp} is a folder"),
        (["--namespaces", "good,Not_Good"], "Not_Good"),
        (["--data-dir", "{tmp}/file"], "--data-dir {tmp}/file cannot be used"),
        (["--data-dir", "{tmp}/file/below"], "--data-dir {tmp}/file/below cannot be used"),
        (["--watch-window", "0"], "--watch-window must be at least 1"),
        (["--bookmark-interval-s", "nan"], "--bookmark-interval-s"),
        (["--pod-start-delay-s", "-1"], "--pod-start-delay-s must be a number of seconds from 0 to 3600: -1"),
        (["--pod-start-delay-s", "nan"], "--pod-start-delay-s must be a number of seconds from 0 to 3600: nan"),
    ],
)
def test_a_wrong_option_is_one_line(tmp_path: Path, options: list[str], text: str) -> None:
    (tmp_path / "file").touch()
    given = [word.replace("{tmp}", str(tmp_path)) for word in options]
    done = run_command("--kubeconfig-out", str(tmp_path / "kubeconfig"), *given)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert text.replace("{tmp}", str(tmp_path)) in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["file"], "nothing was made"


@pytest.mark.parametrize("kept", [False, True], ids=["by option", "kept in the data directory"])
def test_a_port_that_is_taken_is_one_line(tmp_path: Path, kept: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        options = ["--port", str(port)]
        if kept:
            (tmp_path / "identity.json").write_text(json.dumps({"port": port, "token": "12345678"}))
            options = ["--data-dir", str(tmp_path)]
        done = run_command("--kubeconfig-out", str(tmp_path / "kubeconfig"), *options)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use; select another --port" in done.stderr
    assert not (tmp_path / "kubeconfig").exists()


def test_invalid_command_line(tmp_path: Path) -> None:
    for options in (["--runner", "magic"], ["--token", "short"], []):
        done = run_command(*options)
        assert done.returncode == 2
        assert "usage:" in done.stderr
    with pytest.raises(ValueError, match="token"):
        run_local_cluster(0, tmp_path / "k", token="short")


def test_reaper_kills_groups_that_were_not_removed() -> None:
    assert groups_left(["+5\n", "+6\n", "-5\n", "+7\n"]) == {6, 7}
