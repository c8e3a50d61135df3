"""Modules of distributions that podrelay does not depend on: the dashboard and the local cluster."""

from __future__ import annotations

import importlib
from typing import Any

from podrelay.errors import ConfigError


def import_optional(module: str, remedy: str) -> Any:
    """Import a module whose distribution may be missing. A fault inside that distribution keeps its own error.

    :raises ConfigError: the distribution is not installed; the message ends with `remedy`.
    """
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise ConfigError(f"{package} is not installed; {remedy}") from error
