"""How many items fit into the rest of a heartbeat."""

from __future__ import annotations

import time
from dataclasses import dataclass

import pytest

from podrelay.scheduling.heartbeat_budget import (
    HAND_OVER_ALONE_S,
    HAND_OVER_MOST_S,
    HAND_OVER_S,
    HEARTBEAT_LIMIT_S,
    WORK_S,
    HeartbeatBudget,
    Pace,
    hand_over_slice_s,
)


@dataclass
class Trips:
    """Round trips that were made, and how long one takes."""

    trip_s: float
    trips: int = 0


def test_what_was_not_measured_is_tried_with_a_few() -> None:
    assert Pace().fitting(10.0, 20, 400) == 20


def test_as_many_as_fit_by_the_measured_cost() -> None:
    pace = Pace()
    pace.note(100, 0.01)
    assert [pace.fitting(seconds, 20, 400) for seconds in (-1.0, 0.0, 0.001, 0.01005, 0.03005, 1.0)] == [
        20, 20, 20, 100, 300, 400,
    ]  # fmt: skip


def test_a_higher_cost_counts_at_once_and_a_lower_one_by_and_by() -> None:
    pace = Pace()
    pace.note(100, 0.01)
    pace.note(10, 0.01)
    assert pace.fitting(0.1001, 1, 1000) == 100
    pace.note(100, 0.01)
    assert 150 < pace.fitting(0.1001, 1, 1000) < 200


def test_a_batch_that_took_no_time_is_no_reason_for_an_endless_one() -> None:
    pace = Pace()
    pace.note(1, 0.0)
    assert pace.fitting(1.0, 1, 400) == 400


def test_a_hand_over_has_what_its_query_and_results_leave() -> None:
    assert hand_over_slice_s(0.0, 0.0, alone=False) == HAND_OVER_MOST_S
    assert hand_over_slice_s(0.001, 0.004, alone=False) == pytest.approx(HAND_OVER_MOST_S - 0.005)
    assert hand_over_slice_s(0.001, 0.025, alone=True) == pytest.approx(HAND_OVER_ALONE_S - 0.001)
    for alone in (False, True):
        assert hand_over_slice_s(1.0, 0.025, alone=alone) == HAND_OVER_S


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_with_a_nearby_redis_the_time_of_the_part_is_left(clock: list[float]) -> None:
    budget = HeartbeatBudget(Trips(0.001))
    with budget:
        clock[0] += 0.010
        assert budget.left_s(0.025) == pytest.approx(0.014)
        clock[0] += 0.020
        assert budget.left_s(0.025) < 0


def test_with_a_distant_redis_the_rest_of_the_heartbeat_is_left(clock: list[float]) -> None:
    budget = HeartbeatBudget(Trips(0.020))
    with budget:
        assert budget.left_s(0.025) == pytest.approx(HEARTBEAT_LIMIT_S - WORK_S - 0.020)
        clock[0] += 0.020
        assert budget.left_s(0.025, trips=2) < 0


def test_work_is_what_is_not_on_the_way(clock: list[float]) -> None:
    trips = Trips(0.020)
    budget = HeartbeatBudget(trips)
    trips.trips = 2
    clock[0] += 0.045
    assert budget.work_s(100.0, 0) == pytest.approx(0.005)
    assert budget.work_s(100.04, 0) == 0.0
