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
from podrelay.protocol import identifiers
from tests.end_to_end.stack_rig import Run, StackRig

pytestmark = pytest.mark.timeout(600)

# The beginning of a signed token: {"alg": in base64.
_TOKEN = re.compile(rb"eyJ[\w-]{10,}")
_HOST = re.compile(rb"(?:^|\0)HOSTNAME=([^\0]*)")
_PAUSE_S = 0.02


class Scan:
    """Looks for tokens in pod objects and command lines, again and again, and remembers by launch what it saw: pods of
    earlier tests, in any namespace, may still run beside those of the test.
    """

    def __init__(self, rig: StackRig) -> None:
        # Launch ids: with a pod, with a process that was about to read its workload, and with a token in either.
        self.pods: set[str] = set()
        self.processes: set[str] = set()
        self.found: dict[str, set[str]] = {"pod": set(), "command line": set()}
        self.secrets = 0
        self._rig = rig

    def once(self) -> None:
        for pod in self._rig.pods():
            launch_id = pod["metadata"]["labels"][identifiers.LABEL_LAUNCH_ID]
            self.pods.add(launch_id)
            self._look("pod", launch_id, json.dumps(pod).encode())
        listed = self._rig.cluster.call("GET", f"/api/v1/namespaces/{NAMESPACE}/secrets")["items"]
        self.secrets = max(self.secrets, len(listed))
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):  # a process may end meanwhile
                words = path.read_bytes()
                if b"execute_workload" in words:
                    self._look_at_process(words, path.with_name("environ").read_bytes())

    def _look_at_process(self, words: bytes, environment: bytes) -> None:
        host = _HOST.search(environment)
        launch = identifiers.launch_of_pod(host[1].decode()) if host else None
        if launch is not None:
            self.processes.add(launch[0])
            self._look("command line", launch[0], words)

    def _look(self, where: str, launch_id: str, text: bytes) -> None:
        if _TOKEN.search(text):
            self.found[where].add(launch_id)


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


def scanned(rig: StackRig, dag_id: str, **conf: int) -> tuple[Scan, Run, set[str]]:
    """What was seen during a run, the run, and its launches."""
    with scanning(rig) as scan:
        run = rig.trigger(dag_id, **conf)
        assert run.finish() == "success"
        run.settle()
    launched = {launch.launch_id for launch in run.launches()}
    assert launched
    assert launched <= scan.pods, "each pod was looked at"
    assert launched & scan.processes
    return scan, run, launched


def test_no_pod_and_no_command_line_shows_a_token(secret_rig: StackRig) -> None:
    scan, run, launched = scanned(secret_rig, "shapes")
    assert {where: launch_ids & launched for where, launch_ids in scan.found.items()} == {
        "pod": set(),
        "command line": set(),
    }
    assert scan.secrets
    assert all(count == 1 for count in run.pods_made().values())
    left = secret_rig.cluster.call("GET", f"/api/v1/namespaces/{NAMESPACE}/secrets")["items"]
    assert left == [], "each Secret went with its pod"


def test_without_the_option_the_scan_finds_each_token(rig: StackRig) -> None:
    scan, _, launched = scanned(rig, "spread", count=3)
    assert launched <= scan.found["pod"]
    assert launched & scan.processes <= scan.found["command line"]
