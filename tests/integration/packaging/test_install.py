"""README's line installs podrelay beside the Airflow that is there, and changes nothing of Airflow itself."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tools.airflow_matrix import ADDED, PROVIDER, changes

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


def resolve(uv: Path, *words: str) -> dict[str, str]:
    """The versions that would be installed. Skips the test without an index."""
    command = [
        str(uv), "pip", "compile", "--quiet", "--system-certs", "--python-version", "3.12", "--no-header", "--no-annotate",
        *words,
    ]  # fmt: skip
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if ended.returncode and NO_INDEX.search(ended.stderr):
        pytest.skip("no package index can be reached")
    assert ended.returncode == 0, ended.stderr
    return dict(line.split("==", 1) for line in ended.stdout.splitlines() if "==" in line)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("airflow", ["3.1.0", "3.1.8", "3.2.1", "3.3.2"])
def test_podrelay_installs_beside_each_airflow_and_changes_none_of_its_versions(airflow: str, tmp_path: Path) -> None:
    uv = Path(sys.executable).with_name("uv")
    if not uv.exists():
        pytest.skip("no uv in this environment")
    pin, wanted, frozen = (tmp_path / name for name in ("pin.txt", "wanted.txt", "frozen.txt"))
    pin.write_text(f"apache-airflow=={airflow}\n")
    wanted.write_text(f"apache-airflow=={airflow}\napache-airflow-providers-cncf-kubernetes\n")
    before = resolve(uv, str(wanted))
    # As `pip freeze` prints an environment without podrelay.
    frozen.write_text("".join(f"{name}=={version}\n" for name, version in before.items()))
    after = resolve(uv, "--constraints", str(frozen), "pyproject.toml", str(pin))
    assert before.items() <= after.items()
    assert after.keys() - before.keys() <= ADDED
    assert {name: after[name] for name in OF_AIRFLOW} == dict.fromkeys(OF_AIRFLOW, airflow)


BEFORE = {PROVIDER: "10.8.2", "kubernetes": "33.1.0", "apache-airflow-core": "3.1.0", "rich": "14.0"}


def test_the_matrix_allows_a_newer_provider_and_what_it_needs_and_nothing_else() -> None:
    """What `make airflow-matrix` compares."""
    after = {**BEFORE, PROVIDER: "10.24.0", "kubernetes": "35.0.0", "rq": "3.0.0", "podrelay": "0.1.0"}
    expected, wrong = changes(BEFORE, after)
    assert expected == [
        f"{PROVIDER} 10.8.2 -> 10.24.0", "kubernetes 33.1.0 -> 35.0.0", "podrelay none -> 0.1.0", "rq none -> 3.0.0",
    ]  # fmt: skip
    assert wrong == []
    assert changes(BEFORE, {**BEFORE, "apache-airflow-core": "3.1.1"})[1] == ["apache-airflow-core 3.1.0 -> 3.1.1"]
    assert changes(BEFORE, {**BEFORE, "flask": "3"})[1] == ["flask none -> 3"]
    assert changes(BEFORE, {name: value for name, value in BEFORE.items() if name != "rich"})[1] == [
        "rich 14.0 -> none"
    ]
    new_enough = {**BEFORE, PROVIDER: "10.21.0"}
    assert changes(new_enough, {**new_enough, "kubernetes": "35.0.0"})[1] == ["kubernetes 33.1.0 -> 35.0.0"]
