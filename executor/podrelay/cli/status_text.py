"""Pure: what `status` read from Redis, as text for a terminal. Used by `airflow podrelay status` without `--json`."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import Any

from podrelay.protocol.identifiers import DEFAULT_CLUSTER
from podrelay.protocol.lifecycle import STEPS, durations_s
from podrelay.protocol.messages import Json
from podrelay.protocol.redis_values import number_of

# The fields of a ledger entry in the order of their use; fields that are not named here follow by name.
_FIELDS = (
    "state", "attempt", "reason", "message", "pod", "namespace", "node", "launcher", "owner", "cluster", "subject", "uid",
)  # fmt: skip
_SHOWN_AS_TASK = ("kind", "key")


def render_overview(found: Json) -> str:
    """What `status.overview` returned: a table of the queues, then a line for each process, throttle and total."""
    return "\n".join(
        [
            f"deployment {found['deployment']}, cluster {found['cluster']}",
            "",
            *_queue_lines(found["queues"]),
            "",
            *_launcher_lines(found["launchers"], _team_option(found)),
            *_watcher_lines(found["watcher"], _team_option(found)),
            *(
                ["suspended: launchers take nothing  <- go on with: rq resume --url REDIS_URL"]
                if found["suspended"]
                else []
            ),
            *(f"Fernet keys differ: {sentence}" for sentence in found["key_mismatches"]),
            *(f"throttled: {throttle}" for throttle in found["throttle"]),
            *(f"clean-ups refused: cannot {refusal}" for refusal in found["refused_cleanups"]),
            f"unacknowledged results: {found['unacknowledged']}, quarantined entries: {found['quarantine']}",
            *(f"  {count:5} {_printable(reason)}" for reason, count in found["quarantine_reasons"].items()),
        ]
    )


def render_launch(entry: dict[str, str]) -> str:
    """The ledger entry of one launch: what it is for, where it is, then each step with the seconds since the step before."""
    others = sorted(name for name in entry if name not in _FIELDS and name not in _SHOWN_AS_TASK and name[:2] != "t_")
    lines = [f"{name:12} {_printable(value)}" for name, value in _subject(entry)]
    lines += [f"{name:12} {_printable(entry[name])}" for name in (*_FIELDS, *others) if entry.get(name)]
    took_s = dict(durations_s(entry))
    for step in STEPS:
        if at := entry.get(f"t_{step}"):
            since = f"  +{took_s[step]:.3f} s" if step in took_s else ""
            lines.append(f"{step:12} {_moment(at)}{since}")
    return "\n".join(lines)


def launch_as_json(entry: dict[str, str]) -> Json:
    """The ledger entry of one launch for `--json`: as it is, with the task's key as a list."""
    key = _key(entry)
    return {**entry, "key": key} if key else dict(entry)


def _subject(entry: dict[str, str]) -> list[tuple[str, str]]:
    """What the launch is for, as (name, value): a task instance in words, anything else by its kind and key."""
    key, kind = _key(entry), entry.get("kind", "")
    if kind != "task" or len(key) != 5:
        found = (("kind", kind), ("key", ", ".join(map(str, key)) or entry.get("key", "")))
        return [(name, value) for name, value in found if value]
    dag_id, task_id, run_id, try_number, map_index = key
    mapped = "" if map_index == -1 else f", map index {map_index}"
    return [("task", f"{dag_id}.{task_id}{mapped}, try {try_number}"), ("run", str(run_id))]


def _key(entry: dict[str, str]) -> list[Any]:
    try:
        key = json.loads(entry.get("key") or "null")
    except (ValueError, RecursionError):
        return []
    return key if isinstance(key, list) else []


def _printable(value: str) -> str:
    """One line, without characters that a terminal acts on: every field comes from Redis."""
    return "".join(char if char.isprintable() else " " for char in value)


def _moment(at: str) -> str:
    """A time of the ledger; a text of Redis where it is none."""
    try:
        return datetime.fromtimestamp(number_of(at), timezone.utc).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    except (ValueError, OverflowError, OSError):
        return _printable(at)


def _team_option(found: Json) -> str:
    """The rest of a command that starts a process for this cluster: a team's pods are a cluster of their own."""
    return "" if found["cluster"] == DEFAULT_CLUSTER else f" --team {found['cluster']}"


def _queue_lines(queues: dict[str, dict[str, int]]) -> list[str]:
    lines = [f"{'queue':48} {'queued':>8} {'started':>8} {'waiting':>8} {'failed':>8}"]
    for name, counts in queues.items():
        lines.append(f"{name:48} {counts['queued']:8} {counts['started']:8} {counts['waiting']:8} {counts['failed']:8}")
    return lines


def _launcher_lines(launchers: list[Json], team: str) -> list[str]:
    """The number of live launchers, then every registered one: a dead one stays registered for a minute."""
    alive = sum(launcher["alive"] for launcher in launchers)
    headline = f"launchers: {alive or 'none'}" + ("" if alive else f"  <- start one: airflow podrelay launcher{team}")
    return [headline, *(f"  {launcher['name']}  {_launcher_state(launcher)}" for launcher in launchers)]


def _launcher_state(launcher: Json) -> str:
    age = f"last update {launcher['last_update_s_ago']:.0f} s ago"
    return f"{launcher['state']}, {age}" if launcher["alive"] else f"not responding: {age}"


def _watcher_lines(watcher: Json, team: str) -> list[str]:
    ages = "never listed" if watcher["listed_s_ago"] is None else f"listed {watcher['listed_s_ago']:.0f} s ago"
    if watcher["event_s_ago"] is not None:
        ages += f", last event {watcher['event_s_ago']:.0f} s ago"
    if not watcher["leader"]:
        return [f"watcher: none  <- start one: airflow podrelay watcher{team} ({ages})"]
    lines = [f"watcher: {watcher['leader']} ({watcher['pods']} pods, {ages})"]
    return lines + ([f"  not ready: {watcher['trouble']}"] if watcher["trouble"] else [])
