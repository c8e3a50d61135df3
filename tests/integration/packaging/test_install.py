"""README's line installs podrelay beside the Airflow that is there, and changes nothing of Airflow itself."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
OF_AIRFLOW = ("apache-airflow", "apache-airflow-core")
# uv's words for an index that it cannot reach.
NO_INDEX = re.compile(r"Failed to fetch|error sending request|dns error|Connect|network connectivity is disabled")


def line_of_the_readme() -> str:
    found = re.search(r"^pip install (\. .*)$", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)
    assert found is not None
    return found[1]


def test_the_readme_pins_the_airflow_that_is_there() -> None:
    line = line_of_the_readme()
    assert '"apache-airflow==$(airflow version)"' in line
    assert "constraints.txt" not in line


@pytest.mark.timeout(300)
@pytest.mark.parametrize("airflow", ["3.1.0", "3.2.1", "3.3.2"])
def test_podrelay_installs_beside_each_airflow(airflow: str, tmp_path: Path) -> None:
    pin = tmp_path / "airflow.txt"
    pin.write_text(f"apache-airflow=={airflow}\n")
    uv = Path(sys.executable).with_name("uv")
    if not uv.exists():
        pytest.skip("no uv in this environment")
    words = [
        str(uv),
        "pip",
        "compile",
        "--quiet",
        "--system-certs",
        "--python-version",
        "3.12",
        "--no-header",
        "--no-annotate",
    ]
    ended = subprocess.run([*words, "pyproject.toml", str(pin)], cwd=ROOT, capture_output=True, text=True, check=False)
    if ended.returncode and NO_INDEX.search(ended.stderr):
        pytest.skip("no package index can be reached")
    assert ended.returncode == 0, ended.stderr
    versions = dict(line.split("==", 1) for line in ended.stdout.splitlines() if "==" in line)
    assert {name: versions[name] for name in OF_AIRFLOW} == dict.fromkeys(OF_AIRFLOW, airflow)
    assert {"rq", "redis", "apache-airflow-providers-cncf-kubernetes"} <= versions.keys()
