"""Call a function that needs Airflow from a process that shall not import it: a short-lived child answers.

Airflow and the Kubernetes libraries take 150 MB and two seconds of CPU time, and a worker needs them a few times in its
life. The function is named as text, because importing it would import Airflow.

Question and answer are JSON on a socket between the two processes. Neither is on stdout, where Airflow and plugins print
warnings, nor in arguments, environment, files or logs: both may hold secrets. No further process inherits the socket.
"""

from __future__ import annotations

import gc
import importlib
import json
import logging
import os
import socket
import subprocess
import sys
import time
from dataclasses import asdict
from types import ModuleType
from typing import Any, NoReturn

from podrelay.errors import ConfigError, PodrelayError
from podrelay_workers.runtime import kubernetes_on_demand, logs
from podrelay_workers.runtime.interpreter import python_command

log = logging.getLogger(__name__)

# Importing Airflow takes seconds, and many times that on a busy node.
TIMEOUT_S = 120.0
_CAUSE_MAX = 500
_STDERR = 2


class AirflowCallFailed(PodrelayError):
    """The function raised an unexpected error, or its process ended without an answer."""


def airflow_is_loaded() -> bool:
    """Has this process imported Airflow anyway? Then such a function is called here."""
    return "airflow" in sys.modules


def ask(function: str, argument: Any = None, timeout_s: float = TIMEOUT_S) -> Any:
    """What `function` returns for `argument`; JSON must be able to hold both. It blocks: call it in a thread.

    :param function: "module:name", of podrelay.
    :raises PodrelayError: the function raised it; a `ConfigError` remains one.
    :raises AirflowCallFailed: it raised another error, or there was no answer within the time.
    """
    return _call(function, argument) if airflow_is_loaded() else ask_child(function, argument, timeout_s)


def ask_child(function: str, argument: Any = None, timeout_s: float = TIMEOUT_S) -> Any:
    """As `ask`, of a child in any case."""
    question = {"function": function, "argument": argument, "log": asdict(logs.current())}
    ours, theirs = socket.socketpair()
    with theirs:
        child = subprocess.Popen(
            python_command(__name__, "answer", theirs.fileno()),
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=_STDERR,
            start_new_session=True,  # Ctrl-C in a terminal is for the worker, which finishes its work first
        )
    try:
        return answer_from(ours.detach(), function, timeout_s, question)
    finally:
        child.kill()
        child.wait()


def load_here(module: str) -> ModuleType:
    """Import a module that needs Airflow into this process, for good. It blocks: call it in a thread.

    :raises AirflowCallFailed: that fails.
    """
    known = sys.modules.get(module)
    if known is not None:
        return known
    first = not airflow_is_loaded()
    kubernetes_on_demand.install()
    try:
        loaded = importlib.import_module(module)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - plugins and local settings may raise anything
        raise AirflowCallFailed(f"{module} cannot be imported: {_cause(error)}") from error
    if first:
        logs.configure(logs.current())  # Airflow has configured its own log
        log.info("Airflow is loaded into this process")
        gc.freeze()  # what was imported lives as long as the process
    return loaded


def answer_from(descriptor: int, function: str, timeout_s: float = TIMEOUT_S, question: Any = None) -> Any:
    """What another process sends on this socket after its `answer_once`; closes the socket. Raises what `ask` raises."""
    deadline_s = time.monotonic() + timeout_s
    try:
        with socket.socket(fileno=descriptor) as link:
            link.settimeout(timeout_s)
            if question is not None:
                link.sendall(json.dumps(question).encode())
                link.shutdown(socket.SHUT_WR)
            text = _read(link, deadline_s)
    except TimeoutError:
        raise AirflowCallFailed(f"{function} gave no answer within {timeout_s:g} s") from None
    except OSError as error:
        raise AirflowCallFailed(f"{function} gave no answer: {error}") from error
    return _decoded(function, text)


def answer_once(link: socket.socket, function: str, argument: Any) -> None:
    """Call `function` for whoever reads the other end of this socket, and close it."""
    with link:
        link.sendall(_encoded(function, argument))


def _read(link: socket.socket, deadline_s: float | None = None) -> bytes:
    """Until the other end closes.

    :raises TimeoutError: it has not, by the deadline.
    """
    parts: list[bytes] = []
    while part := link.recv(1 << 16):
        parts.append(part)
        if deadline_s is not None:
            link.settimeout(max(0.001, deadline_s - time.monotonic()))
    return b"".join(parts)


def _decoded(function: str, text: bytes) -> Any:
    try:
        answer = json.loads(text)
    except ValueError:
        raise AirflowCallFailed(
            f"{function} gave no answer: its process ended early. Its output, which may say why, is above."
        ) from None
    if "result" in answer:
        return answer["result"]
    raise (ConfigError if answer["error"] == ConfigError.__name__ else AirflowCallFailed)(answer["message"])


# --- the child ------------------------------------------------------------------------------------------------------------
def answer(descriptor: int) -> NoReturn:
    """Answer the question on this socket, then end. What `ask` starts."""
    os.set_inheritable(descriptor, False)
    link = socket.socket(fileno=descriptor)
    question = json.loads(_read(link))
    import airflow.settings  # noqa: F401 - configures logging when first imported, so import it before we do

    logs.configure(logs.LogOptions(**question["log"]))
    try:
        answer_once(link, question["function"], question["argument"])
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def _encoded(function: str, argument: Any) -> bytes:
    try:
        return json.dumps({"result": _call(function, argument)}).encode()
    except PodrelayError as error:
        found = {"error": type(error).__name__, "message": str(error)}
    except (TypeError, ValueError) as error:
        found = {"error": "", "message": f"{function} returned what JSON cannot hold: {error}"}
    return json.dumps(found).encode()


def _call(function: str, argument: Any) -> Any:
    module, _, name = function.partition(":")
    kubernetes_on_demand.install()
    try:
        return getattr(importlib.import_module(module), name)(argument)
    except PodrelayError:
        raise
    except (Exception, SystemExit) as error:  # noqa: BLE001 - plugins and local settings may raise anything
        raise AirflowCallFailed(f"{name} failed: {_cause(error)}") from error


def _cause(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:_CAUSE_MAX]
