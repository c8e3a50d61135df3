"""The command line of a further Python process of podrelay: the same interpreter, flags and packages as this one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import podrelay
import podrelay_workers

# Imports leave nothing to collect, and collections take an eighth of their time. The working directory, where Python would
# look first, may hold files named like modules.
_CODE = """import gc, sys
gc.disable()
if sys.path[0] == "": del sys.path[0]
sys.path += [path for path in {paths!r} if path not in sys.path]
from {module} import {function}
sys.exit({function}({descriptor}))"""


def python_command(module: str, function: str, descriptor: int, shown: Sequence[str] = ()) -> list[str]:
    """Arguments for `exec` of a process that calls `function` of `module` with an inherited descriptor. It begins with the
    garbage collector off.

    :param shown: words that follow, for people who list processes.
    """
    paths = [str(Path(package.__path__[0]).parent) for package in (podrelay, podrelay_workers)]
    code = _CODE.format(paths=paths, module=module, function=function, descriptor=descriptor)
    # As multiprocessing does it: -E, -s, -W and the like.
    flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    return [sys.executable, *flags, "-c", code, *shown]
