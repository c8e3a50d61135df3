"""An Airflow home whose airflow.cfg Airflow generated, as in a default installation, and commands that run in it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
AIRFLOW = [sys.executable, "-m", "airflow"]
_COMMAND_S = 240.0


def environment(home: Path, **options: str) -> dict[str, str]:
    """No option comes from the environment, except `options`."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
    sources = os.pathsep.join(str(ROOT / folder) for folder in ("executor", "workers", "local_cluster"))
    return {**plain, "AIRFLOW_HOME": str(home), "PYTHONPATH": sources, **options}


def airflow(home: Path, *arguments: str, **options: str) -> subprocess.CompletedProcess[str]:
    """One airflow command; the first one in an empty home generates its airflow.cfg."""
    return subprocess.run(
        [*AIRFLOW, *arguments], env=environment(home, **options), capture_output=True, text=True, timeout=_COMMAND_S
    )


def generate(home: Path) -> Path:
    """Let Airflow generate airflow.cfg in an empty home; the file."""
    airflow(home, "config", "get-value", "core", "executor")
    file = home / "airflow.cfg"
    assert file.exists()
    return file
