"""A tiny process that outlives a killed server just long enough to kill the process groups the server left behind.

Run as a script by `processes.Reaper`. It reads ``+<group>`` and ``-<group>`` lines from its standard input; the end of the
input means that the server is gone, however it went. One such process per server costs less than asking the kernel for a
death signal per container, and it reaches grandchildren too.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterable


def groups_left(lines: Iterable[str]) -> set[int]:
    """The groups named but not taken back when the input ends."""
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
