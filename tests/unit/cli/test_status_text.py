"""What `airflow podrelay status` prints for given values."""

from __future__ import annotations

import re
from typing import Any

import pytest

from podrelay.cli.status_problems import problems
from podrelay.cli.status_text import render_overview

QUIET: dict[str, Any] = {
    "deployment": "prod", "cluster": "default", "queues": {}, "waits": [], "waits_read": 0, "launchers": [],
    "pods": {"starting": None, "running": None, "ending": None}, "schedulers": [], "throttle": [], "refused_cleanups": [],
    "key_mismatches": [], "suspended": False, "clamps": [], "unacknowledged": 2, "results": 9, "quarantine": 1,
    "watcher": {"leader": "", "version": None, "pods": 0, "listed_s_ago": None, "event_s_ago": None,
                "bookmark_s_ago": None, "lag_s": None, "trouble": ""},
    "quarantine_s_ago": 7200.0, "quarantine_reasons": {"forged": 1},
}  # fmt: skip
UNKNOWN = dict.fromkeys(
    ["version", "in_flight", "limit", "created_per_s", "creation_p50_s", "throttled_s", "throttled_why", "draining"]
)
WATCHER = {**QUIET["watcher"], "leader": "w-1", "pods": 6, "listed_s_ago": 3600.0}


def launcher(name: str, *, alive: bool = True, age_s: float = 2.0, **known: Any) -> dict[str, Any]:
    return {"name": name, "state": "idle", "alive": alive, "last_update_s_ago": age_s, **UNKNOWN, **known}


HEALTHY = {**QUIET, "launchers": [launcher("a")], "watcher": WATCHER}


def shown(**changes: Any) -> list[str]:
    return render_overview({**HEALTHY, **changes}).splitlines()


def test_a_launcher_that_stopped_responding_is_listed_but_not_counted() -> None:
    lines = shown(launchers=[launcher("a", age_s=3.4), launcher("b", alive=False, age_s=17.2)])
    start = lines.index("launchers: 1")
    assert [re.split(r"  +", line.strip())[:2] for line in lines[start + 2 : start + 4]] == [
        ["a", "idle, last update 3 s ago"],
        ["b", "not responding: last update 17 s ago"],
    ]


def test_dead_launchers_alone_are_none() -> None:
    lines = shown(launchers=[launcher("b", alive=False)])
    assert "launchers: none  <- start one: airflow podrelay launcher" in lines
    assert lines[:2] == [
        "deployment prod, cluster default: degraded",
        "  ! no launcher is running: airflow podrelay launcher",
    ]


def test_what_a_launcher_does() -> None:
    known: dict[str, Any] = {"version": "1", "in_flight": 3, "limit": 16, "created_per_s": 12.54, "creation_p50_s": 0.0213,
             "throttled_s": 29.2, "throttled_why": "Throttled", "draining": True}  # fmt: skip
    lines = shown(launchers=[launcher("a", **known), launcher("b")])
    start = lines.index("launchers: 2")
    rows = [re.split(r"  +", line.strip()) for line in lines[start + 1 : start + 4]]
    assert rows == [
        ["name", "state", "in flight", "pods/s", "median", "version", "paused"],
        ["a", "draining, last update 2 s ago", "3 of 16", "12.5", "21 ms", "1", "29 s: Throttled"],
        ["b", "idle, last update 2 s ago", "unknown"],
    ]


def test_queues_and_totals() -> None:
    queue = {
        "kind": "launch",
        "priority": "p1",
        "queued": 1,
        "started": 22,
        "waiting": 333,
        "failed": 4444,
        "oldest_s": 200,
    }
    lines = shown(queues={"podrelay.prod.default.launch": queue}, pods={"starting": 1, "running": 2, "ending": 3})
    assert lines[0] == "deployment prod, cluster default: ok"
    start = next(number for number, line in enumerate(lines) if line.startswith("queue"))
    assert lines[start].split() == ["queue", "queued", "started", "waiting", "failed", "first"]
    assert lines[start + 1].split() == ["podrelay.prod.default.launch", "1", "22", "333", "4444", "3", "min"]
    assert lines[start + 2] == "pods: 1 starting, 2 running, 3 ending"
    assert lines[-2:] == [
        "unacknowledged results: 2, quarantined entries: 1, the last one 120 min ago",
        "      1 forged",
    ]


def test_what_was_cut_down_is_marked() -> None:
    reasons = {"a lease of s, shortened": 3, "forged": 1}
    clamps = [{"why": "a lease of s, shortened", "count": 3, "last_s_ago": 5.0}]
    assert shown(quarantine_reasons=reasons, clamps=clamps)[-2:] == [
        "      3 a lease of s, shortened (a clamp, 5 s ago)",
        "      1 forged",
    ]


