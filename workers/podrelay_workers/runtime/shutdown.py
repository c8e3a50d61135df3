"""One stop event per process, which every wait races. Used by the launcher, the watcher and the local cluster."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

_T = TypeVar("_T")

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class ShutdownRequested(Exception):  # noqa: N818 - not an error: the way out of a wait
    """The process was asked to stop while something waited in `Shutdown.race`."""


class Shutdown:
    """The wish to stop: set once, never taken back. Make it inside the running loop."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def request(self) -> None:
        self._event.set()

    @property
    def requested(self) -> bool:
        return self._event.is_set()

    @contextmanager
    def on_signals(self) -> Iterator[Shutdown]:
        """Stop on SIGTERM or SIGINT. The handlers remove themselves at once: a second signal has its normal effect."""
        loop = asyncio.get_running_loop()

        def handle() -> None:
            self._event.set()
            remove()

        def remove() -> None:
            for number in SIGNALS:
                loop.remove_signal_handler(number)

        for number in SIGNALS:
            loop.add_signal_handler(number, handle)
        try:
            yield self
        finally:
            remove()

    async def wait(self, seconds: float | None = None) -> bool:
        """Sleep, but no longer than until the stop (None: until then). True where it is time to stop."""
        if not self._event.is_set():
            await _first_of(asyncio.ensure_future(self._event.wait()), timeout_s=seconds)
        return self._event.is_set()

    async def race(self, awaitable: Awaitable[_T]) -> _T:
        """The awaitable's result.

        :raises ShutdownRequested: the stop came first; the awaitable was cancelled and has ended.
        """
        work = asyncio.ensure_future(awaitable)
        try:
            if not self._event.is_set():
                await _first_of(asyncio.ensure_future(self._event.wait()), work)
            if work.done():
                return work.result()
            raise ShutdownRequested
        finally:
            await end(work, again_s=2.0)  # longer than the work needs to end tasks of its own


async def _first_of(*awaited: asyncio.Future[Any], timeout_s: float | None = None) -> None:
    """Wait for the first of them; the first argument is only a signal and is cancelled afterwards."""
    try:
        await asyncio.wait(awaited, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        awaited[0].cancel()


async def end(*tasks: asyncio.Future[Any], again_s: float = 0.2) -> None:
    """Cancel what still runs of these and wait for it, so that nothing of it happens after the caller went on.

    Cancels again what is still there after `again_s`: on Python 3.10 and 3.11 `asyncio.wait_for`, which redis-py uses
    too, forgets a cancellation that comes in the moment in which its work is done.
    """
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=again_s)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # looked at: asyncio would otherwise complain that nobody did
