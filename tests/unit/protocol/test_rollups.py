"""What counts for a rollup, in which bucket, what its histograms say, and that nothing else gets out of Redis."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podrelay.protocol import rollups
from podrelay.protocol.rollups import EDGES_S, KEPT_S, NAMES, ReportedStep, Rollup

NOW_S = 1_800_000_123.0
ENTRY = {"t_offered": "100.0", "t_created": "100.4", "t_started": "103", "t_finished": "110", "t_reported": "110.2"}


def counted(outcome: str, first_run: bool = False, failure_class: str = "", **entry: str) -> list[str]:
    return list(rollups.counts_of(ReportedStep(NOW_S, outcome, first_run, failure_class, {**ENTRY, **entry})))


def test_a_start_counts_once_with_the_time_until_it() -> None:
    created, started = EDGES_S.index(0.47), EDGES_S.index(3.3)
    assert counted("started") == ["started", f"created:{created}", f"started:{started}"]
    reported = EDGES_S.index(0.22)
    assert counted("succeeded") == ["succeeded", f"reported:{reported}"]
    of_both = ["started", f"created:{created}", f"started:{started}", "succeeded", f"reported:{reported}"]
    assert counted("succeeded", first_run=True) == of_both


@pytest.mark.parametrize(
    ("given", "counts"),
    [("configuration", "failed:configuration"), ("", "failed:other"), ("<script>", "failed:other")],
)
def test_a_failure_counts_for_its_class(given: str, counts: str) -> None:
    assert counted("failed", failure_class=given)[-1] == counts


def test_a_time_that_is_missing_or_no_number_gives_no_duration() -> None:
    assert counted("started", t_created="") == ["started"]
    assert counted("started", t_created="soon") == ["started"]
    assert counted("pending") == counted("log") == counted("<outcome>") == []


def test_clocks_that_differ_give_the_shortest_duration() -> None:
    assert counted("started", t_offered="200", t_started="90") == ["started", "created:0", "started:0"]


@pytest.mark.parametrize(
    ("at_s", "bucket"),
    [(NOW_S, 1_800_000_000), (NOW_S - 200, 1_799_999_700), (NOW_S + 1e9, 1_800_000_000), (5.0, 1_800_000_000)],
)
def test_only_the_last_day_has_buckets(at_s: float, bucket: int) -> None:
    assert rollups.bucket_of(at_s, NOW_S) == bucket
    assert bucket in rollups.bucket_starts(NOW_S)


def test_there_are_24_hours_of_buckets() -> None:
    starts = rollups.bucket_starts(NOW_S)
    assert len(starts) * rollups.BUCKET_S == KEPT_S == 86_400
    assert starts == sorted(set(starts))
    assert starts[-1] <= NOW_S < starts[-1] + rollups.BUCKET_S


@given(st.lists(st.floats(0.001, 5000), min_size=1, max_size=200), st.sampled_from([0.5, 0.95, 1.0]))
def test_a_quantile_lies_in_the_bin_of_the_exact_one(durations: list[float], part: float) -> None:
    rollup, times = Rollup(), [f"{1000 + seconds:.9f}" for seconds in durations]
    durations = [float(reported) - 1000.0 for reported in times]
    for reported in times:
        entry = {"t_finished": "1000", "t_reported": reported}
        rollup.update(rollups.counts_of(ReportedStep(NOW_S, "succeeded", False, "", entry)))
    found = rollups.quantile_s(rollups.histogram(rollup, "reported"), part)
    exact = sorted(durations)[max(0, -int(-part * len(durations) // 1) - 1)]
    place = next(number for number, edge in enumerate(EDGES_S) if exact <= edge)
    assert found is not None
    assert (EDGES_S[place - 1] if place else 0.0) - 1e-6 <= found <= EDGES_S[place] + 1e-6


def test_a_histogram_without_any_has_no_quantile() -> None:
    assert rollups.quantile_s(rollups.histogram({}, "created"), 0.5) is None
    beyond = rollups.histogram({f"created:{len(EDGES_S)}": 3}, "created")
    assert rollups.quantile_s(beyond, 0.5) == EDGES_S[-1]


@given(st.dictionaries(st.sampled_from(sorted(NAMES)), st.integers(0, 10**9)))
def test_what_is_written_is_read(counts: dict[str, int]) -> None:
    assert rollups.decode(rollups.encode(counts)) == counts


def test_the_largest_rollup_is_short_enough_to_be_read() -> None:
    largest = dict.fromkeys(NAMES, 10**9)
    assert rollups.decode(rollups.encode(largest)) == largest


NOT_OURS = ["", "x", "[]", "1", '{"started": -1}', '{"started": 1.5}', '{"started": true}', '{"started": "1"}', "[" * 9999,
            '{"<b>": 1}', json.dumps({"started": 10**9 + 1}), json.dumps({"started": 1}) + " " * 9999]  # fmt: skip


@pytest.mark.parametrize("text", NOT_OURS, ids=range(len(NOT_OURS)))
def test_what_podrelay_would_not_write_is_left_out(text: str) -> None:
    assert rollups.decode(text) == {}
