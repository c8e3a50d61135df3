"""What `airflow podrelay status` prints for given values."""

from __future__ import annotations

from typing import Any

import pytest

from podrelay.cli.status_text import launch_as_json, render_launch, render_overview

QUIET: dict[str, Any] = {
    "deployment": "prod", "cluster": "default", "queues": {}, "launchers": [], "throttle": [], "refused_cleanups": [],
    "key_mismatches": [], "suspended": False,
    "watcher": {"leader": "", "pods": 0, "listed_s_ago": None, "event_s_ago": None, "trouble": ""},
    "unacknowledged": 2, "results": 9, "quarantine": 1, "quarantine_reasons": {"forged": 1},
}  # fmt: skip


def launcher(name: str, *, alive: bool, age_s: float) -> dict[str, Any]:
    return {"name": name, "state": "idle", "alive": alive, "last_update_s_ago": age_s}


def test_a_launcher_that_stopped_responding_is_listed_but_not_counted() -> None:
    launchers = [launcher("a", alive=True, age_s=3.4), launcher("b", alive=False, age_s=17.2)]
    lines = render_overview({**QUIET, "launchers": launchers}).splitlines()
    assert lines[4:7] == ["launchers: 1", "  a  idle, last update 3 s ago", "  b  not responding: last update 17 s ago"]


def test_dead_launchers_alone_are_none() -> None:
    lines = render_overview({**QUIET, "launchers": [launcher("b", alive=False, age_s=17.2)]}).splitlines()
    assert lines[4] == "launchers: none  <- start one: airflow podrelay launcher"


def test_queues_and_totals() -> None:
    counts = {"queued": 1, "started": 22, "waiting": 333, "failed": 4444}
    lines = render_overview({**QUIET, "queues": {"podrelay.prod.default.launch": counts}}).splitlines()
    assert lines[0] == "deployment prod, cluster default"
    assert lines[2].split() == ["queue", "queued", "started", "waiting", "failed"]
    assert lines[3].split() == ["podrelay.prod.default.launch", "1", "22", "333", "4444"]
    assert lines[-2:] == ["unacknowledged results: 2, quarantined entries: 1", "      1 forged"]


def test_a_step_that_is_earlier_by_another_clock_took_no_time() -> None:
    shown = render_launch({"t_created": "10.7", "t_started": "10", "pod": "p"})
    assert shown.splitlines() == [
        "pod          p",
        "created      1970-01-01 00:00:10.700",
        "started      1970-01-01 00:00:10.000  +0.000 s",
    ]


def test_the_commands_for_a_team_name_it() -> None:
    shown = render_overview({**QUIET, "cluster": "red"})
    assert "<- start one: airflow podrelay launcher --team red" in shown
    assert "<- start one: airflow podrelay watcher --team red (never listed)" in shown
    assert "--team" not in render_overview(QUIET)


MAPPED = {"uid": "u", "kind": "task", "state": "created", "attempt": "0", "zone": "z", "pod": "p", "key":
          '["etl", "load", "manual__1", 2, 7]'}  # fmt: skip


def test_a_launch_begins_with_its_task_and_its_state() -> None:
    assert render_launch(MAPPED).splitlines() == [
        "task         etl.load, map index 7, try 2",
        "run          manual__1",
        "state        created",
        "attempt      0",
        "pod          p",
        "uid          u",
        "zone         z",
    ]
    assert render_launch({**MAPPED, "key": '["etl", "load", "r", 1, -1]'}).startswith("task         etl.load, try 1\n")


@pytest.mark.parametrize("key", ["", "no json", "7", "{}", '["a", "b"]', "[" * 100_000])
def test_a_key_that_is_not_a_task_instances_is_shown_as_it_is(key: str) -> None:
    shown = render_launch({"kind": "callback", "key": key, "state": "created"})
    assert shown.startswith("kind         callback")
    assert launch_as_json({"key": key})["key"] in (key, ["a", "b"])


def test_the_key_is_not_json_in_json() -> None:
    assert launch_as_json(MAPPED)["key"] == ["etl", "load", "manual__1", 2, 7]


def test_no_field_moves_the_cursor_of_the_terminal() -> None:
    shown = render_launch({"message": "a\x1b[2Jb\nc", "key": "\r", "zone": "\u202e"})
    assert all(char.isprintable() or char == "\n" for char in shown)
    assert len(shown.splitlines()) == 3
