"""A whole Airflow whose launchers keep the token of a task out of its pod."""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from demo.stack import NAMESPACE
from tests.end_to_end.stack_rig import StackRig

pytestmark = pytest.mark.timeout(600)

# The beginning of a signed token: {"alg": in base64.
_TOKEN = re.compile(rb"eyJ[\w-]{10,}")
_PAUSE_S = 0.02


class Scan:
    """Looks for tokens in pod objects and command lines, again and again; not in those of pods that other tests left."""

    def __init__(self, rig: StackRig) -> None:
        self.found: set[str] = set()
        self.pods: set[str] = set()
        self.tasks = self.secrets = 0
        self._rig = rig
        self._home = str(rig.stack.home).encode()
        self._others = {pod["metadata"]["name"] for pod in rig.pods()}

    def once(self) -> None:
        for pod in self._rig.pods():
            if pod["metadata"]["name"] in self._others:
                continue
            self.pods.add(pod["metadata"]["name"])
            self._look(f"pod {pod['metadata']['name']}", json.dumps(pod).encode())
        listed = self._rig.cluster.call("GET", f"/api/v1/namespaces/{NAMESPACE}/secrets")["items"]
        self.secrets = max(self.secrets, len(listed))
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            # A process may end meanwhile, and other stacks of this machine may show their tokens.
            with contextlib.suppress(OSError):
                words, environment = path.read_bytes(), path.with_name("environ").read_bytes()
                of_others = any(f"HOSTNAME={name}\0".encode() in environment for name in self._others)
                if b"execute_workload" in words and self._home in environment and not of_others:
                    self.tasks += 1
                    self._look(f"process {path.parent.name}", words)

    def _look(self, where: str, text: bytes) -> None:
        if _TOKEN.search(text):
            self.found.add(where)


@contextmanager
def scanning(rig: StackRig) -> Iterator[Scan]:
    scan, stop = Scan(rig), threading.Event()

    def run() -> None:
        while not stop.wait(_PAUSE_S):
            scan.once()

    thread = threading.Thread(target=run, name="scan")
    thread.start()
    try:
        yield scan
    finally:
        stop.set()
        thread.join()


@pytest.fixture
def secret_rig(rig: StackRig) -> Iterator[StackRig]:
    """The same stack, with launchers that use the option."""
    processes = rig.stack.processes
    names = list(rig.stack.launchers)
    for name in names:
        processes.kill(name)
        rig.stack.start_launcher(name, {"AIRFLOW__PODRELAY__WORKLOAD_IN_SECRET": "True"})
    yield rig
    for name in names:
        processes.kill(name)


def test_no_pod_and_no_command_line_shows_a_token(secret_rig: StackRig) -> None:
    with scanning(secret_rig) as scan:
        run = secret_rig.trigger("shapes")
        assert run.finish() == "success"
        run.settle()
    assert scan.found == set()
    launched = {launch.pod for launch in run.launches()}
    assert launched
    assert launched <= scan.pods, "each pod was looked at"
    assert scan.tasks
    assert scan.secrets
    assert all(count == 1 for count in run.pods_made().values())
    left = secret_rig.cluster.call("GET", f"/api/v1/namespaces/{NAMESPACE}/secrets")["items"]
    assert left == [], "each Secret went with its pod"
