"""What a process and its children have cost so far, from the kernel."""

from __future__ import annotations

import os
import time
from pathlib import Path


def cost_of(pid: int) -> dict[str, float]:
    """CPU seconds so far, resident memory now, and how often threads have waited for something, of a process and its
    children; the CPU seconds of those that have ended included.
    """
    ticks = os.sysconf("SC_CLK_TCK")
    cpu, memory_kb, wakes = 0.0, 0, 0
    for member in _family(pid):
        try:
            # A life of a few tasks costs less than the ticks in which /proc counts: the process's own clock is exact.
            cpu += time.clock_gettime(_cpu_clock(member))
            stat = Path(f"/proc/{member}/stat").read_text().rsplit(")", 1)[1].split()
            memory_kb += _number(f"/proc/{member}/status", "VmRSS")
            threads = os.listdir(f"/proc/{member}/task")  # noqa: PTH208 - faster, and their names are all that is needed
            wakes += sum(_number(f"/proc/{member}/task/{one}/status", "voluntary_ctxt_switches") for one in threads)
        except OSError:
            continue
        cpu += sum(map(int, stat[13:15])) / ticks
    return {"cpu_s": cpu, "memory_mb": memory_kb / 1024, "wakes": float(wakes)}


def _cpu_clock(pid: int) -> int:
    """The clock of all threads of a process, as Linux numbers it (clock_getcpuclockid)."""
    return (~pid << 3) | 2


def _number(path: str, name: str) -> int:
    """Of one line of a status file; 0 where it has none."""
    lines = Path(path).read_text().splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), 0)


def _family(pid: int) -> list[int]:
    found = [pid]
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return found
    for child in children:
        found += _family(int(child))
    return found
