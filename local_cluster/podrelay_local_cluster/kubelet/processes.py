"""The container runtime of `--runner process`: each container is a local process in its own process group.

Signals do not reach a process that leaves the group by starting its own session; a real container runtime would reach it.
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
from pathlib import Path

from podrelay_local_cluster.kubelet.container_log import ContainerLog
from podrelay_local_cluster.kubelet.runtime import SIGNAL_EXIT_CODE, ContainerProcess, ContainerStart

_READ_SIZE = 64 * 1024

log = logging.getLogger(__name__)


class Reaper:
    """The server's connection to `reaper.py`."""

    def __init__(self) -> None:
        script = Path(__file__).with_name("reaper.py")
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(script)], stdin=subprocess.PIPE, bufsize=0, start_new_session=True
        )

    def add(self, group: int) -> None:
        self._send(f"+{group}\n")

    def remove(self, group: int) -> None:
        self._send(f"-{group}\n")

    def close(self) -> None:
        """Let it kill the remaining processes, and wait until it exits."""
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        self._process.wait()

    def _send(self, line: str) -> None:
        if self._process.stdin is None:
            return
        try:
            self._process.stdin.write(line.encode("ascii"))
        except BrokenPipeError:
            log.warning("Reaper process ended; pod processes will outlive this server if it is killed")


class ProcessRuntime:
    """Containers inherit the server's environment, with this interpreter first on PATH; their own variables override it."""

    def __init__(self) -> None:
        self._reaper = Reaper()
        interpreter = Path(sys.executable).parent
        self._base_env = {**os.environ, "PATH": f"{interpreter}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}

    @property
    def keeps_logs(self) -> bool:
        return True

    @property
    def outlives_server(self) -> bool:
        return False

    def start(self, container: ContainerStart) -> ContainerProcess:
        read_end, write_end = os.pipe()
        try:
            popen = subprocess.Popen(
                list(container.argv),
                env={**self._base_env, "HOSTNAME": container.pod["metadata"]["name"], **container.env},
                cwd=container.cwd if container.cwd and Path(container.cwd).is_dir() else None,
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
        return LocalProcess(popen, read_end, container.log, self._reaper)

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
        self._given_code: int | None = None
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

    def end(self, exit_code: int) -> None:
        """The process is killed; the exit code is reported as given."""
        self._given_code = exit_code
        self.send(signal.SIGKILL)

    def _watch_exit(self) -> None:
        """Notice the exit before the process is reaped: until then no other process group can get its number."""
        try:
            handle = os.pidfd_open(self._popen.pid)
        except (AttributeError, OSError):
            threading.Thread(target=self._wait_in_thread, daemon=True).start()
            return
        self._loop.add_reader(handle, self._exited, handle)

    def _wait_in_thread(self) -> None:
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PID, self._popen.pid, os.WEXITED | os.WNOWAIT)
        with contextlib.suppress(RuntimeError):  # the loop is closed: nothing waits for the exit code
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
            own = SIGNAL_EXIT_CODE - code if code < 0 else code
            self._exit_code.set_result(own if self._given_code is None else self._given_code)

    def _pump(self) -> bool:
        """Move one chunk from the pipe to the log. False when the pipe is empty or closed."""
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
