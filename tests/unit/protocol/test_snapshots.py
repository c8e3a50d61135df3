"""What processes write about themselves is read again as it was, and nothing that anybody wrote instead is an error."""

from __future__ import annotations

import json
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podrelay.protocol.snapshots import (
    REASONS_MOST,
    SNAPSHOT_MAX,
    LauncherSnapshot,
    SchedulerSnapshot,
    WaitingPods,
    WatcherSnapshot,
    decode_schedulers,
    decode_snapshot,
    encode_snapshot,
)

WAIT = WaitingPods("Unschedulable", 3, 1.5, "launch-1", "0/3 nodes are available")
LAUNCHER = LauncherSnapshot("0.1.0", 3, 16, 12.5, 0.02, 0.0, "", False)
WATCHER = WatcherSnapshot("host-1", "0.1.0", 1, 2, 3, 1.8e9, 0.4, (WAIT,))

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=400),
    lambda items: st.lists(items, max_size=3) | st.dictionaries(st.sampled_from(["reason", "count", "since_s"]), items),
    max_leaves=6,
)


@pytest.mark.parametrize("snapshot", [LAUNCHER, WATCHER, LauncherSnapshot(), WatcherSnapshot()])
def test_a_snapshot_is_read_as_it_was_written(snapshot: LauncherSnapshot | WatcherSnapshot) -> None:
    assert decode_snapshot(type(snapshot), encode_snapshot(snapshot)) == snapshot


@pytest.mark.parametrize(
    "written", [None, b"", b"\xff", b"[]", b"x", b"[" * 10_000, b"{}", b'{"version": 1, "limit": "x"}']
)
def test_what_is_missing_or_odd_is_unknown(written: bytes | None) -> None:
    assert decode_snapshot(LauncherSnapshot, written) == LauncherSnapshot()


@given(st.dictionaries(st.sampled_from([item.name for item in fields(WatcherSnapshot)]), VALUES))
def test_any_value_is_read_within_bounds(written: dict[str, object]) -> None:
    snapshot = decode_snapshot(WatcherSnapshot, json.dumps(written))
    assert len(snapshot.version or "") <= 300
    assert snapshot.running is None or 0 <= snapshot.running <= 2**53
    for wait in snapshot.waits or ():
        assert wait.reason and wait.count > 0


def test_a_long_snapshot_keeps_its_first_waits() -> None:
    waits = tuple(WaitingPods(f"R{number}", 1, 1.0, "l", "\N{GRINNING FACE}" * 300) for number in range(REASONS_MOST))
    encoded = encode_snapshot(WatcherSnapshot(waits=waits))
    assert len(encoded) <= SNAPSHOT_MAX
    found = decode_snapshot(WatcherSnapshot, encoded).waits
    assert found and found == waits[: len(found)]


@pytest.mark.parametrize("written", ["", "x", "nan 1 2 3", "inf", " ", "-1 1 1 1"])
def test_an_odd_announcement_of_a_scheduler_is_left_out(written: str) -> None:
    good = {"default 7": "1800000000.5 3 12 0.1.0"}
    found = decode_schedulers({**good, "default 8": written, "no-owner": "1.0 1 1 1"})
    assert found == {("default", "7"): SchedulerSnapshot("0.1.0", 12, 3, 1_800_000_000.5)}


def test_a_text_can_be_sent_to_a_browser() -> None:
    found = decode_snapshot(LauncherSnapshot, r'{"version": "1\ud800", "throttled_why": "\ud83d\ude00"}')
    assert (found.version, found.throttled_why) == ("1?", "\N{GRINNING FACE}")
