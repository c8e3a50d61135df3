"""Workers as users start them, by either command: they read Airflow's configuration, and work without Airflow in memory."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from podrelay.protocol.messages import LaunchRequest
from tests.harness.launcher_rig import TEMPLATE, LauncherRig
from tests.harness.local_cluster import LocalCluster
from tests.harness.waiting import until

pytestmark = pytest.mark.timeout(180)
# 65 MB here; more than 190 MB with Airflow and the models of Kubernetes.
LEAN_MB = 100
# Airflow imports it, and a compiled module shows among the mapped files of a process.
_OF_AIRFLOW = "pydantic_core"
HOOK = """
def pod_mutation_hook(pod):
    pod.metadata.annotations["hooked"] = "yes"
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with LocalCluster(tmp_path_factory.mktemp("cluster"), runner="simulate") as cluster:
        yield cluster


@pytest.fixture
def rig(redis_url: str, cluster: LocalCluster, tmp_path: Path) -> LauncherRig:
    return LauncherRig.on_cluster(redis_url, cluster, tmp_path)


Command = tuple[str, ...]
PODRELAY = (str(Path(sys.executable).with_name("podrelay")),)
AIRFLOW = (sys.executable, "-m", "airflow", "podrelay")
both_commands = pytest.mark.parametrize("command", [PODRELAY, AIRFLOW], ids=["podrelay", "airflow"])


class Worker:
    """`podrelay launcher` or `... watcher`, or the same by Airflow's command line. Its key comes from a command, so that
    neither arguments nor environment hold it.
    """

    def __init__(self, rig: LauncherRig, command: Command, role: str, **options: str) -> None:
        environment = rig.environment()
        key = rig.folder / "key"
        key.write_text(environment.pop("AIRFLOW__PODRELAY__FERNET_KEY"))
        environment["AIRFLOW__PODRELAY__FERNET_KEY_CMD"] = f"cat {key}"
        self.log_path = rig.folder / f"{role}.log"
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, role],
                env=os.environ | environment | options,
                stdout=subprocess.DEVNULL,
                stderr=log,
            )
        self.proc = Path(f"/proc/{self.process.pid}")

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    @property
    def memory_mb(self) -> float:
        return int(self.proc.joinpath("statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    @property
    def has_airflow(self) -> bool:
        return _OF_AIRFLOW in self.proc.joinpath("maps").read_text()

    @property
    def children(self) -> list[int]:
        return [int(pid) for pid in self.proc.joinpath(f"task/{self.process.pid}/children").read_text().split()]

    @property
    def local_sockets(self) -> int:
        known = {line.split()[6] for line in self.proc.joinpath("net/unix").read_text().splitlines()[1:]}
        targets = [str(entry.readlink()) for entry in self.proc.joinpath("fd").iterdir()]
        return sum(target.removeprefix("socket:[").removesuffix("]") in known for target in targets)

    async def ready(self, line: str) -> None:
        await until(lambda: line in self.log or self.process.poll() is not None, 60.0, line)
        assert self.process.poll() is None, self.log


@contextmanager
def worker(rig: LauncherRig, command: Command, role: str, **options: str) -> Iterator[Worker]:
    started = Worker(rig, command, role, **options)
    try:
        yield started
        started.process.terminate()
        assert started.process.wait(30) == 0, started.log
    finally:
        if started.process.poll() is None:
            started.process.kill()
            started.process.wait()


async def created(rig: LauncherRig, cluster: LocalCluster, request: LaunchRequest) -> dict[str, Any]:
    """The pod of a launch, once it exists."""
    rig.offer(request)
    await until(lambda: rig.ledger(request).get("state") in ("created", "finished"), 60.0, "a pod")
    entry = rig.ledger(request)
    assert entry["state"] == "created", rig.results()
    (pod,) = [pod for pod in cluster.pods() if pod["metadata"]["name"] == entry["pod"]]
    return pod


@both_commands
def test_a_launcher(rig: LauncherRig, cluster: LocalCluster, command: Command) -> None:
    """Without Airflow until a launch has a pod_override; then with it, under the same process id."""
    edited = TEMPLATE.replace("apache/airflow:3.3.2", "edited:1").replace("from: template", "from: edited")

    async def scenario(launcher: Worker) -> None:
        await launcher.ready(" serves ")
        plain = await created(rig, cluster, rig.request(key=("Dag é/ü", "t", "run:+", 3, 7)))
        assert plain["spec"]["containers"][0]["image"] == "apache/airflow:3.3.2"
        assert plain["metadata"]["labels"]["from"] == "template"
        rig.template.write_text(edited)
        other = await created(rig, cluster, rig.request())
        assert other["spec"]["containers"][0]["image"] == "edited:1"
        assert (other["metadata"]["labels"]["from"], other["metadata"]["labels"]["dag_id"]) == ("edited", "etl")
        assert not launcher.has_airflow
        assert launcher.memory_mb < LEAN_MB
        shown = launcher.proc.joinpath("cmdline").read_bytes() + launcher.proc.joinpath("environ").read_bytes()
        assert b"podrelay\0launcher" in shown
        assert rig.key.encode() not in shown
        assert rig.key not in launcher.log
        assert not launcher.children
        assert launcher.local_sockets == 2, "those with which asyncio wakes its loop"

        override = {
            "metadata": {"labels": {"team": "blue"}},
            "spec": {"containers": [{"name": "base", "image": "own:2"}]},
        }
        pod = await created(rig, cluster, rig.request(pod_override=override))
        assert pod["spec"]["containers"][0]["image"] == "own:2"
        assert (pod["metadata"]["labels"]["team"], pod["metadata"]["labels"]["from"]) == ("blue", "edited")
        assert launcher.has_airflow
        again = await created(rig, cluster, rig.request())
        assert again["spec"]["containers"][0]["image"] == "edited:1"

    with worker(rig, command, "launcher") as launcher:
        asyncio.run(scenario(launcher))
    lines = launcher.log.splitlines()
    assert "Airflow is loaded into this process" in launcher.log
    assert lines[-1].split()[2] == "INFO", "the log is the worker's, not Airflow's"


@both_commands
def test_a_watcher(rig: LauncherRig, command: Command) -> None:
    async def scenario(watcher: Worker) -> None:
        await watcher.ready("Leading")
        await asyncio.sleep(1.0)
        assert not watcher.has_airflow
        assert watcher.memory_mb < LEAN_MB
        assert not watcher.children
        assert b"podrelay\0watcher" in watcher.proc.joinpath("cmdline").read_bytes()

    with worker(rig, command, "watcher") as watcher:
        asyncio.run(scenario(watcher))


@both_commands
def test_a_hook_runs_in_a_launcher_that_keeps_airflow(
    rig: LauncherRig, cluster: LocalCluster, command: Command
) -> None:
    config = rig.folder / "airflow" / "config"
    config.mkdir(parents=True)
    config.joinpath("airflow_local_settings.py").write_text(HOOK)

    async def scenario(launcher: Worker) -> None:
        await launcher.ready(" serves ")
        pod = await created(rig, cluster, rig.request())
        assert pod["metadata"]["annotations"]["hooked"] == "yes"
        assert launcher.has_airflow
        assert not launcher.children
        assert b"podrelay\0launcher" in launcher.proc.joinpath("cmdline").read_bytes()

    with worker(rig, command, "launcher") as launcher:
        asyncio.run(scenario(launcher))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("spec: text", "Launches without their own pod template will fail: template or pod_override is not a pod"),
        ("spec: [", "Launches without their own pod template will fail: .* is not one YAML document, line 1"),
    ],
)
def test_a_template_that_is_no_pod_is_reported_at_start_and_mended_while_it_runs(
    rig: LauncherRig, cluster: LocalCluster, content: str, message: str
) -> None:
    rig.template.write_text(content)
    failing = rig.request()

    async def scenario(launcher: Worker) -> None:
        await launcher.ready("will fail")
        rig.offer(failing)
        await until(lambda: rig.ledger(failing).get("state") == "finished", 30.0)
        rig.template.write_text(TEMPLATE)
        await created(rig, cluster, rig.request())
        assert not launcher.has_airflow

    with worker(rig, PODRELAY, "launcher") as launcher:
        asyncio.run(scenario(launcher))
    (result,) = rig.results()
    assert result.reason == "InvalidPod"
    assert re.search(message, launcher.log)


