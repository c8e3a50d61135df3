"""What a probe says of the processes of its own host: they, and not Redis, are asked."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from podrelay import health
from podrelay.cli.status import probe
from podrelay.health import DEAF_AFTER_S, ProcessHealth

NOW_S = 1000.0


@pytest.mark.parametrize(
    ("heard", "word"),
    [
        (ProcessHealth("watcher", None, 1, NOW_S - 1, NOW_S - 1), ""),
        (ProcessHealth("watcher", None, 1, NOW_S - DEAF_AFTER_S - 1, NOW_S), "has not heard from Redis for 16 s"),
        (ProcessHealth("watcher", None, 1, 0.0, NOW_S), "has not reached Redis"),
        (ProcessHealth("watcher", None, 1, NOW_S, NOW_S - DEAF_AFTER_S - 1), "does not move"),
        (ProcessHealth("watcher", None, 1, NOW_S, NOW_S, "Unreachable (default)"), "Unreachable (default)"),
    ],
)
def test_deaf(heard: ProcessHealth, word: str) -> None:
    assert heard.deaf(NOW_S).startswith(word)
    assert bool(heard.deaf(NOW_S)) is bool(word)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def test_a_process_speaks_of_itself() -> None:
    assert probe("launcher", None) == (False, "no launcher runs here")
    health.write("launcher", None, time.time())
    assert probe("launcher", None) == (True, f"launcher {os.getpid()} is ready")
    assert probe("watcher", None)[0] is False
    assert probe("launcher", "a-team")[0] is False
    health.write("launcher", None, time.time() - 60)
    assert probe("launcher", None)[0] is False
    health.forget("launcher")
    assert probe("launcher", None) == (False, "no launcher runs here")


def test_one_that_was_killed_is_not_there(tmp_path: Path) -> None:
    code = "import time; from podrelay import health; health.write('watcher', None, time.time())"
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(tmp_path)}, check=True)
    (path,) = tmp_path.glob("podrelay-*/watcher-*.json")
    assert probe("watcher", None)[0] is False
    assert not path.exists()


def test_anothers_folder_is_not_believed(tmp_path: Path) -> None:
    health.write("watcher", None, time.time())
    (folder,) = tmp_path.glob("podrelay-*")
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    assert health.read("watcher", None) == []
