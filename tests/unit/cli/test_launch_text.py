"""What `airflow podrelay status --launch` prints for given values."""

from __future__ import annotations

import json
from typing import Any

import pytest

from podrelay.cli.launch import KnownLaunch
from podrelay.cli.launch_text import launch_as_json, render_launch
from podrelay.cli.task_launch import TaskEvent, TaskTry
from podrelay.protocol.messages import PodReport

NOW_S = 1_800_000_000.0
LAUNCH = "0190d5b2-3c4e-8a1b-9f00-1234567890ab"


def lines(entry: dict[str, str], *tries: TaskTry, **known: Any) -> list[str]:
    return render_launch(KnownLaunch("l-1", entry, **known), NOW_S, tries).splitlines()


def fields(*entry_and_tries: Any, **known: Any) -> dict[str, str]:
    return {line[:12].strip(): line[13:] for line in lines(*entry_and_tries, **known)}


# --- the ledger entry -------------------------------------------------------------------------------------------------
MAPPED = {"uid": "u", "kind": "task", "state": "created", "attempt": "0", "zone": "z", "pod": "p", "relaunches": "0",
          "key": '["etl", "load", "manual__1", 2, 7]'}  # fmt: skip


def test_a_launch_begins_with_its_task_and_its_state() -> None:
    assert lines(MAPPED) == [
        "task         etl.load, map index 7, try 2",
        "run          manual__1",
        "launch       l-1",
        "state        created",
        "attempt      0",
        "pod          p",
        "uid          u",
        "zone         z",
    ]
    assert lines({**MAPPED, "key": '["etl", "load", "r", 1, -1]'})[0] == "task         etl.load, try 1"
    assert fields({**MAPPED, "relaunches": "1"})["relaunches"] == "1"


@pytest.mark.parametrize("key", ["", "no json", "7", "{}", '["a", "b"]', "[" * 100_000])
def test_a_key_that_is_not_a_task_instances_is_shown_as_it_is(key: str) -> None:
    assert lines({"kind": "callback", "key": key, "state": "created"}, unreadable="x")[0] == "kind         callback"
    assert launch_as_json(KnownLaunch("l", {"key": key}))["key"] in (key, ["a", "b"])


def test_what_it_waits_for_and_which_attempt_was_asked_for() -> None:
    found = fields({"state": "waiting", "attempt": "2"}, waits_for="quota", asked_attempt=1)
    assert found["waits for"] == "quota"
    assert found["note"] == "you asked for attempt 1; these fields are of attempt 2"
    assert "note" not in fields({"state": "waiting", "attempt": "2"}, asked_attempt=2)


# --- steps ------------------------------------------------------------------------------------------------------------
def test_a_step_that_is_earlier_by_another_clock_took_no_time() -> None:
    assert lines({"t_created": "10.7", "t_started": "10", "pod": "p", "state": "acknowledged"})[-2:] == [
        "created      1970-01-01 00:00:10.700",
        "started      1970-01-01 00:00:10.000  +0.000 s",
    ]


def test_the_present_step_lasts_until_now() -> None:
    entry = {"state": "created", "t_offered": f"{NOW_S - 300}", "t_created": f"{NOW_S - 290}"}
    assert lines(entry)[-1] == "now          2027-01-15 08:00:00.000  5 min later"
    assert not any(line.startswith("now") for line in lines({**entry, "state": "withdrawn"}))


# --- reports, log, events ---------------------------------------------------------------------------------------------
REPORTS = (
    PodReport(LAUNCH, 0, "pending", "ErrImagePull", "no such image", seen_at_s=NOW_S - 60),
    PodReport(LAUNCH, 1, "started", seen_at_s=NOW_S - 5),
    PodReport(LAUNCH, 1, "failed", "Error", "m\x1b[2J", "p", "n", container="b", exit_code=3, seen_at_s=NOW_S - 1),
    PodReport(LAUNCH, 1, "log", container="base", log_tail=("a\x1b[31m", "b\r\nc"), seen_at_s=NOW_S),
)


def test_reports_and_the_last_lines_of_the_log() -> None:
    text = lines({}, reports=REPORTS)
    start = text.index("reports")
    assert text[start:] == [
        "reports",
        "  2027-01-15 07:59:00.000  attempt 0  pending: ErrImagePull: no such image",
        "  2027-01-15 07:59:55.000  attempt 1  started",
        "  2027-01-15 07:59:59.000  attempt 1  failed: Pod failed because of Error, container b, exit code 3, pod n/p: m [2J",
        "  2027-01-15 08:00:00.000  attempt 1  log read again",
        "",
        "last log lines (attempt 1, container base)",
        "  a [31m",
        "  b  c",
    ]


def test_reports_that_cannot_be_read_name_the_command_that_shows_more() -> None:
    text = lines(MAPPED, unreadable="no key")[-1]
    assert text.endswith("no key. Where the scheduler runs, type: airflow podrelay status --task etl load manual__1 7")
    assert lines({"state": "created"}, unreadable="no key")[-1] == "reports about this launch cannot be read: no key"


def test_tries_and_events() -> None:
    event = TaskEvent(NOW_S, "pod failed", "exit code 3\nLaunch l-1, attempt 0\nLast log lines:\n    oh\x07")
    text = lines({}, TaskTry(1, "failed", "l-0"), TaskTry(2, None, "l-1", (event,)))
    assert text[text.index("tries") :] == [
        "tries",
        "    1  failed  launch l-0",
        "    2  no state  launch l-1  (shown above)",
        "events of try 2",
        "  2027-01-15 08:00:00.000  pod failed: exit code 3",
        "    Launch l-1, attempt 0",
        "    Last log lines:",
        "        oh ",
    ]


def test_all_of_it_for_programs() -> None:
    known = KnownLaunch("l-1", {**MAPPED, "t_offered": "1", "t_claimed": "1.5"}, REPORTS, waits_for="x")
    found = json.loads(json.dumps(launch_as_json(known, [TaskTry(1, "failed", "l-1")])))
    assert found["key"] == ["etl", "load", "manual__1", 2, 7]
    assert (found["state"], found["launch"], found["waits_for"]) == ("created", "l-1", "x")
    assert found["steps"] == [
        {"step": "offered", "at_s": 1.0, "took_s": None}, {"step": "claimed", "at_s": 1.5, "took_s": 0.5}
    ]  # fmt: skip
    assert found["reports"][1] == {"attempt": 1, "outcome": "started", "seen_at_s": NOW_S - 5}
    assert found["log_tail"] == ["a\x1b[31m", "b\r\nc"]
    assert found["tries"] == [{"try_number": 1, "state": "failed", "launch_id": "l-1", "events": []}]


def test_no_field_moves_the_cursor_of_the_terminal() -> None:
    odd = "a\x1b[2Jb\nc\u202e\r"
    entry = {"message": odd, "key": "\r", "zone\n": odd, "kind": odd, "t_offered": odd}
    report = PodReport(LAUNCH, 0, "pending", odd, odd, container=odd, log_tail=(odd,))
    text = render_launch(
        KnownLaunch(odd, entry, (report,), odd, odd), NOW_S, [TaskTry(1, odd, odd, (TaskEvent(1.0, odd, odd),))]
    )
    assert all(char.isprintable() or char == "\n" for char in text)
    assert len(text.splitlines()) < 25