@both_commands
def test_signals_while_it_starts_do_no_harm(rig: LauncherRig, command: Command) -> None:
    """Neither while Airflow is imported, nor between two interpreters."""
    with worker(rig, command, "launcher") as launcher:
        status = launcher.proc / "status"
        ignored = 1 << (signal.SIGHUP - 1) | 1 << (signal.SIGUSR1 - 1)

        def ignores() -> bool:
            (line,) = [line for line in status.read_text().splitlines() if line.startswith("SigIgn")]
            return int(line.split()[1], 16) & ignored == ignored

        asyncio.run(until(ignores, 30.0, "the command has begun"))
        while " serves " not in launcher.log and launcher.process.poll() is None:
            for number in (signal.SIGHUP, signal.SIGUSR1):
                os.kill(launcher.process.pid, number)
            time.sleep(0.002)
        time.sleep(0.3)
        assert launcher.process.poll() is None


@both_commands
def test_a_wrong_option_is_one_line_with_the_same_exit_code_wherever_it_is_found(
    rig: LauncherRig, command: Command
) -> None:
    wrong = {"AIRFLOW__PODRELAY__LAUNCH_LEASE_S": "0.1"}
    nowhere = {"AIRFLOW__KUBERNETES_EXECUTOR__CONFIG_FILE": "/nowhere/kubeconfig"}
    for options, text in ((wrong, "[podrelay] launch_lease_s = 0.1"), (nowhere, "config_file = /nowhere/kubeconfig")):
        for role in ("launcher", "watcher"):
            failed = Worker(rig, command, role, **options)
            assert failed.process.wait(60) == 2, failed.log
            last = failed.log.splitlines()[-1]
            assert last.startswith("podrelay: ")
            assert text in last
            assert "Traceback" not in failed.log
