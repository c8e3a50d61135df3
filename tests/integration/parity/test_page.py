"""docs/parity.md has one complete row for each item. That the tests it names exist: tests/unit/test_docs.py."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
ITEMS = [*map(str, range(1, 144)), "143a", *map(str, range(144, 178)), *(f"D-{number}" for number in range(1, 15))]


def rows() -> list[list[str]]:
    text = (ROOT / "docs" / "parity.md").read_text()
    return [
        [cell.strip() for cell in line[1:-1].split("|")]
        for line in re.findall(r"^\|\s*\d.*|^\| D-.*", text, re.MULTILINE)
    ]


def items_of(cell: str) -> list[str]:
    first, _, last = cell.partition("-")
    return list(map(str, range(int(first), int(last) + 1))) if first.isdigit() and last else [cell]


def test_each_item_has_one_row() -> None:
    assert [item for row in rows() for item in items_of(row[0])] == ITEMS


def test_each_row_is_complete() -> None:
    for item, stock_behaviour, verdict, ours, tests in rows():
        assert stock_behaviour, item
        assert verdict in ("same", "better", "different", "missing"), item
        assert ours or verdict == "same", item
        assert tests or ours.startswith("Core") or verdict == "missing", item
