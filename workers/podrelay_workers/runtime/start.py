"""The exit codes of every worker. Light on purpose: it is imported before anything else."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from podrelay.cli.plain_text import printable
from podrelay.errors import ConfigError, PodrelayError

FAILED = 1
USAGE_ERROR = 2


def exit_code(run: Callable[[], Any]) -> int:
    """What `run` returns: 0 after a shutdown. An error of podrelay is one line on stderr: 2 for a wrong option, else 1."""
    try:
        return int(run())
    except PodrelayError as error:
        print(f"podrelay: {printable(str(error))}", file=sys.stderr)
        return USAGE_ERROR if isinstance(error, ConfigError) else FAILED
