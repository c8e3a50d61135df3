"""The table of metrics: names that Prometheus and Airflow accept, few series, and one page that says the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs import metrics_page
from podrelay.metrics_table import REASONS, TABLE, Metric
from podrelay.protocol import redis_keys

ROOT = Path(__file__).resolve().parents[2]
LAUNCHER = ROOT / "workers" / "podrelay_workers" / "launcher"
# Words of that form which are no reason of a launcher: of Kubernetes' API and of its classes.
NO_REASONS = {"RuntimeDefault", "Localhost", "NotIn"}


def test_the_page_is_up_to_date() -> None:
    assert metrics_page.PAGE.read_text("utf-8") == metrics_page.render(), "run: make metrics"


def test_no_name_stands_twice() -> None:
    names = [metric.name for metric in TABLE]
    stats = [metric.stats for metric in TABLE if metric.stats]
    assert len(set(names)) == len(names)
    assert len(set(stats)) == len(stats)


@pytest.mark.parametrize("metric", TABLE, ids=lambda metric: metric.name)
def test_a_metric_has_the_names_that_are_usual(metric: Metric) -> None:
    """Prometheus' conventions: a unit at the end, `_total` for counters alone. Airflow accepts letters, digits and `._-/`."""
    assert re.fullmatch(r"podrelay_[a-z0-9_]+", metric.name)
    assert not metric.name.endswith(("_total", "_count", "_sum", "_bucket", "_created"))
    assert (metric.type == "histogram" and metric.process != "scheduler") == bool(metric.bounds_s)
    assert list(metric.bounds_s) == sorted(metric.bounds_s)
    assert metric.type != "histogram" or metric.name.endswith("_seconds")
    named = dict.fromkeys((label.name for label in metric.labels), "x")
    assert re.fullmatch(r"[A-Za-z0-9._/-]{0,200}", metric.stats.format_map(named))
    if metric.type == "gauge" and metric.stats:
        assert set(re.findall(r"{(\w+)}", metric.stats)) == set(named)


@pytest.mark.parametrize("metric", TABLE, ids=lambda metric: metric.name)
def test_a_metric_has_few_series(metric: Metric) -> None:
    series = 1
    for label in metric.labels:
        series *= len(label.values) + 1
    assert series <= 600


def test_every_reason_of_a_launcher_is_in_the_table() -> None:
    found = {
        word
        for path in LAUNCHER.glob("*.py")
        for word in re.findall(r'"((?:[A-Z][a-z]+){2,})"', path.read_text("utf-8"))
    }
    assert found - NO_REASONS - REASONS == set()


def test_every_priority_is_in_the_table() -> None:
    from podrelay.metrics_table import PRIORITY

    levels = {f"p{1 << level}" for level in range(redis_keys.PRIORITY_LEVELS)}
    assert levels | {"cleanup"} == PRIORITY.values
