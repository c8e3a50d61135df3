"""The readiness probe reads what the processes of its own host recorded; it does not ask Redis."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from podrelay import health
from podrelay.cli.probe import main, probe
from podrelay.health import STALE_AFTER_S, ProcessHealth
from podrelay.settings import Settings

NOW_S = 1000.0
HERE = "here"


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
    assert probe("launcher", None, HERE) == (False, "no launcher process on this host")
    health.write("launcher", None, HERE, time.time())
    assert probe("launcher", None, HERE) == (True, f"launcher {os.getpid()} is ready")
    assert probe("watcher", None, HERE)[0] is False
    assert probe("launcher", "a-team", HERE)[0] is False
    health.write("launcher", None, HERE, time.time() - 60)
    assert probe("launcher", None, HERE) == (
        False,
        f"launcher {os.getpid()} is not ready: no reply from Redis for 60 s",
    )
    health.remove("launcher")
    assert probe("launcher", None, HERE) == (False, "no launcher process on this host")


def test_a_killed_process_is_not_reported(tmp_path: Path) -> None:
    code = "import time; from podrelay import health; health.write('watcher', None, 'here', time.time())"
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(tmp_path)}, check=True)
    (path,) = tmp_path.glob("podrelay-*/watcher-*.json")
    assert probe("watcher", None, HERE)[0] is False
    assert not path.exists()


def test_a_folder_behind_a_symlink_is_not_trusted(tmp_path: Path) -> None:
    health.write("watcher", None, HERE, time.time())
    (folder,) = tmp_path.glob("podrelay-*")
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    assert health.read("watcher", None, HERE) == []


def test_a_process_of_another_deployment_is_not_reported() -> None:
    health.write("launcher", None, "elsewhere", time.time())
    assert probe("launcher", None, HERE) == (False, "no launcher process on this host")
    assert probe("launcher", None, "elsewhere")[0] is True


def test_a_deployment_is_its_name_on_its_redis_whatever_the_password() -> None:
    def place(url: str = "redis://localhost:6379/0", deployment: str = "default", **more: Any) -> str:
        return Settings(url, "key", deployment, **more).place

    assert place("redis://user:secret@localhost:6379/0?timeout=1") == place()
    assert place("redis://:ab@PART/x@localhost:6379/0") == place()
    others = [
        place("redis://localhost:6380/0"),
        place("redis://localhost:6379/1"),
        place("unix:///run/redis.sock"),
        place(deployment="staging"),
        place(redis_sentinels=(("sentinel", 26379),), redis_sentinel_master="mymaster"),
    ]
    assert len({place(), *others}) == 6


# --- podrelay-probe ---------------------------------------------------------------------------------------------------
def test_the_command_prints_one_line_and_exits_with_the_state(capsys: pytest.CaptureFixture[str]) -> None:
    def answer(*words: str) -> tuple[int, str]:
        return main(words), capsys.readouterr().out

    assert answer("launcher") == (1, "no launcher process on this host\n")
    health.write("launcher", None, f"staging-{'0' * 12}", time.time())
    assert answer("launcher") == (0, f"launcher {os.getpid()} is ready\n")
    assert answer("launcher", "--deployment", "staging") == answer("launcher")
    assert answer("launcher", "--deployment", "default")[0] == 1
    assert answer("launcher", "--team", "red")[0] == 1
    assert answer("watcher")[0] == 1
    health.write("launcher", None, HERE, time.time(), "the kubeconfig is gone")
    assert answer("launcher") == (1, f"launcher {os.getpid()} is not ready: the kubeconfig is gone\n")
    with pytest.raises(SystemExit) as ended:
        main(["scheduler"])
    assert ended.value.code == 2


def test_the_command_imports_nothing_but_the_standard_library() -> None:
    """Airflow takes a second of CPU time to import, and kubelets probe every few seconds."""
    code = "import sys; known = set(sys.modules); import podrelay.cli.probe; print(*set(sys.modules) - known)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = {name.partition(".")[0] for name in done.stdout.split()}
    assert imported - sys.stdlib_module_names == {"podrelay"}
    assert imported & {"asyncio", "logging", "socket"} == set()
