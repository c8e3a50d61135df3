"""The readiness probe reads what the processes of its own host recorded; it does not ask Redis."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from podrelay import health
from podrelay.cli.probe import probe
from podrelay.health import STALE_AFTER_S, ProcessHealth

NOW_S = 1000.0


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (ProcessHealth("watcher", None, 1, NOW_S - 1, NOW_S - 1), ""),
        (ProcessHealth("watcher", None, 1, NOW_S - STALE_AFTER_S - 1, NOW_S), "no reply from Redis for 16 s"),
        (ProcessHealth("watcher", None, 1, 0.0, NOW_S), "no reply from Redis yet"),
        (
            ProcessHealth("watcher", None, 1, NOW_S, NOW_S - STALE_AFTER_S - 1),
            "not responding: last update 16 s ago",
        ),
        (ProcessHealth("watcher", None, 1, NOW_S, NOW_S, "Unreachable (default)"), "Unreachable (default)"),
    ],
)
def test_why_a_process_is_not_ready(record: ProcessHealth, reason: str) -> None:
    assert record.why_not_ready(NOW_S) == reason


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def test_probe_reports_the_processes_of_one_kind_and_team() -> None:
    assert probe("launcher", None) == (False, "no launcher process on this host")
    health.write("launcher", None, time.time())
    assert probe("launcher", None) == (True, f"launcher {os.getpid()} is ready")
    assert probe("watcher", None)[0] is False
    assert probe("launcher", "a-team")[0] is False
    health.write("launcher", None, time.time() - 60)
    assert probe("launcher", None) == (False, f"launcher {os.getpid()} is not ready: no reply from Redis for 60 s")
    health.remove("launcher")
    assert probe("launcher", None) == (False, "no launcher process on this host")


def test_a_killed_process_is_not_reported(tmp_path: Path) -> None:
    code = "import time; from podrelay import health; health.write('watcher', None, time.time())"
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(tmp_path)}, check=True)
    (path,) = tmp_path.glob("podrelay-*/watcher-*.json")
    assert probe("watcher", None)[0] is False
    assert not path.exists()


def test_a_folder_behind_a_symlink_is_not_trusted(tmp_path: Path) -> None:
    health.write("watcher", None, time.time())
    (folder,) = tmp_path.glob("podrelay-*")
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    assert health.read("watcher", None) == []
