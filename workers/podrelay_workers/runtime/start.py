"""The command line of `python -m podrelay_workers.launcher` and `... watcher`, and the exit codes of every worker.

Light on purpose: it runs before Airflow is imported, and again after `handover`.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from typing import Any, Literal

from podrelay.cli.plain_text import printable
from podrelay.errors import ConfigError, PodrelayError
from podrelay_workers.runtime.state_signals import ignore_while_starting

FAILED = 1
USAGE_ERROR = 2

_TEAM = {
    "launcher": "team to serve (default: launches without a team)",
    "watcher": "team whose pods to follow (default: pods without a team)",
}


def main(role: Literal["launcher", "watcher"], argv: Sequence[str] | None = None) -> int:
    """Run one worker as a process with its log on stderr, and return its exit code."""
    ignore_while_starting()
    parser = argparse.ArgumentParser(prog=f"podrelay-{role}", description=f"Run one {role} until SIGTERM.")
    parser.add_argument("--team", default=None, help=_TEAM[role])
    args = parser.parse_args(argv)
    return exit_code(lambda: importlib.import_module(f"podrelay_workers.{role}.start").run(args.team))


def exit_code(run: Callable[[], Any]) -> int:
    """What `run` returns: 0 after a shutdown. An error of podrelay is one line on stderr: 2 for a wrong option, else 1."""
    try:
        return int(run())
    except PodrelayError as error:
        print(f"podrelay: {printable(str(error))}", file=sys.stderr)
        return USAGE_ERROR if isinstance(error, ConfigError) else FAILED
