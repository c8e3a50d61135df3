"""How many warm pods each shape gets."""

from __future__ import annotations

import random

import pytest

from podrelay_workers.launcher.warm_pool.demand import peak, shared, target_numbers


@pytest.mark.parametrize(
    ("times", "window_s", "number"),
    [
        ([], 10.0, 0), ([5.0], 10.0, 1), ([0.0, 1.0, 2.0, 3.0], 2.5, 3), ([0.0, 1.0, 2.0, 3.0], 1.0, 1),
        ([0.0, 0.0, 0.0, 50.0], 10.0, 3), ([0.0, 100.0, 101.0, 102.0, 200.0], 5.0, 3),
    ],
)  # fmt: skip
def test_the_peak_is_the_most_within_any_window(times: list[float], window_s: float, number: int) -> None:
    assert peak(times, window_s) == number


def test_a_steady_rate_needs_what_arrives_while_a_pod_becomes_ready() -> None:
    steady = {"a": [float(second) for second in range(300)]}
    assert target_numbers(steady, {"a": 2.0}, {}, least=0, most=100) == {"a": 4}
    assert target_numbers(steady, {"a": 20.0}, {}, least=0, most=100) == {"a": 31}
    assert target_numbers(steady, {}, {}, least=0, most=100) == {"a": 16}  # ten seconds before the first is measured


def test_a_burst_is_kept_ready_for_the_next_one() -> None:
    assert target_numbers({"a": [1.0] * 8}, {"a": 3.0}, {}, least=0, most=100) == {"a": 8}


def test_all_together_never_exceed_the_most() -> None:
    arrivals = {"a": [0.0] * 30, "b": [0.0] * 10, "c": [0.0]}
    assert target_numbers(arrivals, {}, {}, least=0, most=10) == {"a": 7, "b": 3}
    rng = random.Random(20)
    for _ in range(500):
        shapes = [f"s{number}" for number in range(rng.randint(0, 8))]
        least, most = sorted((rng.randint(0, 20), rng.randint(0, 20)))
        targets = target_numbers(
            {shape: [rng.uniform(0, 300) for _ in range(rng.randint(0, 40))] for shape in shapes},
            {shape: rng.uniform(0, 60) for shape in shapes if rng.random() < 0.5},
            {shape: rng.randint(0, 9) for shape in shapes},
            least=least, most=most,
        )  # fmt: skip
        assert sum(targets.values()) <= most
        assert all(number > 0 for number in targets.values())


def test_the_least_is_kept_of_the_shapes_seen_most_without_any_arrival() -> None:
    assert target_numbers({}, {}, {"a": 90, "b": 10}, least=5, most=10) == {"a": 5}
    assert target_numbers({}, {}, {"a": 60, "b": 40}, least=5, most=10) == {"a": 3, "b": 2}
    assert target_numbers({"b": [0.0] * 2}, {}, {"a": 60, "b": 40}, least=3, most=10) == {"a": 2, "b": 2}
    assert target_numbers({}, {}, {}, least=5, most=10) == {}


def test_off_means_none() -> None:
    assert target_numbers({"a": [0.0] * 30}, {}, {"a": 3}, least=0, most=0) == {}


def test_a_share_adds_up() -> None:
    assert shared(10, {"a": 1.0, "b": 1.0, "c": 1.0}) == {"c": 4, "b": 3, "a": 3}
    assert shared(1, {"a": 1.0, "b": 2.0}) == {"a": 0, "b": 1}
    assert shared(0, {"a": 1.0}) == {}