def test_a_watcher_that_counts_no_phases() -> None:
    assert "pods: 6, their phases unknown (the version of the watcher is older)" in shown()


def test_waits_come_first() -> None:
    wait = {"reason": "QuotaExceeded", "count": 4000, "oldest_s": 65.0, "example": "l-1", "message": "used\x1b[2J up\n"}
    queues = {"q": {"kind": "launch", "queued": 0, "started": 0, "waiting": 4000, "failed": 0, "oldest_s": None}}
    lines = shown(waits=[wait], waits_read=1990, queues=queues)
    assert lines[2].split() == ["waits", "for", "count", "longest", "launch", "that", "waits", "longest", "message"]
    assert re.split(r"  +", lines[3]) == ["QuotaExceeded", "4000", "65 s", "l-1", "used [2J up"]
    assert lines[4] == "estimated from 1990 of 4000 waiting launches"
    assert "nothing waits" in shown()


def test_schedulers() -> None:
    one = {"name": "17", "version": "1", "launches": 5, "unread": 0, "last_update_s_ago": 2.0}
    assert "schedulers: unknown (none is running, or its version is older)" in shown()
    lines = shown(schedulers=[one])
    start = lines.index("schedulers: 1")
    assert re.split(r"  +", lines[start + 2].strip()) == ["17", "last update 2 s ago", "5", "0", "1"]


def test_a_watcher() -> None:
    watcher = {**WATCHER, "event_s_ago": 0.0, "bookmark_s_ago": 12.0, "lag_s": 0.44, "version": "1"}
    assert (
        "watcher: w-1 (6 pods, listed 60 min ago, last event 0 s ago, bookmark 12 s ago, lag 0.4 s, version 1)"
        in shown(watcher=watcher)
    )


def queued(oldest_s: float | None, kind: str = "launch") -> dict[str, Any]:
    return {"q": {"kind": kind, "oldest_s": oldest_s}}


PROBLEMS: list[tuple[dict[str, Any], str]] = [
    ({"launchers": [launcher("a", draining=True)]}, "every launcher is draining"),
    ({"watcher": {**WATCHER, "leader": ""}}, "no watcher is leading: airflow podrelay watcher"),
    ({"watcher": {**WATCHER, "trouble": "list: 403"}}, "the watcher cannot follow all pods: list: 403"),
    ({"watcher": {**WATCHER, "lag_s": 33.0}}, "the watcher reports the starts and ends of pods 33 s late"),
    ({"schedulers": [{"name": "1", "unread": 0, "last_update_s_ago": 90.0}]}, "no scheduler is running"),
    (
        {"schedulers": [{"name": "1", "unread": 1000, "last_update_s_ago": 1.0}]},
        "scheduler 1 has not read 1000 reports",
    ),
    ({"suspended": True}, "launchers are suspended: rq resume"),
    (
        {"throttle": ["all launches, for another 9 s: x"], "queues": queued(61.0)},
        "throttled, and a launch has waited",
    ),
    ({"refused_cleanups": ["delete pods in x"]}, "clean-ups are refused: cannot delete pods in x"),
    ({"key_mismatches": ["a does not have the key b"]}, "Fernet keys differ: a does not have the key b"),
    ({"quarantine_s_ago": 3.0}, "something in Redis could not be trusted or read, the last time 3 s ago"),
]
FINE: list[dict[str, Any]] = [
    {},
    {"throttle": ["all launches, for another 9 s: x"], "queues": queued(20.0)},
    {"throttle": ["namespace x, for another 9 s: x"], "queues": queued(900.0)},
    {"launchers": [launcher("a"), launcher("b", alive=False), launcher("c", draining=True)]},
    {"schedulers": [{"name": str(ago), "unread": None, "last_update_s_ago": float(ago)} for ago in (1, 100)]},
    {"throttle": ["all launches, for another 9 s: x"], "queues": queued(900.0, "cleanup")},
    {"throttle": ["all launches, for another 9 s: x"], "queues": queued(None), "quarantine_s_ago": None},
]


@pytest.mark.parametrize(("change", "sentence"), PROBLEMS, ids=[sentence for _, sentence in PROBLEMS])
def test_what_is_wrong_is_said(change: dict[str, Any], sentence: str) -> None:
    (found,) = problems({**HEALTHY, **change})
    assert found.startswith(sentence)


@pytest.mark.parametrize("change", FINE, ids=str)
def test_what_passes_by_itself_is_no_problem(change: dict[str, Any]) -> None:
    assert problems({**HEALTHY, **change}) == []


def test_the_commands_for_a_team_name_it() -> None:
    text = render_overview({**QUIET, "cluster": "red"})
    assert "<- start one: airflow podrelay launcher --team red" in text
    assert "<- start one: airflow podrelay watcher --team red (never listed)" in text
    assert "--team" not in render_overview(QUIET)
