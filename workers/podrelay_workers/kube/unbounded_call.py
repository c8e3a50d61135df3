"""Runs code that may never return: exec plugins, client factories, token files on a file system that hangs.

Used by `credentials`, `credential_loader` and `authorization`. Each run has a daemon thread, so that one that hangs stops
neither the event loop nor the end of the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Generic, TypeVar

_T = TypeVar("_T")

# While a run hangs, another one begins after this time: the cause may have passed, and some plugins never notice.
AGAIN_S = 4.0
# The processes that a run has started are killed after this time.
KILL_S = 20.0
# So many runs at once; more would only hang as well.
RUNS_MAX = 6


class _Run(Generic[_T]):
    """One call in a thread of its own. `outcome` holds what it returned or raised."""

    def __init__(self, work: Callable[[], _T]) -> None:
        loop = asyncio.get_running_loop()
        self.outcome: asyncio.Future[_T] = loop.create_future()
        self.killed = False
        self._began_s = time.monotonic()
        self._thread = threading.Thread(target=self._call, args=(work, loop), name="credentials", daemon=True)
        self._thread.start()

    @property
    def age_s(self) -> float:
        return time.monotonic() - self._began_s

    @property
    def waits_for(self) -> str:
        """The name of the program that it waits for; empty if none is known."""
        for pid in _children_of_thread(self._thread.native_id):
            with contextlib.suppress(OSError):
                return Path(f"/proc/{pid}/comm").read_text().strip()
        return ""

    def kill(self) -> None:
        """Kill the processes that the call has started and waits for; their descendants too, which may hold its pipes."""
        for pid in _children_of_thread(self._thread.native_id):
            self.killed = True
            kill_with_descendants(pid)

    def _call(self, work: Callable[[], _T], loop: asyncio.AbstractEventLoop) -> None:
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 - a user's factory may raise anything, also SystemExit
            known = error if isinstance(error, Exception) else RuntimeError(f"{type(error).__name__}: {error}")
            self._post(loop, lambda: self.outcome.set_exception(known))
        else:
            self._post(loop, lambda: self.outcome.set_result(result))

    def _post(self, loop: asyncio.AbstractEventLoop, settle: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits any more
            loop.call_soon_threadsafe(lambda: None if self.outcome.done() else settle())


async def until_returned(work: Callable[[], _T], on_wait: Callable[[float, str], None], runs_max: int = RUNS_MAX) -> _T:
    """What the first run of `work` to end returns, however long that takes; the caller sets the time limit.

    :param on_wait: called again and again while it hangs, with the seconds so far and the name of the program it waits for.
    :raises Exception: what that run raised.
    """
    began_s = time.monotonic()
    runs: list[_Run[_T]] = []
    try:
        while True:
            if len(runs) < runs_max:
                runs.append(_Run(work))
            await asyncio.wait([run.outcome for run in runs], timeout=AGAIN_S, return_when=asyncio.FIRST_COMPLETED)
            for run in [run for run in runs if run.outcome.done()]:
                runs.remove(run)
                if not run.killed:
                    return run.outcome.result()
                run.outcome.exception()  # of a process that was killed: says nothing
            for run in runs:
                if run.age_s > KILL_S:
                    run.kill()
            on_wait(time.monotonic() - began_s, runs[0].waits_for if runs else "")
    finally:
        for run in runs:
            run.outcome.cancel()
            run.kill()


def kill_with_descendants(pid: int) -> None:
    """Kill a process and all that it has started."""
    for found in list(_descendants([pid])):
        with contextlib.suppress(OSError):
            os.kill(found, signal.SIGKILL)


def _children_of_thread(thread: int | None) -> list[int]:
    """Linux only; elsewhere empty, so that nothing is killed."""
    with contextlib.suppress(OSError, ValueError):
        return [int(pid) for pid in Path(f"/proc/self/task/{thread}/children").read_text().split()]
    return []


def _descendants(pids: list[int]) -> Iterator[int]:
    for pid in pids:
        children: list[int] = []
        with contextlib.suppress(OSError, ValueError):
            for path in Path(f"/proc/{pid}/task").glob("*/children"):
                children += map(int, path.read_text().split())
        yield pid
        yield from _descendants(children)
