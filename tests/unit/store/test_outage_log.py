"""One line for each cause, a reminder every minute, and one line when it is over."""

from __future__ import annotations

import logging

import pytest
import redis.exceptions as errors

from podrelay.store import outage_log
from podrelay.store.connection import unavailable
from podrelay.store.outage_log import QUIET_S, REMIND_S, OutageLog

DOWN = errors.ConnectionError("Error 111 connecting to localhost:1")
SLOW = errors.TimeoutError("Timeout reading from socket")
PASSWORD = errors.AuthenticationError("invalid username-password pair or user is disabled.")
FULL = errors.OutOfMemoryError("command not allowed when used memory > 'maxmemory'.")
FULL_IN_SCRIPT = errors.ResponseError(
    "Error running script (call to f_1): @user_script:1: -OOM command not allowed when used memory > 'maxmemory'."
)
DENIED = errors.NoPermissionError("this user has no permissions to run the 'xadd' command")


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(outage_log, "time", clock)
    return clock


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record.getMessage() for record in caplog.records]
    caplog.clear()
    return found


def test_one_line_for_each_change_of_cause_and_a_reminder(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    outages = OutageLog(logging.getLogger("test"), "Work is kept.")
    for error in (DOWN, DOWN, PASSWORD, PASSWORD, SLOW, DOWN):
        outages.failed(unavailable(error))
    first, second, third, fourth = lines(caplog)
    assert "Error 111" in first
    assert first.endswith("Work is kept.")
    assert "rejects the user or password" in second
    assert "Timeout" in third
    assert "Error 111" in fourth
    clock.now_s += REMIND_S - 1
    outages.failed(unavailable(DOWN))
    assert lines(caplog) == []
    clock.now_s += 1
    outages.failed(unavailable(DOWN))
    assert len(lines(caplog)) == 1
    outages.worked()
    outages.worked()
    assert lines(caplog) == ["Redis is available again."]


@pytest.mark.parametrize("error", [FULL, FULL_IN_SCRIPT, DENIED])
def test_a_refusal_is_over_only_when_nothing_met_it_for_a_while(
    clock: Clock, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    outages = OutageLog(logging.getLogger("test"), "")
    for _ in range(10):
        outages.failed(unavailable(error))
        outages.worked()
    assert len(lines(caplog)) == 1
    clock.now_s += QUIET_S
    outages.worked()
    assert lines(caplog) == ["Redis is available again."]


def test_a_full_redis_has_one_cause_whoever_says_so() -> None:
    assert {unavailable(error).cause for error in (FULL, FULL_IN_SCRIPT)} == {"full"}
    in_script = errors.ResponseError("The user executing the script can't run this command or subcommand")
    assert unavailable(in_script).cause == unavailable(DENIED).cause
