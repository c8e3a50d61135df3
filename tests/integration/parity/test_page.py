"""docs/parity.md has one row for each item, and every test it names exists."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PLACES = {"I/": "tests/integration/", "U/": "tests/unit/"}
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


def file_of(name: str) -> Path:
    for short, place in PLACES.items():
        if name.startswith(short):
            return ROOT / (place + name[len(short) :] + ("" if name.endswith(".py") else ".py"))
    return ROOT / f"tests/integration/parity/{name}.py"


def test_each_item_has_one_row() -> None:
    assert [item for row in rows() for item in items_of(row[0])] == ITEMS


def test_each_row_is_complete() -> None:
    for item, stock_behaviour, verdict, ours, tests in rows():
        assert stock_behaviour, item
        assert verdict in ("same", "better", "different", "missing"), item
        assert ours or verdict == "same", item
        assert tests or ours.startswith("Core") or verdict == "missing", item


def test_the_tests_exist() -> None:
    for row in rows():
        before = ""
        for name in re.findall(r"`([^`]+)`", row[-1]):
            place, _, function = name.partition("::")
            before = place or before
            source = file_of(before).read_text()
            assert not function or f"def {function}(" in source, name
