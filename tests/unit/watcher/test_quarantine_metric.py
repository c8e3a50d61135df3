"""The metric's tags: few series, whatever somebody writes to the quarantine."""

from __future__ import annotations

import pytest

from podrelay.metrics_table import QUARANTINED
from podrelay_workers.runtime.metrics import Metrics
from podrelay_workers.watcher.quarantine_metric import labels


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"job": "l_0", "kind": "oversized", "why": "..."}, {"what": "job", "why": "oversized"}),
        ({"launch": "l", "kind": "no_report"}, {"what": "launch", "why": "no_report"}),
        ({"stream_entry": "1-0", "kind": "malformed"}, {"what": "stream_entry", "why": "malformed"}),
        ({"job": "l_0", "why": "no kind"}, {"what": "job", "why": "other"}),
        ({"anything": "x", "kind": "a new series each time"}, {"what": "other", "why": "other"}),
        ({}, {"what": "other", "why": "other"}),
    ],
)
def test_labels(entry: dict[str, str], expected: dict[str, str]) -> None:
    metrics = Metrics("watcher", "default")
    metrics.count(QUARANTINED, *labels(entry))
    counted = {line.rpartition(" ")[0] for line in metrics.render("")[0].decode().splitlines() if line.endswith(" 1.0")}
    what, why = expected["what"], expected["why"]
    assert f'podrelay_quarantined_total{{cluster="default",deployment="default",what="{what}",why="{why}"}}' in counted
