"""Processes of the deployment, forked from one that has imported Airflow: a restart takes a moment, not seconds of a core."""

from __future__ import annotations

import contextlib
import importlib
import logging
import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.chaos.imports"])


class Process(Protocol):
    """What a rig needs of a process, of whichever build."""

    @property
    def pid(self) -> int | None: ...

    def is_alive(self) -> bool: ...

    def join(self, timeout: float | None = None) -> None: ...


def start(
    role: str, environment: Mapping[str, str], log: Path, *, intervals_s: Mapping[str, float] | None = None
) -> Process:
    """A launcher, a watcher, a driver or the server of warm pods, with these variables on top of the harness' own.

    :param intervals_s: seconds that stand for a constant of a module, as `package.module.NAME`, so that a test waits less.
    """
    arguments = (role, {**_options(), **environment}, str(log), dict(intervals_s or {}))
    process = _CONTEXT.Process(target=_become, args=arguments, name=role)
    process.start()
    return process


def run(function: str, *words: object) -> None:
    """Run `tests.chaos.imports.<function>` in a separate process, to its end."""
    process = _CONTEXT.Process(target=_call, args=(function, words, _options()))
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"{function} failed with exit code {process.exitcode}")


def send(process: Process, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        if process.pid and process.is_alive():
            os.kill(process.pid, number)


def kill(process: Process) -> None:
    send(process, signal.SIGKILL)
    process.join(10)


def _options() -> dict[str, str]:
    """Airflow's options, which change with each deployment of one harness."""
    return {name: value for name, value in os.environ.items() if name.startswith("AIRFLOW")}


def _grow_up(environment: Mapping[str, str]) -> None:
    import airflow.settings

    os.environ.update(environment)
    airflow.settings.configure_vars()
    airflow.settings.configure_orm()


def _call(function: str, words: tuple[object, ...], environment: dict[str, str]) -> None:
    import structlog

    from tests.chaos import imports

    _grow_up(environment)
    logging.disable(logging.WARNING)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    getattr(imports, function)(*words)


def _work(role: str) -> int:
    """A worker in this process: a new interpreter would know nothing of the changed intervals."""
    from podrelay_workers.launcher import process as launcher
    from podrelay_workers.launcher import start as launcher_start
    from podrelay_workers.runtime import airflow_options, logs
    from podrelay_workers.runtime.start import exit_code
    from podrelay_workers.watcher import process as watcher
    from podrelay_workers.watcher import start as watcher_start

    logs.configure(airflow_options.read_log_options())
    if role == "launcher":
        return exit_code(lambda: launcher.run(launcher_start.read_options(None)))
    settings = airflow_options.read_settings
    return exit_code(lambda: watcher.run(watcher_start.read_options(settings())))


def _become(role: str, environment: dict[str, str], log: str, intervals_s: dict[str, float]) -> None:
    _grow_up(environment)
    for path, seconds in intervals_s.items():
        module, _, name = path.rpartition(".")
        vars(importlib.import_module(module))[name] = seconds
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    if role in ("launcher", "watcher"):
        sys.exit(_work(role))
    if role == "warm-pods":
        from tests.chaos.warm_pods import Server

        Server(Path(environment["CHAOS_WARM_PODS"])).run()
    from tests.chaos.driver import Driver
    from tests.chaos.imports import logged

    logged()
    Driver(Path(environment["CHAOS_STATUS"])).run()
