"""Each `airflow podrelay` command that a page, a manifest or a unit shows is one that the real parser accepts.

So is each `podrelay launcher` and `podrelay watcher`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
FILES = [
    *sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")), ROOT / "Procfile",
    *sorted(path for path in (ROOT / "docker").rglob("*") if path.is_file()),
]  # fmt: skip
# Sentences of the code that a page quotes.
SENTENCES = {"check compares the keys", "status shows what it does"}
# A command ends with its line, or where code, a comment, a pipe, a redirection, a substitution or a list ends.
_COMMAND = re.compile(
    r"(?:\bairflow podrelay|(?<=[`\n/\[])podrelay(?= +(?:launcher|watcher)\b))((?: +(?![#|&;<>])[^\s`#|&;<>)\"]+)*)"
)


def commands(text: str) -> Iterator[str]:
    """What follows `airflow podrelay`, each time it is written, without the punctuation of a sentence."""
    joined = text.replace("\\\n", " ")
    for match in _COMMAND.finditer(joined):
        words = match[1].strip()
        before = joined[joined.rfind("\n", 0, match.start()) + 1 : match.start()]
        in_code = before.count("`") % 2 == 1 or "`" not in joined[match.start() : joined.find("\n", match.end())]
        if words and "..." not in words and "…" not in words and in_code:
            yield " ".join(words.split()).rstrip(".,:")


@cache
def parser() -> argparse.ArgumentParser:
    from airflow.cli import cli_parser

    return cli_parser.get_parser()


def accepted(words: list[str]) -> bool:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            parser().parse_args(["podrelay", *words])
        except SystemExit as ended:
            return ended.code == 0  # --help
    return True


def is_a_command(text: str) -> bool:
    """A mention may leave away the value of its last flag: `airflow podrelay status --probe`."""
    words = shlex.split(text)
    return accepted(words) or any(accepted([*words, value]) for value in ("launcher", "NAME"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_in_a_file_are_commands(path: Path) -> None:
    found = list(commands(path.read_text("utf-8")))
    assert [text for text in found if text not in SENTENCES and not is_a_command(text)] == []


def test_commands_are_found() -> None:
    text = "Type `airflow podrelay status --json`:\n```sh\nairflow podrelay acl \\\n    --redis-6 | redis-cli  # all\n```\n"
    assert list(commands(text)) == ["status --json", "acl --redis-6"]
    shorter = "Type `podrelay watcher`:\n```sh\npodrelay launcher --team red  # red\n```\nA podrelay launcher claims.\n"
    assert list(commands(shorter)) == ["watcher", "launcher --team red"]
    everything = [text for path in FILES for text in commands(path.read_text("utf-8"))]
    assert len(everything) > 50
    assert {text.split()[0] for text in everything} >= {"launcher", "watcher", "status", "check", "acl", "dashboard"}


@pytest.mark.parametrize("text", ["statuses", "status --lunch x", "check --process scheduler", "launcher --port"])
def test_a_mistake_is_found(text: str) -> None:
    assert not is_a_command(text)
