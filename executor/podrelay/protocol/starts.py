"""How the pod of a launch began: warm, or cold and why. Pure. Launchers write it into the ledger while warm pods are on.

The field is not encrypted, so that every reader takes only the words of this table.
"""

from __future__ import annotations

from typing import Literal, get_args

# Why a launch is cold: no_idle_pod: the pool of its shape is empty. new_shape: no earlier launch had its shape. pool_off: the
# warm pods of its shape failed. timed_out: its warm pod did not take the workload in time. not_eligible: no warm pod can run
# it. repeated: Redis had lost it, and a warm pod may have run it then. retried: a launcher has tried to create its pod.
Start = Literal["warm", "no_idle_pod", "new_shape", "pool_off", "timed_out", "not_eligible", "repeated", "retried"]
STARTS: tuple[Start, ...] = get_args(Start)

_TEXTS: dict[str, str] = {
    "warm": "a warm pod",
    "no_idle_pod": "a new pod: no warm pod of its shape was idle",
    "new_shape": "a new pod: no earlier launch had its shape",
    "pool_off": "a new pod: warm pods of its shape failed, and none is kept for now",
    "timed_out": "a new pod: its warm pod did not take the workload in time",
    "not_eligible": "a new pod: warm pods cannot run this launch",
    "repeated": "a new pod: Redis had lost the launch",
    "retried": "a new pod: an earlier try may have created it",
}

# The reason of a warm pod that ended although a launch was assigned to it: it never got the workload.
UNUSED = "WarmPodUnused"


def start_in(text: str | None) -> str:
    """The word in a field of Redis; empty for any other text."""
    return text if text in _TEXTS else ""


def start_text(start: str) -> str:
    """The word for people; empty for any other text."""
    return _TEXTS.get(start, "")
