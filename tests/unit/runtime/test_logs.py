"""The lines that workers log, plain and as JSON."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from podrelay_workers.runtime import logs
from podrelay_workers.runtime.airflow_options import read_log_options

KEY = ["etl", "load 1", "manual__2026-11-20", 2, 7]


def record(text: str, *args: Any, extra: dict[str, Any] | None = None, error: bool = False) -> logging.LogRecord:
    info = sys.exc_info() if error else None
    return logging.getLogger("podrelay_workers").makeRecord(
        "podrelay_workers.x", logging.INFO, "x.py", 1, text, args, info, extra=extra
    )


def test_a_plain_line_ends_with_its_fields() -> None:
    extra = logs.fields(launch_id="l-1", reason="two words", exit_code=0, node="", ran_s=None, **logs.task_fields(KEY))
    line = logs.PlainFormatter().format(record("Pod %s", "ended", extra=extra))
    head, _, fields = line.partition("podrelay_workers.x Pod ended ")
    assert head.endswith(" INFO ")
    assert fields == (
        'launch_id=l-1 reason="two words" exit_code=0 dag_id=etl task_id="load 1" run_id=manual__2026-11-20 '
        "try_number=2 map_index=7"
    )
    assert logs.PlainFormatter().format(record("no fields")).endswith("podrelay_workers.x no fields")


def test_json_has_the_keys_of_airflow_and_the_fields() -> None:
    line = logs.JsonFormatter().format(
        record("Pod ended", extra=logs.fields(launch_id="l-1", text="a\nb", odd=object()))
    )
    assert "\n" not in line
    found = json.loads(line)
    assert (found["level"], found["event"], found["logger"]) == ("info", "Pod ended", "podrelay_workers.x")
    assert (found["launch_id"], found["text"]) == ("l-1", "a\nb")
    assert found["timestamp"].endswith("Z")
    try:
        raise ValueError("why")
    except ValueError:
        found = json.loads(logs.JsonFormatter().format(record("failed", error=True)))
    assert "ValueError: why" in found["exception"]


@pytest.mark.parametrize("key", [None, [], [1], "text of five", {"a": 1}, 7])
def test_what_is_no_key_of_a_task_has_no_fields(key: Any) -> None:
    assert logs.task_fields(key) == {}


def test_what_redis_holds_makes_no_second_or_endless_line() -> None:
    extra = logs.fields(**logs.task_fields(["a\nERROR forged", ["x" * 9000], {"\n": 1}, "\x1b[31m", "y" * 9000]))
    for formatter in (logs.PlainFormatter(), logs.JsonFormatter()):
        line = formatter.format(record("Pod ended", extra=extra))
        assert line.isprintable()
        assert len(logs.PlainFormatter().format(record("Pod ended", extra=extra))) < 2500


@pytest.mark.parametrize("formatter", [logs.PlainFormatter(), logs.JsonFormatter()])
def test_a_text_makes_one_line_without_what_a_terminal_acts_on(formatter: logging.Formatter) -> None:
    """Ids of jobs, and what the API server says, stand in the text itself."""
    line = formatter.format(record("Job %s quarantined", "a_1\nERROR forged\x1b[2J\u2028" + "x" * 10**6))
    assert line.isprintable()
    assert len(line) < 11_000


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger; afterwards as before."""
    logger = logging.getLogger()
    handlers, level = list(logger.handlers), logger.level
    yield logger
    logger.handlers = handlers
    logger.setLevel(level)


@pytest.mark.parametrize(
    ("json_logs", "level", "formatter"),
    [("True", "DEBUG", logs.JsonFormatter), ("False", "ERROR", logs.PlainFormatter)],
)
def test_the_options_of_airflow_apply(
    root: logging.Logger, monkeypatch: pytest.MonkeyPatch, json_logs: str, level: str, formatter: type
) -> None:
    monkeypatch.setenv("AIRFLOW__LOGGING__JSON_LOGS", json_logs)
    monkeypatch.setenv("AIRFLOW__LOGGING__LOGGING_LEVEL", level)
    logs.configure(read_log_options())
    logs.configure(logs.current())
    (handler,) = root.handlers
    assert type(handler.formatter) is formatter
    assert root.level == getattr(logging, level)
