"""What a process and its children have cost so far, from /proc."""

from __future__ import annotations

import os
from pathlib import Path


def cost_of(pid: int) -> dict[str, float]:
    """CPU seconds so far, and resident memory now, of a process and its children; those that have ended included."""
    ticks = os.sysconf("SC_CLK_TCK")
    cpu, memory_kb = 0.0, 0
    for member in _family(pid):
        try:
            stat = Path(f"/proc/{member}/stat").read_text().rsplit(")", 1)[1].split()
            status = Path(f"/proc/{member}/status").read_text()
        except OSError:
            continue
        cpu += sum(map(int, stat[11:15])) / ticks
        memory_kb += next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")), 0)
    return {"cpu_s": cpu, "memory_mb": memory_kb / 1024}


def _family(pid: int) -> list[int]:
    found = [pid]
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return found
    for child in children:
        found += _family(int(child))
    return found
