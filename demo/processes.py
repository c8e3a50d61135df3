"""Child processes of the demo: each starts in its own process group, is monitored, and is certainly gone after the end."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

# Environment variable of every child. Its own children (pods, API server workers) inherit it, so that all can be ended.
MARK = "PODRELAY_STACK_HOME"

_TERM_LIMIT_S = 8.0  # then SIGKILL, which loses nothing (invariant I6, docs/architecture.md)


class StackError(Exception):
    """The stack cannot run; the message names the part and the reason."""


@dataclass(frozen=True)
class Child:
    """One process that runs as long as the stack."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path


class Processes:
    """Starts, monitors and ends the children of one stack. The path of its home folder is their mark."""

    def __init__(self, home: Path, environment: Mapping[str, str]) -> None:
        self.home = home
        self.environment = {**environment, MARK: str(home)}
        self.children: dict[str, Child] = {}

    def start(self, name: str, command: Sequence[str], extra: Mapping[str, str] | None = None) -> Child:
        """Start a child in its own session: Ctrl-C reaches only the runner, which then ends the children in order."""
        log = self.log_of(name)
        with log.open("ab") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.home,
                env={**self.environment, **(extra or {})},
                start_new_session=True,
            )
        child = Child(name, process, log)
        self.children[name] = child
        return child

    def run(self, name: str, command: Sequence[str], limit_s: float) -> None:
        """Run a command and wait for it.

        :raises StackError: it failed, or took longer than `limit_s`.
        """
        child = self.start(name, command)
        del self.children[name]  # it is expected to exit
        try:
            code = child.process.wait(limit_s)
        except subprocess.TimeoutExpired as error:
            raise StackError(f"{name} did not finish within {limit_s:g} s; see its log, {child.log}") from error
        if code != 0:
            raise StackError(_exit_message(child, code))

    def log_of(self, name: str) -> Path:
        folder = self.home / "processes"
        folder.mkdir(exist_ok=True)
        return folder / f"{name}.log"

    def check(self) -> None:
        """:raises StackError: a child has exited; the message holds the end of its log."""
        for child in self.children.values():
            code = child.process.poll()
            if code is not None:
                raise StackError(_exit_message(child, code))

    def wait_for(self, what: str, ready: Callable[[], bool], limit_s: float, pause_s: float = 0.1) -> None:
        """Wait until `ready` returns true; check the children meanwhile.

        :raises StackError: a child exited, or `limit_s` passed.
        """
        deadline = time.monotonic() + limit_s
        while not ready():
            self.check()
            if time.monotonic() > deadline:
                raise StackError(f"{what}: not ready after {limit_s:g} s")
            time.sleep(pause_s)

    def end(self, name: str, limit_s: float = _TERM_LIMIT_S) -> None:
        """Send SIGTERM to one child and, after `limit_s`, SIGKILL to its process group."""
        child = self.children.pop(name)
        child.process.terminate()
        _wait([child], limit_s)
        _kill_group(child)

    def kill(self, name: str) -> None:
        """End one child by SIGKILL, to simulate a crash."""
        child = self.children.pop(name)
        child.process.kill()
        child.process.wait()

    def end_all(self, last: Sequence[str] = ()) -> None:
        """End every child, those in `last` after the others and in that order; then every other process with our mark."""
        known = marked(self.home)
        first = [child for name, child in self.children.items() if name not in last]
        for group in [first, *([self.children[name]] for name in last if name in self.children)]:
            for child in group:
                child.process.terminate()
            _wait(group, _TERM_LIMIT_S)
            for child in group:
                _kill_group(child)
        self.children.clear()
        kill_marked(self.home, known)


def marked(home: Path) -> list[psutil.Process]:
    """All live processes with the mark of this home: children and all their descendants, even after a change of session."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK) == str(home) and _lives(process):
                found.append(process)
    return found


def kill_marked(home: Path, known: Sequence[psutil.Process] = ()) -> None:
    """Send SIGKILL to all processes with the mark of this home; return when they are gone, or after ten seconds.

    :param known: processes to wait for as well: one that is exiting no longer shows its environment.
    """
    deadline = time.monotonic() + 10
    killed = set(known)
    while time.monotonic() < deadline:
        left = [process for process in marked(home) if process.pid != os.getpid()]
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        killed.update(left)
        if not any(_lives(process) for process in killed):
            return
        time.sleep(0.05)


def _lives(process: psutil.Process) -> bool:
    # A zombie has exited; its parent has not collected it yet.
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def free_ports(count: int) -> list[int]:
    """Distinct free ports of loopback."""
    with contextlib.ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _wait(children: Sequence[Child], limit_s: float) -> None:
    deadline = time.monotonic() + limit_s
    for child in children:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.process.wait(max(0.0, deadline - time.monotonic()))


def _kill_group(child: Child) -> None:
    # The child's pid is the id of its group. It is not reused before the child is collected and the group is empty.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.process.pid, signal.SIGKILL)
    child.process.wait()


def _exit_message(child: Child, code: int) -> str:
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"
    lines = child.log.read_text(errors="replace").strip().splitlines()[-8:]
    return "\n".join([f"{child.name} {how}. End of its log ({child.log}):", *(f"  {line}" for line in lines)])
