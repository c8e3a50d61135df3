"""`airflow podrelay status --probe` and `podrelay-probe`: the readiness of the launchers or watchers of this host (in a
container: of its one).

Importing Airflow takes a second or more of CPU time. `podrelay-probe` imports nothing but this module and `health`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

from podrelay import health
from podrelay.health import ProcessHealth


def probe(kind: str, team: str | None, place: str) -> tuple[bool, str]:
    """Whether every process of this kind and deployment is ready, and one line about each. Without any process the answer
    is no.
    """
    return _answer(kind, health.read(kind, team, place))


def main(argv: Sequence[str] | None = None) -> int:
    """The command line of `podrelay-probe`; returns the exit code: 0 ready, 1 not ready, 2 wrong arguments."""
    parser = argparse.ArgumentParser(
        prog="podrelay-probe",
        description="Print whether the launchers or watchers of this host and user are ready, in milliseconds: as "
        "`airflow podrelay status --probe`, without Airflow's start-up.",
    )
    parser.add_argument("kind", choices=("launcher", "watcher"), help="which processes")
    parser.add_argument("--team", default=None, help="those of a team (default: those without one)")
    parser.add_argument("--deployment", default=None, help="those of one deployment (default: of all on this host)")
    args = parser.parse_args(argv)
    records = health.read(args.kind, args.team)
    if args.deployment is not None:
        records = [record for record in records if record.deployment == args.deployment]
    ready, line = _answer(args.kind, records)
    print(line)
    return 0 if ready else 1


def _answer(kind: str, records: Sequence[ProcessHealth]) -> tuple[bool, str]:
    if not records:
        return False, f"no {kind} process on this host"
    reasons = [record.why_not_ready(time.time()) for record in records]
    lines = [record.line(reason) for record, reason in zip(records, reasons, strict=True)]
    return not any(reasons), ", ".join(lines)
