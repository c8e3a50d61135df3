"""Pure: what `status` read from Redis, as text for a terminal. Used by `airflow podrelay status` without `--json`."""

from __future__ import annotations

from datetime import datetime, timezone

from podrelay.protocol.lifecycle import STEPS, durations_s
from podrelay.protocol.messages import Json


def render_overview(found: Json) -> str:
    """What `status.overview` returned: a table of the queues, then a line for each process, throttle and total."""
    return "\n".join(
        [
            f"deployment {found['deployment']}, cluster {found['cluster']}",
            "",
            *_queue_lines(found["queues"]),
            "",
            *_launcher_lines(found["launchers"]),
            *_watcher_lines(found["watcher"]),
            *(f"Fernet keys differ: {sentence}" for sentence in found["key_mismatches"]),
            *(f"throttled: {throttle}" for throttle in found["throttle"]),
            *(f"clean-ups refused: cannot {refusal}" for refusal in found["refused_cleanups"]),
            f"unacknowledged results: {found['unacknowledged']}, quarantined entries: {found['quarantine']}",
        ]
    )


def render_launch(entry: dict[str, str]) -> str:
    """The ledger entry of one launch: its fields, then the time of each step with the seconds since the step before."""
    lines = [f"{name:12} {entry[name]}" for name in sorted(entry) if not name.startswith("t_")]
    took_s = dict(durations_s(entry))
    for step in STEPS:
        if at := entry.get(f"t_{step}"):
            moment = datetime.fromtimestamp(float(at), timezone.utc).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
            since = f"  +{took_s[step]:.3f} s" if step in took_s else ""
            lines.append(f"{step:12} {moment}{since}")
    return "\n".join(lines)


def _queue_lines(queues: dict[str, dict[str, int]]) -> list[str]:
    lines = [f"{'queue':48} {'queued':>8} {'started':>8} {'waiting':>8} {'failed':>8}"]
    for name, counts in queues.items():
        lines.append(f"{name:48} {counts['queued']:8} {counts['started']:8} {counts['waiting']:8} {counts['failed']:8}")
    return lines


def _launcher_lines(launchers: list[Json]) -> list[str]:
    """The number of live launchers, then every registered one: a dead one stays registered for a minute."""
    alive = sum(launcher["alive"] for launcher in launchers)
    headline = f"launchers: {alive or 'none'}" + ("" if alive else "  <- start one: airflow podrelay launcher")
    return [headline, *(f"  {launcher['name']}  {_launcher_state(launcher)}" for launcher in launchers)]


def _launcher_state(launcher: Json) -> str:
    age = f"last update {launcher['last_update_s_ago']:.0f} s ago"
    return f"{launcher['state']}, {age}" if launcher["alive"] else f"not responding: {age}"


def _watcher_lines(watcher: Json) -> list[str]:
    ages = "never listed" if watcher["listed_s_ago"] is None else f"listed {watcher['listed_s_ago']:.0f} s ago"
    if watcher["event_s_ago"] is not None:
        ages += f", last event {watcher['event_s_ago']:.0f} s ago"
    if not watcher["leader"]:
        return [f"watcher: none  <- start one: airflow podrelay watcher ({ages})"]
    lines = [f"watcher: {watcher['leader']} ({watcher['pods']} pods, {ages})"]
    return lines + ([f"  not ready: {watcher['trouble']}"] if watcher["trouble"] else [])
