"""Marked blocks of the pages: which there are, and when an output is as a page says."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.harness.operator_pages import ROOT, Step, matches, steps

PAGE = """\
# A page

## First

<!-- operator: run -->
```sh
# a comment, no heading
echo a
```

### Below

<!-- operator: file /etc/a.yaml -->
```yaml
a: 1
```

## Second

```sh
echo unmarked
```
"""


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "page.md"
    path.write_text(PAGE)
    return path


def test_the_blocks_of_a_section(page: Path) -> None:
    first = Step("run", "", "sh", "# a comment, no heading\necho a\n")
    below = Step("file", "/etc/a.yaml", "yaml", "a: 1\n")
    assert steps(page) == steps(page, "First") == [first, below]
    assert steps(page, "Below") == [below]
    assert steps(page, "Second") == []


@pytest.mark.parametrize("text", ["<!-- operator: run -->\ntext\n", "<!-- operator: walk -->\n```sh\nx\n```\n"])
def test_a_mark_that_means_nothing_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "page.md").write_text(text)
    with pytest.raises(LookupError):
        steps(tmp_path / "page.md")


def test_a_section_that_is_not_there_is_an_error(page: Path) -> None:
    with pytest.raises(LookupError, match="Third"):
        steps(page, "Third")


@pytest.mark.parametrize(
    ("expected", "printed", "same"),
    [
        ("ok   Redis: …\n", "ok   Redis: reachable\n", True),
        ("ok   Redis: …\n", "ok Redis: reachable", True),
        ("ok   Redis: …\n", "FAIL Redis: reachable\n", False),
        ("…\nb\n…\n", "a\nb\nc\n", True),
        ("…\nb\n…\n", "b\n", True),
        ("…\nb\n…\n", "a\nc\n", False),
        ("a\nb\n", "a\nb\nc\n", False),
        ("…\nlaunchers: 4\n…\n", "launchers: 41\n", False),
        ("…\nx … y …\n", "x | 1 | y | 2\n", True),
    ],
)
def test_whether_an_output_is_as_expected(expected: str, printed: str, same: bool) -> None:
    assert matches(expected, printed) is same


# --- the pages themselves ---------------------------------------------------------------------------------------------
PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^( *)```sh\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
# As they may stand in a command: below a folder of the repository.
FILE = re.compile(r"(?<![\w./-])(?:docker|docs|demo|tests|executor|workers|local_cluster|findings)/[\w./@-]*\w")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_mark_belongs_to_a_block(page: Path) -> None:
    for step in steps(page):
        assert step.language == {"airflow.cfg": "ini", "output": "text", "file": step.language}.get(step.kind, "sh")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_have_the_syntax_of_a_shell_and_name_files_that_exist(page: Path) -> None:
    for _, block in FENCE.findall(page.read_text("utf-8")):
        done = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{block}\n{done.stderr}"
        assert [name for name in FILE.findall(block) if not (ROOT / name).exists() and not generated(name)] == []


def generated(name: str) -> bool:
    """Does an operator make this file?"""
    return name in ("docker/.env",)
