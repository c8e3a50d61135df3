"""Warm pods, forked from one process that has imported Airflow, each in a moment instead of two seconds of a core.

A warm pod runs podrelay's own `warm_pod`: what it reads, its mailbox, its signals and its exit codes are the real ones. Only
the task is that of `pod.py`. The process that the node started stands for it: what is done to one is done to the other.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import selectors
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from airflow.sdk.api import client

from podrelay_workers.warm_pod.preload import preload
from podrelay_workers.warm_pod.process import main
from tests.chaos import pod

# In place of the arguments of `pod.py`: with its workload, the pod prints its host name and lasts until it is killed.
HOLD, GIVEN = "hold", "given to"
_ORDER_MAX = 1 << 20


def hostname() -> str:
    """Airflow's `hostname_callable`: in a pod, the host name is the pod's name."""
    return os.environ["HOSTNAME"]


class Server:
    """One thread: forks a process for each order, passes signals on, and answers with the exit code."""

    def __init__(self, path: Path, run: Callable[[list[str]], int] | None = None) -> None:
        """:param run: what a pod runs, given the arguments of the process that stands for it; None: the task of `pod.py`."""
        preload()
        self._run_pod = run or _run
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        path.unlink(missing_ok=True)
        self._listener.bind(str(path))
        self._listener.listen(256)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        # Connection to the process that it stands for.
        self._pods: dict[socket.socket, int] = {}
        self._ends: dict[int, socket.socket] = {}

    def run(self) -> None:
        """Until the harness ends."""
        while os.getppid() != 1:
            for key, _ in self._selector.select(1.0):
                if key.fileobj is self._listener:
                    self._selector.register(self._listener.accept()[0], selectors.EVENT_READ)
                elif isinstance(key.fileobj, socket.socket):
                    self._read(key.fileobj)
                else:
                    self._ended(key.fd)
        for process in self._pods.values():
            os.killpg(process, signal.SIGKILL)

    def _read(self, connection: socket.socket) -> None:
        if connection.fileno() < 0:  # its process ended in the same round
            return
        process = self._pods.get(connection)
        try:
            order, handles, _, _ = socket.recv_fds(connection, _ORDER_MAX, 2)
        except OSError:
            order, handles = b"", []
        if process is not None:
            if order:
                os.kill(process, signal.SIGTERM)
            else:
                os.killpg(process, signal.SIGKILL)
        elif order:
            self._fork(connection, json.loads(order), handles)
        if not order:
            self._selector.unregister(connection)
            if process is None:
                connection.close()
        for handle in handles:
            os.close(handle)

    def _fork(self, connection: socket.socket, order: dict[str, Any], handles: list[int]) -> None:
        process = os.fork()
        with contextlib.suppress(OSError):  # whichever of the two is later
            os.setpgid(process, process)
        if process == 0:
            code: Any = 1
            try:
                self._become(order, handles)
                code = self._run_pod(order["words"])
            except SystemExit as end:
                code = end.code or 0
            except BaseException:  # noqa: BLE001 - as any interpreter ends
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        self._pods[connection] = process
        handle = os.pidfd_open(process)
        self._ends[handle] = connection
        self._selector.register(handle, selectors.EVENT_READ)

    def _ended(self, end: int) -> None:
        connection = self._ends.pop(end)
        self._selector.unregister(end)
        os.close(end)
        process = self._pods.pop(connection)
        os.killpg(process, signal.SIGKILL)  # what it left behind, as a container's end does
        _, status = os.waitpid(process, 0)
        code = os.waitstatus_to_exitcode(status)
        with contextlib.suppress(KeyError):
            self._selector.unregister(connection)
        with contextlib.suppress(OSError):
            connection.send(str(128 - code if code < 0 else code).encode())
        connection.close()

    def _become(self, order: dict[str, Any], handles: list[int]) -> None:
        """In the new process: nothing of the server, everything of the pod."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        for key in list(self._selector.get_map().values()):
            os.close(key.fd)
        for handle, target in zip(handles, (1, 2), strict=True):
            os.dup2(handle, target)
            os.close(handle)
        os.environ.clear()
        os.environ.update(order["environment"], AIRFLOW__CORE__HOSTNAME_CALLABLE=f"{__name__}.hostname")


def _run(words: list[str]) -> int:
    at = words.index(pod.WARM)
    if words[0] == HOLD:
        return main(words[at + 1 :], execute=_hold)
    port, runs, seconds = words[:3]
    run = functools.partial(pod.run_task, int(port), runs, float(seconds))
    return main(words[at + 1 :], execute=lambda workload: sys.exit(run(workload, client.get_hostname())))


def _hold(_: str) -> None:
    # In one piece: an unbuffered `print` writes each of its words by itself, and other pods write to the same file.
    os.write(sys.stdout.fileno(), f"{GIVEN} {client.get_hostname()}\n".encode())
    signal.pause()
