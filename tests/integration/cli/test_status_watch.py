"""`airflow podrelay status --watch`, typed at a terminal and in a pipe."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.redis_server import RedisServer

AIRFLOW = Path(sys.executable).with_name("airflow")
OPENS, LEAVES = b"\x1b[?1049h", b"\x1b[?1049l"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RedisServer]:
    with RedisServer(tmp_path) as server:
        monkeypatch.setenv("AIRFLOW__PODRELAY__REDIS_URL", server.url)
        yield server


def line(*words: str) -> list[str]:
    return [str(AIRFLOW), "podrelay", "status", "--watch", "--interval", "0.3", *words]


class Screen:
    """What a terminal has received."""

    def __init__(self, end: int) -> None:
        self._end = end
        self.received = b""

    def until(self, text: bytes, times: int = 1) -> None:
        deadline = time.monotonic() + 30
        while self.received.count(text) < times:
            assert time.monotonic() < deadline, self.received.decode("utf-8", "replace")
            self.received += os.read(self._end, 65536)


def test_a_terminal_shows_the_present_state_until_ctrl_c(server: RedisServer) -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(line(), stdin=theirs, stdout=theirs, stderr=theirs) as process:
        screen = Screen(ours)
        screen.until(b"launchers: none", times=2)
        assert OPENS in screen.received
        server.kill()
        screen.until(b"Redis unavailable; trying again every 0.3 s")
        server.start()
        screen.until(b"launchers: none", times=screen.received.count(b"launchers: none") + 1)
        process.send_signal(signal.SIGINT)
        screen.until(LEAVES)
        assert process.wait(20) == 0
    os.close(ours)
    os.close(theirs)
    assert b"Traceback" not in screen.received


def test_a_pipe_gets_one_reading_after_the_other_until_it_is_closed(server: RedisServer) -> None:
    with subprocess.Popen(line("--json"), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        found = [json.loads(process.stdout.readline()) for _ in range(2)]
        assert [one["ok"] for one in found] == [False, False]
        process.stdout.close()
        assert process.wait(20) == 0
        assert process.stderr.read() == b""


def test_text_in_a_pipe_has_no_escape_sequences(server: RedisServer) -> None:
    with subprocess.Popen(line(), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(35)]
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert lines.count(b"launchers: none  <- start one: airflow podrelay launcher\n") >= 2
    assert b"\x1b" not in b"".join(lines)
