"""`airflow podrelay status --probe`: the readiness of the launchers or watchers of this host (in a container: of its one)."""

from __future__ import annotations

import time

from podrelay import health


def probe(kind: str, team: str | None, place: str) -> tuple[bool, str]:
    """Whether every process of this kind and deployment is ready, and one line about each. Without any process the answer
    is no.
    """
    records = health.read(kind, team, place)
    if not records:
        return False, f"no {kind} process on this host"
    reasons = [(record.pid, record.why_not_ready(time.time())) for record in records]
    line = ", ".join(f"{kind} {pid} is {f'not ready: {reason}' if reason else 'ready'}" for pid, reason in reasons)
    return not any(reason for _, reason in reasons), line
