"""A small process that outlives a killed server and kills the process groups that the server left behind.

`processes.Reaper` runs it as a script. It reads ``+<group>`` and ``-<group>`` lines from standard input. End of input means
that the server has ended, for whatever reason. One reaper per server costs less than a parent-death signal per container, and
it also reaches grandchildren.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterable


def groups_left(lines: Iterable[str]) -> set[int]:
    """The groups that were added and not removed again by the end of the input."""
    groups: set[int] = set()
    for line in lines:
        group = int(line[1:])
        if line[0] == "+":
            groups.add(group)
        else:
            groups.discard(group)
    return groups


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for left in groups_left(sys.stdin):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(left, signal.SIGKILL)
