"""Call a function that needs Airflow from a process that shall not import it: a short-lived child answers.

Airflow and the Kubernetes libraries take 150 MB and two seconds of CPU time, and a worker needs them a few times in its
life. The function is named as text, because importing it would import Airflow.

Question and answer are JSON on a socket between the two processes. Neither is on stdout, where Airflow and plugins print
warnings, nor in arguments, environment, files or logs: both may hold secrets. No further process inherits the socket.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
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
    ours, theirs = socket.socketpair()
    with theirs:
        child = subprocess.Popen(
            python_command(__name__, "answer", theirs.fileno()),
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=_STDERR,
            start_new_session=True,  # Ctrl-C in a terminal is for the worker, which finishes its work first
        )
    answer = PendingAnswer(function, ours.detach(), child.pid)
    try:
        return answer.result(timeout_s, {"function": function, "argument": argument, "log": asdict(logs.current())})
    finally:
        child.wait()  # it has ended: `result` waits for that


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


def fork_and_ask(function: str, argument: Any = None) -> PendingAnswer:
    """Begin `function` in a copy of this process, which has imported Airflow; `PendingAnswer.result` waits for it.

    The answer may be passed on through an `exec` of this process, which remains the parent of the copy.
    """
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        ours.close()
        gc.disable()
        os.setsid()
        os.dup2(_STDERR, 1)
        _answer(theirs, function, argument)
    theirs.close()
    ours.set_inheritable(True)
    return PendingAnswer(function, ours.detach(), pid)


@dataclass
class PendingAnswer:
    """The answer that a child process works on. `descriptor` is the socket to it."""

    function: str
    descriptor: int
    pid: int

    def result(self, timeout_s: float = TIMEOUT_S, question: Any = None) -> Any:
        """Wait for the answer, and end the child; call it once. Raises what `ask` raises."""
        deadline_s = time.monotonic() + timeout_s
        try:
            with socket.socket(fileno=self.descriptor) as link:
                link.set_inheritable(False)  # it was inheritable if it was passed through an exec
                link.settimeout(timeout_s)
                if question is not None:
                    link.sendall(json.dumps(question).encode())
                    link.shutdown(socket.SHUT_WR)
                text = _read(link, deadline_s)
        except TimeoutError:
            raise AirflowCallFailed(f"{self.function} gave no answer within {timeout_s:g} s") from None
        except OSError as error:
            raise AirflowCallFailed(f"{self.function} gave no answer: {error}") from error
        finally:
            self._end()
        return _decoded(self.function, text)

    def _end(self) -> None:
        with contextlib.suppress(OSError):
            os.kill(self.pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)


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
    with socket.socket(fileno=descriptor) as link:
        question = json.loads(_read(link))
        import airflow.settings  # noqa: F401 - configures logging when first imported, so import it before we do

        logs.configure(logs.LogOptions(**question["log"]))
        _answer(link, question["function"], question["argument"])


def _answer(link: socket.socket, function: str, argument: Any) -> NoReturn:
    """Send the result or the error, and end without the rest of what this process was."""
    try:
        link.sendall(_encoded(function, argument))
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
