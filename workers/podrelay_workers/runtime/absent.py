"""Imports without what they can do without."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def absent(*modules: str) -> Iterator[None]:
    """What is imported here finds that these modules are not installed; those that are loaded already stay loaded."""
    blocked = [name for name in modules if name not in sys.modules]
    vars(sys)["modules"].update(dict.fromkeys(blocked))
    try:
        yield
    finally:
        for name in blocked:
            if sys.modules.get(name, sys) is None:
                del sys.modules[name]
