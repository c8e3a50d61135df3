"""Imports each generated class of the Kubernetes client libraries when it is first used.

Both libraries import 839 modules for their classes, which takes 0.3 s and 50 MB; to make a pod or to load credentials takes
thirty of them. Used by `airflow_child`, and by the process that loads credentials.
"""

from __future__ import annotations

import re
import sys
from ast import literal_eval
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

_PACKAGES = frozenset(
    f"{library}.client{part}" for library in ("kubernetes", "kubernetes_asyncio") for part in ("", ".api", ".models")
)
_CONSTANT = re.compile(r'^(__version__|__all__) = ("[^"]*"|\[[^\]]*\])$', re.MULTILINE)
_TEXTS = re.compile(rf'^"""[\s\S]*?"""|{_CONSTANT.pattern}', re.MULTILINE)
_IMPORT = re.compile(r"from (\S+) import (\w+)(?: as \2)?(?:\s*#.*)?")
_OTHER = re.compile(r"\s*(?:#.*)?")


def install() -> None:
    """From here on in this process; what is imported already stays as it is."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name in _PACKAGES else None
        if spec is None or spec.origin is None:
            return None
        origins = _origins(Path(spec.origin).read_text("utf-8"))
        if origins is not None:
            spec.loader = _Loader(origins, Path(spec.origin))
        return spec


def _origins(text: str) -> Mapping[str, str] | None:
    """The modules of the names that a package imports; None if it does anything else, so that it must really run."""
    found: dict[str, str] = {}
    for line in _TEXTS.sub("", text).splitlines():
        if match := _IMPORT.fullmatch(line):
            found[match[2]] = match[1]
        elif not _OTHER.fullmatch(line):
            return None
    return found


class _Loader(Loader):
    def __init__(self, origins: Mapping[str, str], file: Path) -> None:
        self._origins = origins
        self._file = file

    def exec_module(self, module: ModuleType) -> None:
        origins = self._origins
        submodules = {path.stem for path in self._file.parent.iterdir() if path.stem.isidentifier()} - {"__init__"}

        def find(name: str) -> Any:
            if name in origins:
                found = getattr(import_module(origins[name]), name)
            elif name in submodules:
                found = import_module(f"{module.__name__}.{name}")
            else:
                raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")
            setattr(module, name, found)
            return found

        names = {*origins, *submodules} - {"__pycache__"}
        vars(module).update(__getattr__=find, __all__=[*names], __dir__=lambda: sorted({*vars(module), *names}))
        for name, value in _CONSTANT.findall(self._file.read_text("utf-8")):
            setattr(module, name, literal_eval(value))
