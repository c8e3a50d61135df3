"""The command `podrelay` while a worker starts: signals, the end of the copy that reads the options, wrong words."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from tests.harness.launcher_rig import LauncherRig
from tests.harness.local_cluster import LocalCluster
from tests.harness.waiting import until
from tests.integration.launcher.test_without_airflow import PODRELAY, Worker, worker

_TASK_RUNNER = "airflow.sdk.execution_time.task_runner"
pytestmark = pytest.mark.timeout(180)
# Waits until it may go on, and reports that it has begun.
HANGS = 'touch "{folder}/begun"; while [ ! -e "{folder}/go" ]; do sleep 0.05; done; '


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with LocalCluster(tmp_path_factory.mktemp("cluster"), runner="simulate") as cluster:
        yield cluster


@pytest.fixture
def rig(redis_url: str, cluster: LocalCluster, tmp_path: Path) -> LauncherRig:
    return LauncherRig.on_cluster(redis_url, cluster, tmp_path)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def begun(rig: LauncherRig) -> bool:
    return (rig.folder / "begun").exists()


@contextmanager
def reading(rig: LauncherRig) -> Iterator[Worker]:
    """A launcher whose options are being read, until the file `go` exists."""
    key = rig.key
    script = rig.folder / "slow_key"
    script.write_text(f"#!/bin/sh\n{HANGS.format(folder=rig.folder)}echo {key}\n")
    script.chmod(0o755)
    started = Worker(rig, PODRELAY, "launcher", AIRFLOW__PODRELAY__FERNET_KEY_CMD=str(script))
    try:
        asyncio.run(until(lambda: begun(rig) or started.process.poll() is not None, 60.0, "the options are being read"))
        yield started
    finally:
        (rig.folder / "go").touch()
        if started.process.poll() is None:
            started.process.kill()
            started.process.wait()


@contextmanager
def loading(rig: LauncherRig, then: str) -> Iterator[Worker]:
    """A launcher whose credentials an exec plugin gives, after the file `go` exists."""
    kubeconfig = yaml.safe_load(rig.kubeconfig.read_text())
    plugin = rig.folder / "plugin"
    plugin.write_text(f"#!/bin/sh\necho $$ >>{rig.folder}/plugins\n{HANGS.format(folder=rig.folder)}{then}\n")
    plugin.chmod(0o755)
    version = "client.authentication.k8s.io/v1"
    user = {"exec": {"apiVersion": version, "command": str(plugin), "interactiveMode": "Never"}}
    for entry in kubeconfig["users"]:
        entry["user"] = user
    path = rig.folder / "exec.kubeconfig"
    path.write_text(yaml.safe_dump(kubeconfig))
    started = Worker(rig, PODRELAY, "launcher", AIRFLOW__KUBERNETES_EXECUTOR__CONFIG_FILE=str(path))
    try:
        asyncio.run(until(lambda: begun(rig) or started.process.poll() is not None, 60.0, "the plugin runs"))
        yield started
    finally:
        (rig.folder / "go").touch()
        if started.process.poll() is None:
            started.process.kill()
            started.process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_the_options_are_read(rig: LauncherRig, number: signal.Signals) -> None:
    """It ends at once and without a word; the copy ends when it is about to answer."""
    with reading(rig) as launcher:
        (copy,) = launcher.children
        launcher.process.send_signal(number)
        assert launcher.process.wait(10) == -number
        (rig.folder / "go").touch()
        asyncio.run(until(lambda: not alive(copy), 30.0, "the copy has ended"))
        assert launcher.log == ""


def test_a_signal_while_the_credentials_are_loaded(rig: LauncherRig) -> None:
    """It ends with 0, and leaves neither the copy nor the plugin."""
    with loading(rig, "exit 1") as launcher:
        asyncio.run(until(lambda: bool(launcher.children), 10.0))
        plugins = [int(pid) for pid in (rig.folder / "plugins").read_text().split()]
        others = [*launcher.children, *plugins]
        assert len(others) >= 2
        launcher.process.terminate()
        assert launcher.process.wait(30) == 0, launcher.log
        asyncio.run(until(lambda: not any(map(alive, others)), 10.0, "nothing is left"))
        assert "Traceback" not in launcher.log


def test_the_copy_is_killed_while_it_reads(rig: LauncherRig) -> None:
    with reading(rig) as launcher:
        (copy,) = launcher.children
        os.kill(copy, signal.SIGKILL)
        assert launcher.process.wait(30) == 1
        assert re.fullmatch(r"podrelay: the process that reads .* but ended with signal 9\..*\n", launcher.log)


def test_the_copy_is_killed_while_it_loads_credentials(rig: LauncherRig) -> None:
    """Others load them, and prove the template if need be."""
    token = '{"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": "t"}}'
    with loading(rig, f"echo '{token}'") as launcher:
        (copy,) = launcher.children
        os.kill(copy, signal.SIGKILL)
        (rig.folder / "go").touch()
        asyncio.run(launcher.ready(" serves "))
        asyncio.run(until(lambda: not launcher.children, 30.0, "no zombie is left"))
        assert not launcher.has_airflow
        launcher.process.terminate()
        assert launcher.process.wait(30) == 0, launcher.log


def test_local_settings_that_need_the_task_runner(rig: LauncherRig) -> None:
    """They are imported by another copy, which imports all of Airflow."""
    config = rig.folder / "airflow" / "config"
    config.mkdir(parents=True)
    imported = rig.folder / "imported"
    config.joinpath("airflow_local_settings.py").write_text(
        f"import sys\nseen = open({str(imported)!r}, 'ab', 0)\n"
        f"seen.write(str(sys.modules.get({_TASK_RUNNER!r}, 'absent')).encode() + b' ')\n"
        "from airflow.sdk.execution_time import task_runner\nseen.write(task_runner.__name__.encode())\n"
    )
    with worker(rig, PODRELAY, "launcher") as launcher:
        asyncio.run(launcher.ready(" serves "))
        assert not launcher.has_airflow
        assert not launcher.children
    assert imported.read_text() == f"None absent {_TASK_RUNNER}"


def test_airflow_is_imported_without_the_task_runner_for_a_while(tmp_path: Path) -> None:
    """Code of users may import it later. libcst is what it takes most of its time for."""
    code = (
        "import importlib, sys\nfrom podrelay_workers import command\nassert command._import_airflow_quickly()\n"
        "print('libcst' in sys.modules, 'airflow.settings' in sys.modules)\n"
        "print(importlib.import_module(command._TASK_RUNNER).__name__)"
    )
    environment = os.environ | {"AIRFLOW_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["False", "True", _TASK_RUNNER], done.stderr


def test_airflow_that_cannot_be_imported(rig: LauncherRig) -> None:
    config = rig.folder / "airflow" / "config"
    config.mkdir(parents=True)
    config.joinpath("airflow_local_settings.py").write_text("raise RuntimeError('of the user')\n")
    failed = Worker(rig, PODRELAY, "watcher")
    assert failed.process.wait(60) == 1
    lines = failed.log.splitlines()
    assert lines[-2] == "RuntimeError: of the user"
    assert lines[-1].startswith("podrelay: the process that reads Airflow's configuration gave no answer")


def test_a_supervisor_that_ignores_the_end_of_children(rig: LauncherRig) -> None:
    """The exit code does not depend on how this process learns of the copy's end."""
    run = f"os.execv({PODRELAY[0]!r}, {[*PODRELAY, 'launcher']!r})"
    code = f"import os, signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN); {run}"
    environment = os.environ | rig.environment() | {"AIRFLOW__PODRELAY__LAUNCH_LEASE_S": "0.1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "[podrelay] launch_lease_s = 0.1" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        ([], 2, "the following arguments are required: COMMAND"),
        (["foo"], 2, "invalid choice: 'foo'"),
        (["--help"], 0, "Run, check and inspect podrelay"),
        (["launcher", "--help"], 0, "Name of a team, with core.multi_team"),
        (["launcher", "--port", "1"], 2, "unrecognized arguments: --port 1"),
        (["watcher", "red"], 2, "unrecognized arguments: red"),
        (["watcher", "--team", "\udcff"], 2, "is no text in UTF-8"),
        (["status", "--interval", "0"], 2, "is no number above zero"),
    ],
)
def test_words(words: list[str], code: int, text: str, tmp_path: Path) -> None:
    """What is no worker is a command of `airflow podrelay`, with its help and its errors."""
    environment = os.environ | {"AIRFLOW_HOME": str(tmp_path)}
    command = [os.fsencode(word) for word in (*PODRELAY, *words)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, text in done.stdout + done.stderr) == (code, True), done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("role", ["launcher", "watcher"])
def test_the_modules_of_both_workers_can_still_be_started_by_name(role: str) -> None:
    command = [sys.executable, "-m", f"podrelay_workers.{role}", "--wrong"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"usage: podrelay {role} ")
