"""Processes of an earlier build of podrelay, from the repository's own history, beside today's."""

from __future__ import annotations

import compileall
import contextlib
import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.harness.local_cluster import ROOT

# The last build before messages of an unknown format were kept, and before launchers and watcher wrote snapshots.
COMMIT = "2872d3a0d7903a21a9e910ac4082cefd3602793b"
_PARTS = ("executor", "workers", "tests/__init__.py", "tests/chaos", "tests/harness")
_MEMBER = """
import os, sys
import podrelay, podrelay_workers
from tests.chaos.fork_server import _become
print("podrelay from", podrelay.__file__, podrelay_workers.__file__, flush=True)
_become(sys.argv[1], os.environ, sys.argv[2])
"""


def unpack(folder: Path) -> Path:
    """The tree of that build. Without history the test is skipped, and fails in CI."""
    command = ["git", "-C", str(ROOT), "archive", COMMIT, *_PARTS]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        reason = f"the repository's history lacks {COMMIT[:7]}: {done.stderr.decode().strip()}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")
    # Once, instead of in each process.
    compileall.compile_dir(folder, quiet=2)
    return folder


class EarlierProcess:
    """A launcher, watcher or driver of that build; with the calls of a process of `multiprocessing` that a rig makes."""

    def __init__(self, tree: Path, role: str, environment: Mapping[str, str], log: Path) -> None:
        path = os.pathsep.join(str(tree / name) for name in ("executor", "workers", "."))
        command = [sys.executable, "-c", _MEMBER, role, str(log)]
        changes = {**environment, "PYTHONPATH": path}
        with log.open("a") as file:
            self._process = subprocess.Popen(command, cwd=tree, env={**os.environ, **changes}, stdout=file, stderr=file)
        self.pid = self._process.pid

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def join(self, timeout: float | None = None) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout)
