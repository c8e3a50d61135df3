"""`make demo` leaves nothing behind, whatever moment it is stopped at."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from demo.processes import MARK

pytestmark = pytest.mark.timeout(120)
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("number", "at"), [(signal.SIGINT, "Redis and the local cluster"), (signal.SIGTERM, "launchers, watcher")]
)
def test_stopped_while_starting(number: signal.Signals, at: str, tmp_path: Path) -> None:
    demo = subprocess.Popen(
        [sys.executable, "-m", "demo.run"],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert demo.stdout is not None
    for line in demo.stdout:
        if at in line:
            break
    demo.send_signal(number)
    assert demo.wait(40) == 128 + number
    assert demo.stdout.read().splitlines() == ["stopped; nothing is left running"]
    assert list(tmp_path.iterdir()) == []
    assert _left(tmp_path) == []


def _left(home: Path) -> list[str]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK, "").startswith(str(home)):
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return found
