"""Warm pods that start in a moment: forked from one process that has imported Airflow, so that one pod a second leaves the
processor to what is measured. Their start delay stands for the time that imports would take.

`python -m tests.benchmarks.forked_pods SOCKET` is that process. `command()` is what the base container of a template runs.
"""

from __future__ import annotations

import sys
from pathlib import Path

from podrelay_workers.warm_pod.process import main as warm_pod
from tests.chaos import pod
from tests.chaos.warm_pods import Server

STANDS_FOR_A_POD = Path(__file__).with_name("forked_pod.py")


def command(server: Path) -> list[str]:
    """The `command` of a container; the arguments that podrelay gives it follow."""
    return [sys.executable, "-S", "-E", str(STANDS_FOR_A_POD), str(server)]


def _run(words: list[str]) -> int:
    return warm_pod(words[words.index(pod.WARM) + 1 :])


if __name__ == "__main__":
    Server(Path(sys.argv[1]), _run).run()
