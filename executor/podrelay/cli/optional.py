"""Modules of distributions that podrelay does not depend on: the dashboard and the local cluster."""

from __future__ import annotations

import importlib.util
from typing import Any

from podrelay.errors import ConfigError


def import_optional(module: str, remedy: str) -> Any:
    """Import a module whose distribution may be missing. Any other fault of that distribution keeps its own error.

    :raises ConfigError: the distribution, or another that it needs, is not installed; the message names the package that
        is missing and ends with `remedy`.
    """
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if not missing or _is_installed(missing):
            raise
        needed = "" if missing == package else f", which {package} needs,"
        raise ConfigError(f"the package {missing}{needed} is not installed; {remedy}") from error


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        return False
