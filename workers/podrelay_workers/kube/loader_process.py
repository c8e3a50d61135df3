"""A short-lived process that loads credentials, so that this one needs neither Airflow nor a client library.

`credential_loader` runs in it. What it finds comes over a socket, one JSON document a line, and touches no disk. Used by
`credentials`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import time
from collections.abc import AsyncGenerator
from dataclasses import asdict, dataclass

from podrelay.protocol.messages import Json
from podrelay_workers.kube.unbounded_call import kill_with_descendants
from podrelay_workers.runtime import logs
from podrelay_workers.runtime.interpreter import python_command

# The certificates of all public authorities are 0.3 MB.
_LINE_MAX = 32 << 20
# It reports every few seconds, once Airflow is imported, which takes one or two.
SILENCE_S = 10.0
_SOURCE = "the process that reads [kubernetes_executor]"


class LoaderDied(Exception):
    """The process ended without a result: killed, out of memory, or Python could not run it."""


@dataclass(frozen=True)
class LoaderProcess:
    """A child process. `descriptor` is the socket to it."""

    pid: int
    descriptor: int

    @classmethod
    def start(cls, team: str | None) -> LoaderProcess:
        """:raises LoaderDied: no process can be started."""
        ours, theirs = socket.socketpair()
        with theirs:
            command = python_command("podrelay_workers.kube.credential_loader", "answer", theirs.fileno())
            try:
                child = subprocess.Popen(command, pass_fds=[theirs.fileno()])
            except OSError as error:
                ours.close()
                raise LoaderDied(f"it cannot be started: {error}") from error
        child.returncode = 0  # `messages` waits for it
        with contextlib.suppress(OSError):  # it has ended, which `messages` reports
            ours.sendall(json.dumps({"team": team, "log": asdict(logs.current())}).encode())
            ours.shutdown(socket.SHUT_WR)
        return cls(child.pid, ours.detach())

    async def messages(self) -> AsyncGenerator[Json, None]:
        """What it reports, until it ends. Close the iterator: that ends the process and all that it has started.

        :raises LoaderDied: it has ended.
        """
        began_s = time.monotonic()
        link = socket.socket(fileno=self.descriptor)
        reader, writer = await asyncio.open_connection(sock=link, limit=_LINE_MAX)
        ended = False
        try:
            while True:
                try:
                    line = await asyncio.wait_for(reader.readline(), SILENCE_S)
                except asyncio.TimeoutError:
                    seconds = time.monotonic() - began_s
                    yield {"waiting": {"seconds": seconds, "source": _SOURCE, "program": ""}}
                    continue
                except ConnectionError:  # it was killed before it has read the question
                    line = b""
                ended = not line
                if ended:
                    break
                yield json.loads(line)
        finally:
            writer.close()
            status = await self._status() if ended else None
            if status is None:
                kill_with_descendants(self.pid)
                status = await self._status()
        raise LoaderDied(f"it ended with {status}")

    async def _status(self) -> str | None:
        """How it has ended; None if it has not, within a second. A file system that hangs keeps even a killed one."""
        for _ in range(100):
            try:
                found, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:  # the kernel reaps it, where whoever started this process ignores SIGCHLD
                return "an unknown exit code"
            if found:
                code = os.waitstatus_to_exitcode(status)
                return f"signal {-code}" if code < 0 else f"exit code {code}"
            await asyncio.sleep(0.01)
        return None
