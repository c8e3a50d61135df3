"""The simulated kubelet of the benchmark on a real API server without nodes: what a watch then sees."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.real_cluster.conftest import VARIABLE
from tests.real_cluster.server import Server, pod, until

pytestmark = pytest.mark.skipif(VARIABLE not in os.environ, reason="the local cluster runs its pods itself")
LABELS = {"kubernetes_executor": "True"}


@pytest.fixture
def kubelet(server: Server, environment: dict[str, str], tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    ready = tmp_path / "ready"
    given = ["--namespace", server.namespace, "--ready", str(ready)]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks.simulated_kubelet", *given], env=os.environ | environment
    )
    until(ready.exists)
    yield process
    process.kill()
    process.wait()


def create(server: Server, name: str, duration_s: float) -> None:
    body = pod(name, labels=LABELS, annotations={"local-cluster/duration-s": f"{duration_s}"})
    server.call("POST", server.pods_path, body)


def phase(server: Server, name: str) -> str:
    return str((server.get(name) or {"status": {"phase": "gone"}})["status"]["phase"])


def test_a_pod_runs_and_succeeds(server: Server, name: str, kubelet: subprocess.Popen[bytes]) -> None:
    create(server, name, 0.5)
    until(lambda: phase(server, name) == "Running")
    until(lambda: phase(server, name) == "Succeeded")
    found: Any = server.get(name)
    assert found["spec"]["nodeName"] == "simulated"
    server.call("DELETE", f"{server.pods_path}/{name}")
    assert phase(server, name) == "gone", "who deletes an ended pod removes it at once"


def test_a_pod_that_is_deleted_while_it_runs_ends_before_it_goes(
    server: Server, name: str, kubelet: subprocess.Popen[bytes]
) -> None:
    create(server, name, 600)
    until(lambda: phase(server, name) == "Running")
    server.call("DELETE", f"{server.pods_path}/{name}")
    until(lambda: phase(server, name) == "gone")


def test_a_signal_ends_all_running_pods(server: Server, name: str, kubelet: subprocess.Popen[bytes]) -> None:
    create(server, name, 600)
    until(lambda: phase(server, name) == "Running")
    kubelet.send_signal(signal.SIGUSR1)
    until(lambda: phase(server, name) == "Succeeded")
