"""Pure: a line of a pod's log as one line of text for people.

A task's process writes JSON, one object per line (structlog, as airflow.sdk.log configures it): `timestamp`, `level`,
`event`, `logger`, `error_detail` with the exceptions and their frames, and whatever else was logged with the event. Other
lines stay as they are. Pods write what they like, so nothing here fails, and control characters are escaped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from podrelay.protocol.messages import Json

LINE_MAX = 1000
# Redis keeps the lines of each failed pod for a while.
TAIL_MAX = 8192
# So much of one value is shown.
_VALUE_MAX = 300
_ERRORS_MAX = 5
# Where in the code the line was logged, of interest only to whoever wrote that code; and the task, which the reader knows.
_PLACE = {"filename", "lineno", "func_name", "loc"}
_TASK = {"ti_id", "dag_id", "task_id", "run_id", "try_number", "map_index"}
_LEFT_OUT = _PLACE | _TASK | {"timestamp", "level", "logger", "event", "error_detail"}
_UNPRINTABLE = re.compile(r"[^\x20-\x7e]")


def readable_tail(lines: Sequence[str]) -> list[str]:
    """The last lines, as many as fit into TAIL_MAX characters, without those that only fold others in Airflow's pages."""
    tail, left = [], TAIL_MAX
    for line in reversed(lines):
        if _folds(line):
            continue
        tail.append(readable(line))
        left -= len(tail[-1])
        if left < 0:
            tail.pop()
            break
    return tail[::-1]


def readable(line: str) -> str:
    """`time level logger: event key=value`, then each exception with the place that raised it."""
    fields = _parsed(line)
    return printable(line if fields is None else _text(fields), LINE_MAX)


def printable(text: str, most: int) -> str:
    """At most so many characters, with control characters as Python escapes them, and tabs as spaces."""
    shown = _UNPRINTABLE.sub(_escaped, text[: most + 1].replace("\t", "    "))
    return shown if len(shown) <= most else f"{shown[: most - 1]}…"


def _folds(line: str) -> bool:
    fields = _parsed(line)
    return fields is not None and fields["event"].startswith(("::group::", "::endgroup::"))


def _escaped(match: re.Match[str]) -> str:
    char = match[0]
    return char if char.isprintable() else char.encode("unicode_escape").decode()


def _parsed(line: str) -> Json | None:
    if not line.startswith("{"):
        return None
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return fields if isinstance(fields, dict) and isinstance(fields.get("event"), str) else None


def _text(fields: Json) -> str:
    head = " ".join(str(fields[name])[:_VALUE_MAX] for name in ("timestamp", "level", "logger") if fields.get(name))
    values = (f"{key}={_value(value)}" for key, value in fields.items() if key not in _LEFT_OUT)
    parts = (fields["event"], *values, *_errors(fields.get("error_detail")))
    return f"{head}: {' '.join(parts)}" if head else " ".join(parts)


def _value(value: Any) -> str:
    text = value if isinstance(value, str) and value and not re.search(r"\s", value) else json.dumps(value)
    return text if len(text) <= _VALUE_MAX else f"{text[:_VALUE_MAX]}…"


def _errors(details: Any) -> Iterator[str]:
    """Each exception of a chain, as `[ValueError: text at file.py:12 in function]`."""
    for error in details[:_ERRORS_MAX] if isinstance(details, list) else ():
        if isinstance(error, dict):
            yield f"[{error.get('exc_type')}: {str(error.get('exc_value'))[:_VALUE_MAX]}{_place(error.get('frames'))}]"


def _place(frames: Any) -> str:
    last = frames[-1] if isinstance(frames, list) and frames else None
    return f" at {last.get('filename')}:{last.get('lineno')} in {last.get('name')}" if isinstance(last, dict) else ""
