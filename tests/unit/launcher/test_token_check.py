"""A token is renewed before it ends, and a launch whose tokens never last pauses."""

from __future__ import annotations

import base64
import json

import pytest

from podrelay import compat
from podrelay.protocol.messages import LaunchRequest
from podrelay_workers.launcher.token_check import explain, is_token_ending, renewal_pause_s

NOW_S = 1_000_000.0
MARGIN_S = 60.0
REQUEST = LaunchRequest("l", 0, "task", subject="s", key=(), owner="1", args=())


def request(life_s: float, left_s: float, attempt: int = 0) -> LaunchRequest:
    return REQUEST.replaced(attempt=attempt, not_after_s=NOW_S + left_s, token_life_s=life_s)


@pytest.mark.parametrize("life_s", [1.0, 5.0, 59.0, 60.0, 61.0, 600.0, 86400.0])
def test_a_new_token_is_good_however_short_its_life(life_s: float) -> None:
    assert not is_token_ending(request(life_s, life_s), NOW_S, MARGIN_S)
    assert not is_token_ending(request(life_s, life_s / 2), NOW_S, min(MARGIN_S, life_s / 2))
    assert is_token_ending(request(life_s, 0.0), NOW_S, MARGIN_S)


@pytest.mark.parametrize(
    ("life_s", "left_s", "ending"),
    [(600.0, 61.0, False), (600.0, 59.0, True), (60.0, 16.0, False), (60.0, 14.0, True), (0.0, 61.0, False),
     (0.0, 59.0, True)],
)  # fmt: skip
def test_the_margin_is_the_option_but_at_most_a_quarter_of_a_life(life_s: float, left_s: float, ending: bool) -> None:
    assert is_token_ending(request(life_s, left_s), NOW_S, MARGIN_S) is ending


def test_a_token_without_an_end_never_ends() -> None:
    assert not is_token_ending(REQUEST, NOW_S, MARGIN_S)


def test_the_third_new_token_in_a_row_waits_and_each_further_one_longer() -> None:
    pauses = [renewal_pause_s(attempt, 0.0) for attempt in range(9)]
    assert pauses == [0.0, 0.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    assert renewal_pause_s(2_000_000, 0.0) == 60.0
    assert renewal_pause_s(3, -10.0) == 4.0


def test_a_launch_that_waited_for_long_gets_its_token_at_once() -> None:
    """Its tokens ended one after the other while it waited for quota."""
    assert renewal_pause_s(30, 450.0) == 0.0
    assert renewal_pause_s(4, 3.0) == 5.0


def test_the_text_names_the_times_and_the_remedy() -> None:
    text = explain(request(5.0, -1.0, attempt=4), NOW_S, MARGIN_S)
    assert "of 5 s ([scheduler] task_queued_timeout)" in text
    assert "airflow podrelay check" in text


@pytest.mark.parametrize(
    ("claims", "times"),
    [
        ({"exp": 700, "iat": 100, "nbf": 90}, (700.0, 600.0)), ({"exp": 700, "nbf": 100}, (700.0, 600.0)),
        ({"exp": 700}, (700.0, 0.0)), ({}, (0.0, 0.0)), ({"exp": "x"}, (0.0, 0.0)), ({"exp": 700, "iat": None}, (0.0, 0.0)),
        ({"exp": 100, "iat": 700}, (100.0, 0.0)),
    ],
)  # fmt: skip
def test_times_are_read_from_the_claims(claims: dict[str, object], times: tuple[float, float]) -> None:
    payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    token = f"header.{payload}.signature"
    assert compat.token_times(token) == times


@pytest.mark.parametrize("token", ["", "a.b.c", "no-dots", "a.bnVsbA.c"])
def test_what_is_no_token_has_no_times(token: str) -> None:
    assert compat.token_times(token) == (0.0, 0.0)
