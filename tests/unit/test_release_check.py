"""`make release-check` names what keeps a commit from being released, and nothing else."""

from __future__ import annotations

import datetime
import shutil
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tools.release_check import MENTIONS, ROOT, Release, main, problems, read_release

TODAY = datetime.date(2026, 11, 27)
READY = Release(
    mentions=dict.fromkeys(MENTIONS, "1.2.0"),
    changelog="# Changelog\n\n## [1.2.0] - 2026-11-27\n\n- x\n\n## [1.1.0] - 2026-10-01\n",
    upgrade_page="## Notes for each release\n\n### 1.2.0\n\nNone.\n",
    tags=("v1.2.0",),
    changed=(),
    distributions=("podrelay-1.2.0-py3-none-any.whl", "podrelay-1.2.0.tar.gz"),
    metadata_version="1.2.0",
)


def test_a_commit_that_is_ready_has_no_problem() -> None:
    assert list(problems(READY, TODAY)) == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"mentions": {**READY.mentions, "docker/helm/values.yaml": "1.1.0"}},
            "docker/helm/values.yaml says version 1.1.0",
        ),
        ({"mentions": {**READY.mentions, "docker/helm/values.yaml": None}}, "says version None"),
        (
            {"changelog": "## [Unreleased]\n\n## [1.1.0] - 2026-10-01\n"},
            "first heading of CHANGELOG.md is 'Unreleased'",
        ),
        ({"changelog": "nothing"}, "is 'none'"),
        ({"changelog": "## [1.2.0]\n"}, "no date"),
        ({"changelog": "## [1.2.0] - soon\n"}, "no date"),
        ({"changelog": "## [1.2.0] - 2026-11-28\n"}, "in the future"),
        ({"upgrade_page": "### 1.1.0\n"}, "no notes for 1.2.0"),
        ({"tags": ("v1.1.0",)}, "no tag v1.2.0 (it has: v1.1.0)"),
        ({"tags": ()}, "it has: none"),
        ({"changed": (" M README.md",)}, "files differ from the commit: M README.md".replace(": M", ":  M")),
        ({"distributions": ()}, "dist/ holds nothing"),
        ({"distributions": (*READY.distributions, "podrelay-1.1.0.tar.gz")}, "podrelay-1.1.0.tar.gz"),
        ({"metadata_version": "1.1.0"}, "the wheel says version 1.1.0"),
    ],
)
def test_one_problem_is_one_line(change: dict[str, Any], says: str) -> None:
    (problem,) = problems(replace(READY, **change), TODAY)
    assert says in problem


def git(root: Path, *words: str) -> None:
    author = ["-c", "user.name=t", "-c", "user.email=t@example.invalid"]
    subprocess.run(["git", "-C", str(root), *author, *words], check=True, capture_output=True)


def test_a_real_repository_before_and_after_its_tag(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in (*MENTIONS, "CHANGELOG.md", "docs/upgrade.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, tmp_path / name)
    (tmp_path / ".gitignore").write_text("dist/\n")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "x")
    version = read_release(tmp_path).version
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist" / f"podrelay-{version}.tar.gz").touch()
    with zipfile.ZipFile(tmp_path / "dist" / f"podrelay-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(
            f"podrelay-{version}.dist-info/METADATA", f"Metadata-Version: 2.4\nName: podrelay\nVersion: {version}\n"
        )
    assert main(tmp_path) == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert line == f"FAIL this commit has no tag v{version} (it has: none)"
    git(tmp_path, "tag", f"v{version}")
    assert main(tmp_path) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"podrelay {version} is ready to be published"
