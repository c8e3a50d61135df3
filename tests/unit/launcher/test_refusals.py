"""Refusals in a row, by time."""

from __future__ import annotations

from podrelay_workers.launcher.refusals import GATE_MOST_S, Refusals


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def test_the_time_counts_from_the_first_refusal_and_ends_with_a_success() -> None:
    clock = Clock()
    refusals = Refusals(clock)
    assert refusals.refused("a") == 0.0
    clock.now_s += 12.0
    assert (refusals.refused("a"), refusals.refused("b")) == (12.0, 0.0)
    assert refusals.worked("a")
    assert not refusals.worked("a")
    clock.now_s += 1.0
    assert (refusals.refused("a"), refusals.refused("b")) == (0.0, 1.0)


def test_a_subject_that_was_not_refused_for_minutes_begins_anew() -> None:
    clock = Clock()
    refusals = Refusals(clock)
    refusals.refused("a")
    clock.now_s += 3600.0
    assert refusals.refused("a") == 0.0


def test_a_closed_gate_lets_one_through_ever_more_rarely() -> None:
    clock = Clock()
    refusals = Refusals(clock)
    assert refusals.pass_gate("a") == 0.0, "never refused"
    pauses = []
    for _ in range(10):
        pauses.append(refusals.close("a"))
        assert refusals.close("a") <= pauses[-1], "requests that were refused together count once"
        assert refusals.pass_gate("a") > 0.0
        clock.now_s += pauses[-1] + 0.001
        assert refusals.pass_gate("a") == 0.0
        assert refusals.pass_gate("a") > 0.0, "the others wait for the one that was sent"
    assert pauses[0] <= 1.0
    assert GATE_MOST_S / 2 <= pauses[-1] <= GATE_MOST_S
    refusals.worked("a")
    assert refusals.pass_gate("a") == 0.0
