"""Two builds in one report, and what makes a checkout a build that can be measured."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.against import COMPARED, Pair, comparison, pairs
from tests.benchmarks.builds import THIS, other_build


def report(**changes: Any) -> dict[str, Any]:
    def life(name: str, seconds: float) -> dict[str, Any]:
        return {"name": name, "heartbeat_sum_s": seconds, "to_post": {"p50_ms": 1000 * seconds}}

    rows = [life("stock serial, batch 16", 90.0), life("podrelay, 1 launcher", 0.2), life("2efa43c, 1 launcher", 0.4)]
    return {"other": "2efa43c", "life": [{"latency_s": 0.05, "rows": rows}], **changes}


def test_each_figure_of_both_builds_has_its_ratio() -> None:
    assert list(pairs(report())) == [
        Pair("life, 50 ms", "1 launcher", "s in heartbeat()", 0.2, 0.4),
        Pair("life, 50 ms", "1 launcher", "ms to POST, p50", 200.0, 400.0),
    ]
    assert comparison(report())[2] == "| life, 50 ms: 1 launcher, s in heartbeat() | 0.2 | 0.4 | 0.50 |"


@pytest.mark.parametrize(
    "changes",
    [
        {"other": None},
        {"other": "abcdef0"},
        {"life": [{"latency_s": 0.0, "rows": [{"name": "podrelay, 1 launcher", "heartbeat_sum_s": 1.0}]}]},
    ],
)
def test_what_only_one_build_has_is_not_compared(changes: dict[str, Any]) -> None:
    assert comparison(report(**changes)) == []


def test_a_build_without_a_figure_has_no_ratio() -> None:
    rows = [
        {"name": "podrelay, launcher", "wall_s": 1.0, "cpu_s": 0.0},
        {"name": "2efa43c, launcher", "wall_s": 2.0, "cpu_s": 0},
    ]
    found = list(pairs({"other": "2efa43c", "start": {"rows": rows}}))
    assert [pair.ratio for pair in found] == [0.5, None]
    assert set(COMPARED["start"].values()) == {pair.unit for pair in found}


def checkout(folder: Path, code: str) -> Path:
    """One whose Python answers with these words."""
    python = folder / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!{sys.executable}\nprint({code!r})\n")
    python.chmod(0o755)
    return folder


def test_a_checkout_without_python_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no .venv; run `make lint` there first"):
        other_build(tmp_path)


def test_a_python_that_runs_other_code_is_refused(tmp_path: Path) -> None:
    """Its figures would be those of another build."""
    with pytest.raises(ValueError, match="runs other code: /elsewhere/podrelay"):
        other_build(checkout(tmp_path, "/elsewhere/podrelay/__init__.py /elsewhere/podrelay_workers/__init__.py"))


def test_a_build_is_named_after_its_commit(tmp_path: Path) -> None:
    root = tmp_path.resolve()
    checkout(root, f"{root}/executor/podrelay/__init__.py {root}/workers/podrelay_workers/__init__.py")
    git = ["git", "-C", str(root), "-c", "user.name=t", "-c", "user.email=t@localhost"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "-m", "x"], check=True)
    commit = subprocess.run(
        [*git, "rev-parse", "--short", "HEAD"], check=True, capture_output=True, text=True
    ).stdout.strip()
    build = other_build(root)
    assert (build.label, build.root) == (commit, root)
    assert build.worker("launcher") == [f"{root}/.venv/bin/python", "-m", "airflow", "podrelay", "launcher"]
    assert THIS.label == "podrelay"
