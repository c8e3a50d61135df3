"""The texts that the code can print, as templates: `…` stands for what is filled in."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

GAP = "…"
_PLACEHOLDER = re.compile(r"%[-+.0-9]*[sdrfg]|\{[^{}]*\}")


def texts(folder: Path, name: str = "*.py") -> Iterator[str]:
    """Each text of the Python files below a folder, docstrings excepted; a text in parts is one text."""
    for path in sorted(folder.rglob(name)):
        tree = ast.parse(path.read_text("utf-8"))
        skipped = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        skipped |= {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                yield "".join(_part(part) for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
                yield _PLACEHOLDER.sub(GAP, node.value)


def _part(node: ast.expr) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else GAP


def prints(quoted: str, template: str) -> bool:
    """Can a text of the code be what a page quotes? All words of the quotation must be in it, in their order."""
    at = 0
    for part in filter(None, (part.strip() for part in quoted.split(GAP))):
        if not re.search(r"\w", part):
            continue
        found = template.find(part, at)
        if found < 0:
            return False
        at = found + len(part)
    return True
