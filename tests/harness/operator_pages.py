"""The blocks of the documentation that a test carries out as an operator does.

A comment before a block, which no renderer shows, says what to do with it:

    <!-- operator: run -->               type it in a shell
    <!-- operator: run until -->         type it until the output is as the next block says
    <!-- operator: output -->            what the block before it prints; `…` stands for anything
    <!-- operator: airflow.cfg -->       options to write into airflow.cfg
    <!-- operator: file PATH -->         the content of a file
    <!-- operator: syntax -->            commands that cannot run in a test: only their syntax is checked
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KINDS = ("run", "run until", "output", "airflow.cfg", "file", "syntax")
_BLOCK = re.compile(
    r"^<!-- operator: (?P<what>[^>]+?) -->\n```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
_MARK = re.compile(r"<!-- operator:")
_HEADING = re.compile(r"^#+ (.+)$")


@dataclass(frozen=True)
class Step:
    """One block."""

    kind: str
    path: str
    """The PATH of `file`, else empty."""
    language: str
    text: str


def steps(page: Path, section: str | None = None) -> list[Step]:
    """The marked blocks of a page, or of one section of it with what is below.

    :raises LookupError: there is no such section, or a mark belongs to no block.
    """
    text = page.read_text("utf-8")
    part = text if section is None else _section(text, section)
    found = [_step(match["what"], match["language"], match["text"]) for match in _BLOCK.finditer(part)]
    if len(found) != len(_MARK.findall(part)):
        raise LookupError(f"{page.name}: a mark that belongs to no block")
    return found


def _step(what: str, language: str, text: str) -> Step:
    kind, _, path = what.partition(" ") if what.startswith("file ") else (what, "", "")
    if kind not in KINDS:
        raise LookupError(f"not a kind of block: {what}")
    return Step(kind, path, language, text)


def _section(text: str, title: str) -> str:
    """A heading, and all that follows until one of its level or above. Lines of a block are no headings."""
    lines = _BLANKED.sub(lambda match: "\n" * match[0].count("\n"), text).splitlines()
    levels = {number: len(line) - len(line.lstrip("#")) for number, line in enumerate(lines) if _HEADING.match(line)}
    starts = [number for number in levels if lines[number].lstrip("# ") == title]
    if len(starts) != 1:
        raise LookupError(f"no section, or more than one: {title}")
    (start,) = starts
    end = next((number for number in levels if number > start and levels[number] <= levels[start]), len(lines))
    return "\n".join(text.splitlines()[start:end]) + "\n"


_BLANKED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def matches(expected: str, printed: str) -> bool:
    """Does the output hold these lines in this order? `…` alone on a line stands for any lines, else for any text."""
    wanted = iter(expected.splitlines())
    pattern = ""
    for line in wanted:
        if line.strip() == "…":
            pattern += r"(?:.*\n)*?"
        else:
            # However many spaces a table has.
            words = re.split(r"\s+", line.strip())
            pattern += (
                r"[ \t]*" + r"\s+".join(".*".join(map(re.escape, word.split("…"))) for word in words) + r"[ \t]*\n"
            )
    return re.fullmatch(pattern, printed + ("" if printed.endswith("\n") else "\n")) is not None
