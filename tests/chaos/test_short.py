"""The harness itself, on few tasks and with generous limits: outcomes are judged here, not times."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.harness.local_cluster import ROOT
from tests.harness.redis_server import find_server


@pytest.mark.timeout(420)
def test_a_short_selection_holds() -> None:
    find_server()
    faults = ["kill-launchers", "kill-watchers", "redis-flushall", "api-lost-answers"]
    options = ["--tasks", "40", "--scale", "0.15", "--recover", "120", "--heartbeat", "30"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos", "--fault", *faults, *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
