"""Each text that docs/troubleshooting.md quotes is one that the code can print."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.harness.source_texts import prints, texts

ROOT = Path(__file__).resolve().parents[2]
# Airflow's own: argparse prints it.
OF_AIRFLOW = {"invalid choice: 'podrelay'"}
ROWS = re.findall(
    r"^\| `([^`]+)` \| (.+?) \| (.+?) \|$", (ROOT / "docs/troubleshooting.md").read_text("utf-8"), re.MULTILINE
)


@pytest.fixture(scope="module")
def templates() -> list[str]:
    return [text for package in ("executor", "workers") for text in texts(ROOT / package) if len(text) > 10]


def test_every_row_quotes_a_text_and_says_what_to_do() -> None:
    lines = [
        line for line in (ROOT / "docs/troubleshooting.md").read_text("utf-8").splitlines() if line.startswith("| ")
    ]
    assert len(ROWS) == len([line for line in lines if not line.startswith("| text |")]) > 40


@pytest.mark.parametrize("quoted", [row[0] for row in ROWS if row[0] not in OF_AIRFLOW])
def test_a_text_on_the_page_is_in_the_code(quoted: str, templates: list[str]) -> None:
    assert any(prints(quoted, template) for template in templates), quoted


def test_each_problem_that_status_names_is_on_the_page() -> None:
    problems = set(texts(ROOT / "executor/podrelay/cli", "status_problems.py"))
    sentences = [text for text in problems if text.count(" ") >= 3]
    assert len(sentences) >= 10
    assert [text for text in sentences if not any(prints(row[0], text) for row in ROWS)] == []


@pytest.mark.parametrize(
    ("quoted", "template", "same"),
    [
        ("Launch … waits … s: …", "Launch … waits … s: …", True),
        ("waits … s", "Launch … waits … s: …", True),
        ("Launch … waited", "Launch … waits … s: …", False),
        ("b … a", "a … b", False),
    ],
)
def test_when_a_text_is_the_quoted_one(quoted: str, template: str, same: bool) -> None:
    assert prints(quoted, template) is same
