"""What stands behind a running container: a local process in a group of its own, or a timer that plays one.

A process that leaves its group by a session of its own is not reached by signals; a real container runtime would reach it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from podrelay_local_cluster.kubelet.container_log import ContainerLog
from podrelay_local_cluster.kubelet.pod_status import SIGNALLED, Kind

Json = dict[str, Any]

DURATION_ANNOTATION = "local-cluster/duration-s"
EXIT_CODE_ANNOTATION = "local-cluster/exit-code"

_READ_SIZE = 64 * 1024

log = logging.getLogger(__name__)


class Process(Protocol):
    """A started container."""

    async def wait(self) -> int:
        """The exit code as a container runtime reports it: 128 + n after signal n."""

    def send(self, number: int) -> None:
        """Signal the whole container; nothing happens when it has ended."""


class Starter(Protocol):
    """Starts containers."""

    def start(
        self, pod: Json, kind: Kind, argv: Sequence[str], env: Mapping[str, str], cwd: str, log: ContainerLog | None
    ) -> Process:
        """Raises OSError when the command cannot be started."""

    @property
    def keeps_logs(self) -> bool: ...

    @property
    def outlives_server(self) -> bool:
        """Whether what ran under an earlier server may be taken as running still."""

    def close(self) -> None: ...


class Reaper:
    """The server's end of `reaper.py`."""

    def __init__(self) -> None:
        script = Path(__file__).with_name("reaper.py")
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(script)], stdin=subprocess.PIPE, bufsize=0, start_new_session=True
        )

    def add(self, group: int) -> None:
        self._tell(f"+{group}\n")

    def remove(self, group: int) -> None:
        self._tell(f"-{group}\n")

    def close(self) -> None:
        """Let it kill what is left, and wait for its end."""
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        self._process.wait()

    def _tell(self, line: str) -> None:
        if self._process.stdin is None:
            return
        try:
            self._process.stdin.write(line.encode("ascii"))
        except BrokenPipeError:
            log.warning("the reaper is gone: pods' processes will outlive a killed server")


class ProcessStarter:
    """Containers are local processes; their environment lies over the server's own, with this interpreter first on PATH."""

    def __init__(self) -> None:
        self._reaper = Reaper()
        own = Path(sys.executable).parent
        self._base_env = {**os.environ, "PATH": f"{own}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}

    @property
    def keeps_logs(self) -> bool:
        return True

    @property
    def outlives_server(self) -> bool:
        return False

    def start(
        self, pod: Json, kind: Kind, argv: Sequence[str], env: Mapping[str, str], cwd: str, log: ContainerLog | None
    ) -> Process:
        read_end, write_end = os.pipe()
        try:
            popen = subprocess.Popen(
                list(argv),
                env={**self._base_env, "HOSTNAME": pod["metadata"]["name"], **env},
                cwd=cwd if cwd and Path(cwd).is_dir() else None,
                stdin=subprocess.DEVNULL,
                stdout=write_end,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except (OSError, ValueError) as exc:
            os.close(read_end)
            raise exc if isinstance(exc, OSError) else OSError(str(exc)) from exc
        finally:
            os.close(write_end)
        self._reaper.add(popen.pid)
        return LocalProcess(popen, read_end, log, self._reaper)

    def close(self) -> None:
        self._reaper.close()


class LocalProcess:
    """One process group and the pipe of its output."""

    def __init__(self, popen: subprocess.Popen[bytes], read_end: int, log: ContainerLog | None, reaper: Reaper) -> None:
        self._popen = popen
        self._read_end = read_end
        self._log = log
        self._reaper = reaper
        self._loop = asyncio.get_running_loop()
        self._exit_code: asyncio.Future[int] = self._loop.create_future()
        self._reading = True
        os.set_blocking(read_end, False)
        self._loop.add_reader(read_end, self._pump)
        self._watch_exit()

    async def wait(self) -> int:
        return await self._exit_code

    def send(self, number: int) -> None:
        if not self._exit_code.done():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._popen.pid, number)

    def _watch_exit(self) -> None:
        """The exit is seen before the process is reaped, so its group's number cannot have a new owner when it is killed."""
        try:
            handle = os.pidfd_open(self._popen.pid)
        except (AttributeError, OSError):
            threading.Thread(target=self._wait_in_thread, daemon=True).start()
            return
        self._loop.add_reader(handle, self._exited, handle)

    def _wait_in_thread(self) -> None:
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PID, self._popen.pid, os.WEXITED | os.WNOWAIT)
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._exited, None)

    def _exited(self, handle: int | None) -> None:
        if handle is not None:
            self._loop.remove_reader(handle)
            os.close(handle)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._popen.pid, signal.SIGKILL)
        code = self._popen.wait()
        self._reaper.remove(self._popen.pid)
        self._drain()
        if not self._exit_code.done():
            self._exit_code.set_result(SIGNALLED - code if code < 0 else code)

    def _pump(self) -> bool:
        """Move one chunk from the pipe to the log; False when there is none, or none to come."""
        try:
            chunk = os.read(self._read_end, _READ_SIZE)
        except BlockingIOError:
            return False
        if not chunk:
            self._stop_reading()
            return False
        if self._log is not None:
            self._log.feed(chunk)
        return True

    def _drain(self) -> None:
        while self._reading and self._pump():
            pass
        if self._reading:
            self._stop_reading()
        if self._log is not None:
            self._log.close()

    def _stop_reading(self) -> None:
        self._reading = False
        self._loop.remove_reader(self._read_end)
        os.close(self._read_end)


class SimulatedStarter:
    """Containers are timers: a main container lasts `local-cluster/duration-s` and ends with `local-cluster/exit-code`."""

    @property
    def keeps_logs(self) -> bool:
        return False

    @property
    def outlives_server(self) -> bool:
        return True

    def start(
        self, pod: Json, kind: Kind, argv: Sequence[str], env: Mapping[str, str], cwd: str, log: ContainerLog | None
    ) -> Process:
        if kind is Kind.SIDECAR:
            return SimulatedProcess(None, 0)
        if kind is Kind.INIT:
            return SimulatedProcess(0.0, 0)
        annotations = pod["metadata"].get("annotations") or {}
        try:
            duration_s = float(annotations.get(DURATION_ANNOTATION, "1.0"))
            exit_code = int(annotations.get(EXIT_CODE_ANNOTATION, "0"))
        except ValueError as exc:
            raise OSError(f"annotations of the simulation are no numbers: {exc}") from exc
        return SimulatedProcess(duration_s, exit_code)

    def close(self) -> None:
        """Nothing to end."""


class SimulatedProcess:
    """Ends by its timer or by a signal; `duration_s` None waits for the signal."""

    def __init__(self, duration_s: float | None, exit_code: int) -> None:
        loop = asyncio.get_running_loop()
        self._exit_code: asyncio.Future[int] = loop.create_future()
        self._timer = None if duration_s is None else loop.call_later(duration_s, self._end, exit_code)

    async def wait(self) -> int:
        return await self._exit_code

    def send(self, number: int) -> None:
        self._end(SIGNALLED + number)

    def _end(self, exit_code: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not self._exit_code.done():
            self._exit_code.set_result(exit_code)
