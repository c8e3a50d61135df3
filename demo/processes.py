"""Child processes of the demo: started in groups of their own, watched, and gone for certain afterwards."""

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

# Every child has this variable, and so have their children (pods, api-server workers): what carries it is ours to end.
MARK = "PODRELAY_STACK_HOME"

_TERM_LIMIT_S = 8.0  # then SIGKILL; nothing here holds anything that matters (invariant I6)


class StackError(Exception):
    """Why the stack does not run, in a line or two for a person."""


@dataclass(frozen=True)
class Child:
    """One process that should run as long as the stack does."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path


class Processes:
    """Starts, watches and ends the children of one stack, whose home marks them."""

    def __init__(self, home: Path, environment: Mapping[str, str]) -> None:
        self.home = home
        self.environment = {**environment, MARK: str(home)}
        self.children: dict[str, Child] = {}

    def start(self, name: str, command: Sequence[str], extra: Mapping[str, str] | None = None) -> Child:
        """Start a child in a session of its own: Ctrl-C at the terminal reaches only the runner, which ends all in order."""
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
        """Run a command to its end.

        :raises StackError: it failed, or took longer than `limit_s`.
        """
        child = self.start(name, command)
        del self.children[name]  # its end is no fault
        try:
            code = child.process.wait(limit_s)
        except subprocess.TimeoutExpired as error:
            raise StackError(f"{name} took more than {limit_s:g} s; its log: {child.log}") from error
        if code != 0:
            raise StackError(_ended(child, code))

    def log_of(self, name: str) -> Path:
        folder = self.home / "processes"
        folder.mkdir(exist_ok=True)
        return folder / f"{name}.log"

    def check(self) -> None:
        """:raises StackError: a child has ended, with the end of its log."""
        for child in self.children.values():
            code = child.process.poll()
            if code is not None:
                raise StackError(_ended(child, code))

    def wait_for(self, what: str, ready: Callable[[], bool], limit_s: float, pause_s: float = 0.1) -> None:
        """Wait until something is there, with an eye on the children.

        :raises StackError: a child ended, or `limit_s` passed.
        """
        deadline = time.monotonic() + limit_s
        while not ready():
            self.check()
            if time.monotonic() > deadline:
                raise StackError(f"{what}: not ready after {limit_s:g} s")
            time.sleep(pause_s)

    def end(self, name: str, limit_s: float = _TERM_LIMIT_S) -> None:
        """SIGTERM for one child and, after `limit_s`, SIGKILL for its group."""
        child = self.children.pop(name)
        child.process.terminate()
        _wait([child], limit_s)
        _kill_group(child)

    def kill(self, name: str) -> None:
        """SIGKILL, as a crash would."""
        child = self.children.pop(name)
        child.process.kill()
        child.process.wait()

    def end_all(self, last: Sequence[str] = ()) -> None:
        """End every child, those of `last` after the others and in that order; then whatever else carries our mark."""
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
    """All living processes that carry the mark of this home: children, and children of children wherever they went."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK) == str(home) and _lives(process):
                found.append(process)
    return found


def kill_marked(home: Path, known: Sequence[psutil.Process] = ()) -> None:
    """SIGKILL to all that carry the mark of this home; returns when they are gone, or after ten seconds.

    :param known: waited for as well: a process that is about to vanish shows its environment to nobody.
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
    # A zombie is over already: only its parent, or init, has not looked yet.
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens on now, all different."""
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
    # The leader's pid names the group, and cannot be given away while the leader is not waited for or the group lives.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.process.pid, signal.SIGKILL)
    child.process.wait()


def _ended(child: Child, code: int) -> str:
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    lines = child.log.read_text(errors="replace").strip().splitlines()[-8:]
    return "\n".join([f"{child.name} {how}; the end of its log ({child.log}):", *(f"  {line}" for line in lines)])
