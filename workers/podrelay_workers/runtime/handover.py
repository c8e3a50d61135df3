"""Replaces a process that has read Airflow's configuration by one that never imports Airflow, under the same process id.

Importing Airflow takes 110 MB and a second, and cannot be undone; `exec` is the way out of it. Supervisors see one process,
and signals that are ignored stay ignored. The options hold keys and passwords: they go through a pipe that nobody else has.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import importlib
import os
import pickle
import sys
from collections.abc import Sequence
from typing import Any, Protocol

from podrelay_workers.runtime import logs
from podrelay_workers.runtime.absent import absent
from podrelay_workers.runtime.interpreter import python_command
from podrelay_workers.runtime.logs import LogOptions
from podrelay_workers.runtime.start import exit_code


class Options(Protocol):
    """The options of a worker, made of plain values: their classes must not import Airflow."""

    @property
    def log(self) -> LogOptions: ...


def hand_over(module: str, options: Options, shown: Sequence[str] = (), descriptors: Sequence[int] = ()) -> None:
    """Replace this process by one that runs `module.run(options)`. Returns only where that is impossible; run it here then.

    :param shown: the words at the end of the new command line, for people who list processes.
    :param descriptors: what the options name; the new process has them, and no program that it starts.
    """
    reader = _pipe_with(pickle.dumps(module) + pickle.dumps((options, tuple(descriptors))))
    if reader is None:
        return
    sys.stdout.flush()
    sys.stderr.flush()
    command = python_command(__name__, "take_over", reader, shown)
    passed = (reader, *descriptors)
    for descriptor in passed:
        os.set_inheritable(descriptor, True)
    with contextlib.suppress(OSError):
        os.execv(command[0], command)
    for descriptor in passed:
        os.set_inheritable(descriptor, False)
    os.close(reader)


def team_words(team: str | None) -> tuple[str, ...]:
    """The option of a command line that names this team."""
    return ("--team", team) if team else ()


def _pipe_with(content: bytes) -> int | None:
    """The read end of a pipe that holds this; None if a pipe cannot."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(OSError, AttributeError):  # enough for all but the longest options without this
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, len(content))
    try:
        complete = os.write(writer, content) == len(content)
    except OSError:
        complete = False
    os.close(writer)
    if not complete:
        os.close(reader)
        return None
    return reader


def take_over(descriptor: int) -> int:
    """Run the worker whose options this pipe holds, and return its exit code. What `hand_over` starts."""
    with os.fdopen(descriptor, "rb") as pipe:
        worker = load_worker(pickle.load(pipe))
        options, descriptors = pickle.load(pipe)
    for inherited in descriptors:
        os.set_inheritable(inherited, False)
    return run_worker(worker, options)


def load_worker(module: str) -> Any:
    """Import a worker's process into one that has nothing else."""
    with absent("opentelemetry"):  # redis-py imports it for metrics of its own, which nothing switches on
        worker = importlib.import_module(module)
    gc.freeze()  # it lives as long as the process, and imports leave next to nothing to collect
    return worker


def run_worker(worker: Any, options: Options) -> int:
    """Run what `load_worker` has imported, and return its exit code. Prints errors of podrelay."""
    gc.enable()
    logs.configure(options.log)
    return exit_code(lambda: worker.run(options))
