"""Marked blocks of the pages: which there are, and when an output is as a page says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.harness.operator_pages import Step, matches, steps

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
