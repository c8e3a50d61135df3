"""The builds of podrelay that a benchmark compares: each a checkout with its own Python. All run in this checkout's bed.

Needed of a build: `airflow podrelay launcher`, `airflow podrelay watcher` and the executor's class. A build that has the
command `podrelay` is measured with that one. `drive.py` and what it
imports belong to this checkout and know only Airflow's interface; they run in the build's Python.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EXECUTOR = "podrelay.executor.RedisKubernetesExecutor"
_WHERE = "import podrelay, podrelay_workers; print(podrelay.__file__); print(podrelay_workers.__file__)"


@dataclass(frozen=True)
class Build:
    """`label` begins the names of its rows."""

    label: str
    root: Path
    python: str

    def worker(self, kind: str) -> list[str]:
        """The command of a launcher or watcher, as the build's documentation recommends; its working directory is `root`."""
        own = Path(self.python).with_name("podrelay")
        return [str(own), kind] if own.exists() else self.worker_by_airflow(kind)

    def worker_by_airflow(self, kind: str) -> list[str]:
        """The same by Airflow's command line."""
        return [self.python, "-m", "airflow", "podrelay", kind]


THIS = Build("podrelay", ROOT, sys.executable)


def other_build(root: Path) -> Build:
    """The build of another checkout, named after its commit.

    :raises ValueError: it has no `.venv`, or its Python does not run its own code.
    """
    python = root / ".venv" / "bin" / "python"
    if not python.exists():
        raise ValueError(f"--against: {root} has no .venv; run `make lint` there first")
    found = subprocess.run([python, "-c", _WHERE], cwd=root, capture_output=True, text=True, check=False)
    files = [Path(line).resolve() for line in found.stdout.split()]
    if len(files) != 2 or not all(file.is_relative_to(root.resolve()) for file in files):
        raise ValueError(f"--against: the .venv of {root} runs other code: {found.stdout or found.stderr[-500:]}")
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=root, capture_output=True, text=True, check=False
    )
    return Build(commit.stdout.strip() or root.name, root, str(python))
