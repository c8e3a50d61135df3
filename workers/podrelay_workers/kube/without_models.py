"""Import the Kubernetes client libraries without their generated classes. Used by `credential_loader`.

Both libraries import 839 modules for objects and requests that a client configuration never uses. A process that only loads
credentials spends half a second on them, more than on the rest of its work; each gets an empty class instead.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

log = logging.getLogger(__name__)

_LIBRARIES = ("kubernetes", "kubernetes_asyncio")
_MODELS = tuple(f"{library}.client.models" for library in _LIBRARIES)
_REQUESTS = tuple(f"{library}.client.api" for library in _LIBRARIES)
# The provider makes one of it.
_USED = "core_v1_api"


def import_without_models(name: str) -> None:
    """Import a module that imports the client libraries; what is imported already stays as it is.

    A library that cannot be imported like this is imported as a whole.
    """
    before = set(sys.modules)
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        import_module(name)
        return
    except Exception as error:  # noqa: BLE001 - a coming release may do anything with its classes
        log.debug("Cannot import %s without the generated classes (%s)", name, type(error).__name__)
    finally:
        sys.meta_path.remove(finder)
    for added in set(sys.modules) - before:
        del sys.modules[added]
    import_module(name)


class _Finder(MetaPathFinder, Loader):
    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        package, _, module = name.rpartition(".")
        if name in _MODELS or package in _MODELS or (package in _REQUESTS and module != _USED):
            return ModuleSpec(name, self, is_package=name in _MODELS)
        return None

    def exec_module(self, module: ModuleType) -> None:
        module.__getattr__ = _empty_class  # type: ignore[method-assign]


def _empty_class(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    return type(name, (), {})
