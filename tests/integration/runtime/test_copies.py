"""Copies of a process that answer through sockets, also across the exec of what was copied."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from podrelay_workers.runtime.absent import absent

_FIRST = """
import os, sys
from podrelay_workers.runtime.copies import copy_process, print_to_stderr
from podrelay_workers.runtime.handover import hand_over
"""
# A worker that reads what a copy sends.
_WORKER = """
import os, socket, sys
from dataclasses import dataclass
from podrelay_workers.runtime.logs import LogOptions

@dataclass(frozen=True)
class Options:
    descriptor: int
    log: LogOptions = LogOptions()

def run(options):
    with socket.socket(fileno=options.descriptor) as link:
        inheritable = os.get_inheritable(options.descriptor)
        print(link.recv(100).decode(), "inheritable:", inheritable, "shown:", sys.argv[-1])
    return 3
"""
_ACROSS_EXEC = f"""{_FIRST}
from worker_of_this_test import Options

def answer(link):
    print_to_stderr()
    print("rubbish", flush=True)
    link.sendall(b"from the copy")
    return 0

copy = copy_process(answer, 1)
hand_over("worker_of_this_test", Options(*copy.descriptors), ("shown",), copy.descriptors)
"""


def run(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=os.environ | environment)


def test_a_copy_answers_the_program_that_replaces_the_process(tmp_path: Path) -> None:
    """And no program that this one starts has the socket."""
    (tmp_path / "worker_of_this_test.py").write_text(_WORKER)
    done = run(_ACROSS_EXEC, PYTHONPATH=str(tmp_path))
    assert done.returncode == 3, done.stderr
    assert done.stdout == "from the copy inheritable: False shown: shown\n"
    assert "rubbish" in done.stderr


@pytest.mark.parametrize(
    ("work", "status", "text"),
    [
        ("lambda link: 7", "7", ""),
        ("lambda link: sys.exit(5)", "5", ""),
        ("lambda link: sys.exit('text')", "1", ""),
        ("lambda link: 1 / 0", "1", "ZeroDivisionError"),
        ("lambda link: os.kill(os.getpid(), 2)", "-2", ""),
    ],
)
def test_how_a_copy_ends(work: str, status: str, text: str) -> None:
    """Ctrl-C ends it without a traceback."""
    done = run(
        f"{_FIRST}copy = copy_process({work}, 1)\nprint(os.waitstatus_to_exitcode(os.waitpid(copy.pid, 0)[1]))\n"
    )
    assert (done.stdout.split(), done.returncode) == ([status], 0), done.stderr
    assert (text in done.stderr) and bool(done.stderr) == bool(text)


def test_a_copy_whose_process_has_ended_ends_quietly() -> None:
    """The process under test gets what the copy prints: its pipes end when both have ended."""
    answer = "def answer(link):\n    time.sleep(0.3)\n    link.sendall(b'x')\n"
    done = run(f"{_FIRST}import time\n{answer}copy_process(answer, 1)\nos._exit(0)\n")
    assert (done.stdout, done.stderr) == ("", "")


def test_a_module_is_absent_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wanted_module.py").touch()
    (tmp_path / "user_module.py").write_text(
        "try:\n    import wanted_module\nexcept ImportError:\n    wanted_module = None\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with absent("wanted_module", "socket"):
        import user_module  # type: ignore[import-not-found]

        assert sys.modules["socket"] is socket, "it was loaded already"
    assert user_module.wanted_module is None
    import wanted_module  # type: ignore[import-not-found]

    assert wanted_module.__file__
    for name in ("user_module", "wanted_module"):
        del sys.modules[name]
