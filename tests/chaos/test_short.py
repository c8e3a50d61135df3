"""The harness itself, on few tasks and with generous limits: outcomes are judged here, not times."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.harness.local_cluster import ROOT
from tests.harness.redis_server import find_server

FAULTS = ["kill-launchers", "kill-watchers", "redis-flushall", "api-lost-answers"]
WITH_WARM_PODS = ["kill-idle-pods", "cut-warm-pods-redis", "kill-launchers", "redis-flushall"]


@pytest.mark.timeout(420)
@pytest.mark.parametrize(("faults", "warm_pods"), [(FAULTS, 0), (WITH_WARM_PODS, 6)], ids=["cold", "warm"])
def test_a_short_selection_holds(faults: list[str], warm_pods: int) -> None:
    find_server()
    options = ["--tasks", "40", "--scale", "0.15", "--recover", "120", "--heartbeat", "30"]
    options += ["--warm-pods", str(warm_pods)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos", "--fault", *faults, *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
