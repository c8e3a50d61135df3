"""The log of a worker: lines on stderr, plain or JSON, as Airflow's `[logging] json_logs` and `logging_level` say.

A line may have fields, given as `extra=fields(...)`. A plain line shows them as `key=value` behind its text. In JSON each is
a key of its own, beside those of Airflow's own JSON logs: `timestamp`, `level`, `event`, `logger`.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from podrelay.protocol.messages import Json, LaunchRequest

_FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"
# Longer texts come from nowhere but a Redis or a cluster that somebody has tampered with.
VALUE_MAX = 500
TEXT_MAX = 10_000
_PLAIN = re.compile(r"[!#-~]+")
# What a terminal acts on, or takes for the end of a line.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


@dataclass(frozen=True)
class LogOptions:
    """`logging_level` and `json_logs` of Airflow's `[logging]`."""

    level: str = "INFO"
    as_json: bool = False


_current = LogOptions()


def configure(options: LogOptions) -> None:
    """Replaces what Airflow has configured for its own processes, and can be repeated."""
    global _current
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if options.as_json else PlainFormatter())
    logging.basicConfig(level=options.level, handlers=[handler], force=True)
    _current = options


def current() -> LogOptions:
    """What the log was last configured with; a child process logs alike."""
    return _current


def fields(**values: Any) -> dict[str, Json]:
    """The argument `extra` of a line with these fields; those that are None or empty are left out."""
    return {"fields": {name: value for name, value in values.items() if value not in (None, "")}}


def task_fields(key: Any) -> Json:
    """Fields of a task, from the key in its launch request: dag, task, run, try and map index. Empty for anything else."""
    if not isinstance(key, (list, tuple)) or len(key) != 5:
        return {}
    dag_id, task_id, run_id, try_number, map_index = key
    mapped = map_index if map_index != -1 else None
    return {"dag_id": dag_id, "task_id": task_id, "run_id": run_id, "try_number": try_number, "map_index": mapped}


def launch_fields(request: LaunchRequest, **further: Any) -> dict[str, Json]:
    """The argument `extra` of a line about a launch."""
    return fields(
        launch_id=request.launch_id, attempt=request.attempt, kind=request.kind if not request.key else None,
        **task_fields(request.key), **further,
    )  # fmt: skip


class PlainFormatter(logging.Formatter):
    """One line of text, and a traceback where there is one."""

    def __init__(self) -> None:
        super().__init__(_FORMAT)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  the name is logging's
        record.message = _CONTROL.sub(_escaped, record.message[:TEXT_MAX])
        line = super().formatMessage(record)
        found = getattr(record, "fields", None)
        return f"{line} {' '.join(f'{name}={_value(value)}' for name, value in found.items())}" if found else line


class JsonFormatter(logging.Formatter):
    """One line of JSON, whatever it contains."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "timestamp": datetime.fromtimestamp(record.created, timezone.utc).isoformat().replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "event": record.getMessage()[:TEXT_MAX],
            "logger": record.name,
        }
        line.update((name, _bounded(value)) for name, value in getattr(record, "fields", {}).items())
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = record.stack_info
        return json.dumps(line, default=str)


def _escaped(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()


def _bounded(value: Any) -> Any:
    return value[:VALUE_MAX] if isinstance(value, str) else value


def _value(value: Any) -> str:
    if not isinstance(value, str):
        return str(value)[:VALUE_MAX]
    return value[:VALUE_MAX] if _PLAIN.fullmatch(value) else json.dumps(value[:VALUE_MAX])
