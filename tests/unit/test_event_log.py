"""What a row of a task's event log says, and that each database can store it."""

from __future__ import annotations

from podrelay.event_log import row_text


def test_a_row_names_launch_and_pod() -> None:
    assert row_text("why", "l-1", 2) == "why\nLaunch l-1, attempt 2, no pod"
    assert row_text("why", "l-1", 0, namespace="n", pod="p", tail=("a", "b")) == (
        "why\nLaunch l-1, attempt 0, pod n/p\nLast log lines:\n    a\n    b"
    )


def test_any_text_can_be_stored() -> None:
    row = row_text("\0 \ud800" + "\U0001f600" * 50_000, "l-1", 0, pod="p", tail=["\U0001f600" * 9000] * 9)
    assert len(row.encode()) <= 65_535
    assert row.startswith("\\x00 ? ".strip())
    assert "\0" not in row
    assert "Launch l-1, attempt 0" in row
