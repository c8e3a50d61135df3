"""Lines of a pod's log, as people read them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podrelay_workers.watcher.log_lines import LINE_MAX, TAIL_MAX, readable, readable_tail

HEAD = {"timestamp": "2026-11-27T20:00:00.1Z", "level": "error"}
FRAMES = [
    {"filename": "/a/runner.py", "lineno": 1, "name": "run"},
    {"filename": "/dags/d.py", "lineno": 7, "name": "f"},
]
FAILED = {"exc_type": "ValueError", "exc_value": "no such table", "exc_notes": [], "is_cause": False, "frames": FRAMES}


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("plain text {with} braces", "plain text {with} braces"),
        ('{"no": "event"}', '{"no": "event"}'),
        ('{"event": 7}', '{"event": 7}'),
        ('{"event": "cut off', '{"event": "cut off'),
        ("[" * 100_000, "[" * (LINE_MAX - 1) + "…"),
        ('{"a":' * 100_000, '{"a":' * (LINE_MAX // 5 - 1) + '{"a"…'),
        ('{"event": "only this"}', "only this"),
        (json.dumps({**HEAD, "event": "x", "logger": "task"}), "2026-11-27T20:00:00.1Z error task: x"),
        (json.dumps({**HEAD, "event": "x", "a": "b c", "n": 1, "e": ""}),
         '2026-11-27T20:00:00.1Z error: x a="b c" n=1 e=""'),
        (json.dumps({**HEAD, "event": "Worker startup parse complete", "bundle_version": None, "dag_file_parse_ms": 773,
                     "map_index": 0, "task_id": "t", "try_number": 1, "ti_id": "01a2", "run_id": "r", "dag_id": "d",
                     "logger": "task", "filename": "task_runner.py", "lineno": 1073}),
         "2026-11-27T20:00:00.1Z error task: Worker startup parse complete bundle_version=null dag_file_parse_ms=773"),
        (json.dumps({"event": "two\nlines", "filename": "f.py", "lineno": 3}), "two\\nlines"),
        ("\x1b[31mred\x1b[0m\tand \u202eback \ud800 and ß", "\\x1b[31mred\\x1b[0m    and \\u202eback \\ud800 and ß"),
        (json.dumps({**HEAD, "event": "Task failed", "error_detail": [FAILED]}),
         "2026-11-27T20:00:00.1Z error: Task failed [ValueError: no such table at /dags/d.py:7 in f]"),
        (json.dumps({"event": "E", "error_detail": [{"exc_type": "A", "frames": "?"}, 3, {"frames": [4]}]}),
         "E [A: None] [None: None]"),
    ],
)  # fmt: skip
def test_a_line(line: str, text: str) -> None:
    assert readable(line) == text


def test_values_and_lines_are_bounded() -> None:
    line = readable(json.dumps({"event": "e" * 10, "value": "v" * 5000, "other": ["o" * 5000]}))
    assert len(line) < 700
    assert "other=" in line
    assert len(readable(json.dumps({"event": "e" * 5000}))) == LINE_MAX


def test_a_tail_keeps_its_end_in_order() -> None:
    lines = [f"{n} " + "x" * 900 for n in range(20)]
    tail = readable_tail(lines)
    assert tail == lines[-len(tail) :]
    assert TAIL_MAX - 1000 < sum(map(len, tail)) <= TAIL_MAX
    assert readable_tail([]) == []
    folds = [json.dumps({"event": event}) for event in ("::group::Pre Execute", "x", "::endgroup::")]
    assert readable_tail([*folds, "::group:: of a program"]) == ["x", "::group:: of a program"]


_JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@pytest.mark.timeout(60)
@given(
    st.dictionaries(st.sampled_from(["event", "level", "timestamp", "logger", "error_detail", "x"]), _JSON) | st.text()
)
def test_any_line_is_one_printable_line(content: Any) -> None:
    shown = readable(content if isinstance(content, str) else json.dumps(content))
    assert len(shown) <= LINE_MAX
    assert shown.isprintable()
