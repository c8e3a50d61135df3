"""`podrelay launcher` and `podrelay watcher`: what `airflow podrelay launcher` and `... watcher` do, started in less time.

This process does not import Airflow. A copy of it does, reads the options and sends them through a socket, while this one
imports the worker. The copy goes on with what else needs Airflow at the start. Where the worker itself needs Airflow, this
process imports it too, and goes on as Airflow's command does.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import os
import pickle
import signal
import socket
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

from podrelay.cli.plain_text import require_text
from podrelay.errors import PodrelayError
from podrelay_workers.runtime import handover
from podrelay_workers.runtime.absent import absent
from podrelay_workers.runtime.copies import Copy, copy_process
from podrelay_workers.runtime.start import exit_code
from podrelay_workers.runtime.state_signals import ignore_while_starting


class _Role(NamedTuple):
    """`whose`: without a team. `links`: the sockets that its `start.answer_first` takes."""

    does: str
    whose: str
    links: int


_ROLES = {
    "launcher": _Role("creates and cleans up pods", "launches", 2),
    "watcher": _Role("reports what happens to pods", "pods", 1),
}
# What both processes need and what takes them long to import, such as aiohttp: imported once, before there are two.
_BOTH = ("podrelay.protocol.encryption", "podrelay_workers.kube.credentials")
# Two fifths of the time that Airflow's import takes. It looks there for a supervisor, and goes on if it finds none.
_TASK_RUNNER = "airflow.sdk.execution_time.task_runner"


class _Instead(NamedTuple):
    """What a copy sends instead of options: how this process ends, or that it needs Airflow itself; else: try again."""

    exit_code: int | None = None
    needs_airflow: bool = False


def main(argv: Sequence[str] | None = None) -> int:
    """The command line of `podrelay`; returns the exit code. What is no worker is passed on to `airflow podrelay`."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in _ROLES:
        return exit_code(lambda: _run(words[0], _team(*words)))
    sys.argv = ["airflow", "podrelay", *words]
    importlib.import_module("airflow.__main__").main()
    return 0


def _team(role: str, *words: str) -> str | None:
    """:raises ConfigError: it is no text."""
    description = f"Run a {role}, which {_ROLES[role].does}, until SIGTERM."
    parser = argparse.ArgumentParser(prog=f"podrelay {role}", description=description)
    whose = _ROLES[role].whose
    parser.add_argument("--team", help=f"Name of a team, with core.multi_team. Default: the {whose} without a team.")
    found = parser.parse_args(words)
    require_text([found.team])
    return found.team


def _run(role: str, team: str | None) -> int:
    """:raises PodrelayError: the copy has ended, and did not say why."""
    ignore_while_starting()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # nothing has begun that would have to be ended
    gc.disable()
    for module in _BOTH:
        importlib.import_module(module)
    for quickly in (True, False):
        copy = copy_process(partial(_read, role, team, quickly), 1 + _ROLES[role].links)
        worker = handover.load_worker(f"podrelay_workers.{role}.process")
        found = _received(copy)
        if not isinstance(found, _Instead):
            return handover.run_worker(worker, found.answered_by(copy.pid, *copy.descriptors[1:]))
        _wait(copy)
        if found.exit_code is not None:
            return found.exit_code
        if found.needs_airflow:
            break
    gc.enable()
    return int(importlib.import_module(f"podrelay_workers.{role}.start").run(team))


def _received(copy: Copy) -> Any:
    with socket.socket(fileno=copy.descriptors[0]) as link, link.makefile("rb") as answer:
        try:
            return pickle.load(answer)
        except (EOFError, ConnectionError):
            pass
    raise PodrelayError(
        f"the process that reads Airflow's configuration gave no answer, but ended with {_wait(copy)}. Its output, which may "
        "say why, is above."
    )


def _wait(copy: Copy) -> str:
    """How a copy ends that has nothing more to answer."""
    for descriptor in copy.descriptors[1:]:
        os.close(descriptor)
    try:
        code = os.waitstatus_to_exitcode(os.waitpid(copy.pid, 0)[1])
    except ChildProcessError:  # the kernel reaps it, where whoever started this process ignores SIGCHLD
        return "an unknown exit code"
    return f"signal {-code}" if code < 0 else f"exit code {code}"


# --- the copy -------------------------------------------------------------------------------------------------------------
def _read(role: str, team: str | None, quickly: bool, link: socket.socket, *links: socket.socket) -> int:
    def send(found: object) -> None:
        with link, link.makefile("wb") as answer:
            pickle.dump(found, answer)

    if quickly and not _import_airflow_quickly():
        send(_Instead())
        return 0
    start = importlib.import_module(f"podrelay_workers.{role}.start")
    options = None

    def read() -> int:
        nonlocal options
        options = start.read(team)
        return 0

    if code := exit_code(read):
        send(_Instead(exit_code=code))
    elif start.needs_airflow(options):
        send(_Instead(needs_airflow=True))
    else:
        send(options)
        code = int(start.answer_first(options, *links))
    return code


def _import_airflow_quickly() -> bool:
    """Whether Airflow, its plugins and the user's local settings can be imported without the task runner."""
    try:
        with absent(_TASK_RUNNER):
            importlib.import_module("airflow.settings")
    except (Exception, SystemExit):  # noqa: BLE001 - raised again by the next copy, which imports all of it
        return False
    return True
