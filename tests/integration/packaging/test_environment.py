"""Launcher, watcher and dashboard run with what `docker/compose.yaml` gives them: no database, no key of Airflow's own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.harness.docker_files import KUBERNETES, service
from tests.harness.launcher_rig import LauncherRig
from tests.harness.local_cluster import LocalCluster
from tests.harness.redis_server import free_port

NAMESPACE = "airflow-tasks"
AIRFLOW = Path(sys.executable).with_name("airflow")


def wait_for(condition: Callable[[], Any], logs: Path, seconds: float = 60.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            pytest.fail("\n".join(path.read_text() for path in sorted(logs.glob("*.log"))))
        time.sleep(0.05)
    return value


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[LocalCluster]:
    with LocalCluster(tmp_path / "cluster", runner="simulate", namespaces=NAMESPACE) as cluster:
        yield cluster


@pytest.fixture
def rig(redis_url: str, cluster: LocalCluster, tmp_path: Path) -> LauncherRig:
    return LauncherRig.on_cluster(redis_url, cluster, tmp_path)


def environment_of(name: str, rig: LauncherRig) -> dict[str, str]:
    """The environment of a service in the compose file, with the addresses of this test and two writable folders."""
    here = {
        "AIRFLOW__PODRELAY__REDIS_URL": rig.settings.redis_url,
        "AIRFLOW__PODRELAY__FERNET_KEY": rig.key,
        "AIRFLOW__KUBERNETES_EXECUTOR__CONFIG_FILE": str(rig.kubeconfig),
        "AIRFLOW__KUBERNETES_EXECUTOR__POD_TEMPLATE_FILE": str(KUBERNETES / "base" / "pod_template.yaml"),
    }
    environment = {option: here.get(option, value) for option, value in service(name)["environment"].items()}
    for variable in ("AIRFLOW_HOME", "TMPDIR"):
        folder = rig.folder / name / variable
        folder.mkdir(parents=True, exist_ok=True)
        environment[variable] = str(folder)
    return {**environment, "PATH": os.environ["PATH"], "HOME": "/nonexistent"}


@contextmanager
def running(name: str, rig: LauncherRig, *words: str) -> Iterator[Path]:
    """A service of the compose file as a process; the folder with its two writable folders."""
    program, *rest = service(name)["command"]
    command = [str(AIRFLOW.with_name(program)), *rest, *words]
    with (rig.folder / f"{name}.log").open("w") as log:
        process = subprocess.Popen(command, env=environment_of(name, rig), cwd="/", stdout=log, stderr=log)
        try:
            yield rig.folder / name
        finally:
            process.terminate()
            code = process.wait(20)
    assert code in (0, -15), (rig.folder / f"{name}.log").read_text()


def command(name: str, rig: LauncherRig, *words: str) -> None:
    """A command of podrelay, typed in the container of a service."""
    ended = typed(name, rig, *words)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def typed(name: str, rig: LauncherRig, *words: str) -> subprocess.CompletedProcess[str]:
    line = [str(AIRFLOW), "podrelay", *words]
    return subprocess.run(line, env=environment_of(name, rig), cwd="/", capture_output=True, text=True, check=False)


def written(folder: Path) -> set[str]:
    """The files of a process, without its number."""
    pid = f"-{os.getuid()}"
    return {
        path.relative_to(folder).as_posix().replace(pid, "")
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".new"
    }


@pytest.mark.timeout(180)
def test_a_task_runs_from_its_launch_to_its_report(rig: LauncherRig) -> None:
    request = rig.request(
        namespace=NAMESPACE, pod_override={"metadata": {"annotations": {"local-cluster/duration-s": "0.2"}}}
    )
    rig.offer(request)
    with running("launcher", rig) as of_launcher, running("watcher", rig) as of_watcher:
        wait_for(lambda: rig.ledger(request).get("state") == "finished", rig.folder)
        for name in ("launcher", "watcher"):
            # A process writes every few seconds whether it is ready.
            wait_for(lambda name=name: typed(name, rig, "status", "--probe", name).returncode == 0, rig.folder)  # type: ignore[misc]
            command(name, rig, "check", "--process", name)
        files = {name for folder in (of_launcher, of_watcher) for name in written(folder)}
    assert [result.outcome for result in rig.results() if result.terminal] == ["succeeded"]
    assert rig.ledger(request)["namespace"] == NAMESPACE
    # Nothing else, and little: it fits into the small volumes of the manifests, and needs no disk.
    kinds = {"/".join(name.split("-")[0].split("/")) for name in files}
    assert kinds == {"AIRFLOW_HOME/airflow.cfg", "TMPDIR/podrelay/launcher", "TMPDIR/podrelay/watcher"}
    for folder in (of_launcher, of_watcher):
        assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 1024**2
        assert rig.key not in (folder / "AIRFLOW_HOME" / "airflow.cfg").read_text()


@pytest.mark.timeout(180)
def test_the_dashboard_needs_redis_only(rig: LauncherRig) -> None:
    pytest.importorskip("rq_dashboard")
    port = free_port()

    def shown() -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as page:
                return bool(page.status == 200)
        except urllib.error.HTTPError as error:
            return error.code == 401  # it asks for the login of the compose file
        except OSError:
            return False

    with running("rq-dashboard", rig, "--port", str(port)):
        wait_for(shown, rig.folder)
