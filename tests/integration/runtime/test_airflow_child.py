"""A question to a short-lived process that imports Airflow."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from podrelay.errors import ConfigError
from podrelay_workers.runtime import airflow_child
from podrelay_workers.runtime.airflow_child import AirflowCallFailed, ask_child


@pytest.fixture
def children() -> Callable[[], set[str]]:
    """Those that the test has started, zombies included: other tests in this process may keep a server."""

    def found() -> set[str]:
        return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())

    before = found()
    return lambda: found() - before


def open_sockets() -> int:
    links = (str(entry.readlink()) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink())
    return sum(link.startswith("socket:") for link in links)


def test_questions_and_answers_larger_than_a_socket_holds_at_once(children: Callable[[], set[str]]) -> None:
    assert ask_child("builtins:len", "x" * 3_000_000) == 3_000_000
    before = open_sockets()
    assert ask_child("builtins:sorted", list(range(500_000, 0, -1)))[-1] == 500_000
    assert (children(), open_sockets()) == (set(), before)


def test_what_is_printed_on_stdout_is_no_part_of_the_answer(capfd: pytest.CaptureFixture[str]) -> None:
    assert ask_child("builtins:print", "rubbish") is None
    out, err = capfd.readouterr()
    assert "rubbish" not in out
    assert "rubbish" in err


def test_an_error_of_podrelay_keeps_its_kind_and_its_text() -> None:
    with pytest.raises(ConfigError, match=r"\[podrelay\] redis_url"):
        ask_child("podrelay.redis_address:parse_redis_url", "http://elsewhere")


@pytest.mark.parametrize(
    ("function", "argument", "message"),
    [
        ("builtins:int", "x", "int failed: ValueError: invalid literal"),
        ("sys:exit", "no more", "exit failed: SystemExit: no more"),
        ("podrelay.no_such:thing", None, "thing failed: ModuleNotFoundError"),
        ("os:_exit", 3, "os:_exit gave no answer: its process ended early"),
        ("builtins:set", [1], "builtins:set returned what JSON cannot hold"),
    ],
)
def test_a_child_that_fails(children: Callable[[], set[str]], function: str, argument: object, message: str) -> None:
    with pytest.raises(AirflowCallFailed) as failed:
        ask_child(function, argument)
    assert message in str(failed.value)
    assert not children()


def test_a_child_that_hangs_is_killed(children: Callable[[], set[str]]) -> None:
    began_s = time.monotonic()
    with pytest.raises(AirflowCallFailed, match="time:sleep gave no answer within 4 s"):
        ask_child("time:sleep", 600, timeout_s=4.0)
    assert time.monotonic() - began_s < 20
    assert not children()


def test_a_child_that_is_killed() -> None:
    with pytest.raises(AirflowCallFailed, match="ended early"):
        ask_child("signal:raise_signal", signal.SIGKILL)


def test_nothing_secret_is_on_a_command_line_or_in_an_environment() -> None:
    secret = "hunter2-hunter2"
    lines = ask_child("subprocess:getoutput", f"cat /proc/$PPID/cmdline /proc/$PPID/environ | tr '\\0' ' '; : {secret}")
    assert "airflow_child" in lines
    assert secret not in lines


def test_a_program_of_the_child_does_not_inherit_the_socket() -> None:
    listed = ask_child("subprocess:getoutput", "ls -l /proc/self/fd")
    assert "socket:" not in listed


def test_it_is_called_here_where_airflow_is_loaded() -> None:
    assert airflow_child.airflow_is_loaded()
    assert airflow_child.ask("os:getpgid", 0) == os.getpgid(0)
