"""Pure: what is wrong with a deployment, judged by its overview. Used by `airflow podrelay status`, for its exit code too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from podrelay.protocol.identifiers import DEFAULT_CLUSTER
from podrelay.protocol.messages import Json

# A pause of all launches is normal; one that keeps a launch waiting for so long is not.
_THROTTLED_S = 60.0
# An entry of the quarantine counts for so long.
_QUARANTINED_S = 3600.0
# A scheduler announces itself every few seconds.
_SILENT_S = 30.0
_UNREAD_MOST = 500
# Kubernetes counts whole seconds, and clocks differ by some.
_LAG_MOST_S = 10.0


def problems(found: Json) -> list[str]:
    """One sentence for each thing that is wrong, with its remedy where there is one; empty if all is well.

    :param found: what `store.overview.read_overview` returned.
    """
    return [sentence for check in _CHECKS for sentence in check(found)]


def team_option(found: Json) -> str:
    """The rest of a command that starts a process for this cluster: a team's pods are a cluster of their own."""
    return "" if found["cluster"] == DEFAULT_CLUSTER else f" --team {found['cluster']}"


def _launchers(found: Json) -> Iterator[str]:
    alive = [launcher for launcher in found["launchers"] if launcher["alive"]]
    if not alive:
        yield f"no launcher is running: airflow podrelay launcher{team_option(found)}"
    elif all(launcher["draining"] for launcher in alive):
        yield f"every launcher is draining: airflow podrelay launcher{team_option(found)} starts one"


def _watcher(found: Json) -> Iterator[str]:
    watcher = found["watcher"]
    if not watcher["leader"]:
        yield f"no watcher is leading: airflow podrelay watcher{team_option(found)}"
    if watcher["trouble"]:
        yield f"the watcher cannot follow all pods: {watcher['trouble']}"
    if (watcher["lag_s"] or 0.0) > _LAG_MOST_S:
        yield f"the watcher reports the starts and ends of pods {watcher['lag_s']:.0f} s late"


def _schedulers(found: Json) -> Iterator[str]:
    schedulers = found["schedulers"]
    if schedulers and all(scheduler["last_update_s_ago"] > _SILENT_S for scheduler in schedulers):
        ago_s = min(scheduler["last_update_s_ago"] for scheduler in schedulers)
        yield f"no scheduler is running: the last one was seen {ago_s:.0f} s ago"
    for scheduler in schedulers:
        if (scheduler["unread"] or 0) >= _UNREAD_MOST:
            yield f"scheduler {scheduler['name']} has not read {scheduler['unread']} reports or more"


def _pauses(found: Json) -> Iterator[str]:
    if found["suspended"]:
        yield "launchers are suspended: rq resume --url REDIS_URL"
    launches = (queue["oldest_s"] for queue in found["queues"].values() if queue["kind"] == "launch")
    oldest_s = max((seconds or 0.0 for seconds in launches), default=0.0)
    if oldest_s > _THROTTLED_S:
        for throttle in found["throttle"]:
            if throttle.startswith("all launches"):
                yield f"throttled, and a launch has waited for {oldest_s:.0f} s: {throttle}"
    for refusal in found["refused_cleanups"]:
        yield f"clean-ups are refused: cannot {refusal}"


def _warm_pods(found: Json) -> Iterator[str]:
    for shape in found.get("warm", {}).get("shapes", ()):
        if shape["off_s"]:
            why = f": {shape['off_why']}" if shape["off_why"] else ""
            yield f"no warm pods of shape {shape['shape']} are kept for another {shape['off_s']:.0f} s{why}"


def _trust(found: Json) -> Iterator[str]:
    for sentence in found["key_mismatches"]:
        yield f"Fernet keys differ: {sentence}"
    ago_s = found["quarantine_s_ago"]
    if ago_s is not None and ago_s < _QUARANTINED_S:
        yield f"something in Redis could not be trusted or read, the last time {ago_s:.0f} s ago: see the quarantine below"


_CHECKS: tuple[Callable[[Any], Iterator[str]], ...] = (
    _launchers, _watcher, _schedulers, _pauses, _warm_pods, _trust,
)  # fmt: skip
