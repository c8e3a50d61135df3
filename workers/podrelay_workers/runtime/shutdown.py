"""One shutdown event per process, against which every wait races. Used by the launcher and the watcher."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from podrelay_workers.runtime.tasks import cancel_and_wait

_T = TypeVar("_T")

SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Longer than a task needs to cancel and await its own tasks.
_CANCEL_AGAIN_S = 2.0


class ShutdownRequested(Exception):  # noqa: N818 - not an error: the way out of a wait
    """Shutdown was requested while something waited in `Shutdown.race`."""


class Shutdown:
    """The request to shut down: made once, never withdrawn. Create it inside the running event loop."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def request(self) -> None:
        self._event.set()

    @property
    def requested(self) -> bool:
        return self._event.is_set()

    @contextmanager
    def on_signals(self) -> Iterator[Shutdown]:
        """Request shutdown on SIGTERM or SIGINT. The first signal removes the handlers: a second has its default effect."""
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
        """Sleep until shutdown is requested, at most `seconds` (None: no limit). True if it was requested."""
        if not self._event.is_set():
            await self._wait_with(timeout_s=seconds)
        return self._event.is_set()

    async def race(self, work: Coroutine[Any, Any, _T]) -> _T:
        """The result of `work`, run as a task that is named after it.

        :raises ShutdownRequested: shutdown came first; `work` was cancelled and has ended.
        """
        task = asyncio.create_task(work, name=getattr(work, "__qualname__", None))
        try:
            if not self._event.is_set():
                await self._wait_with(task)
            if task.done():
                return task.result()
            raise ShutdownRequested
        finally:
            await cancel_and_wait(task, again_s=_CANCEL_AGAIN_S)

    async def _wait_with(self, *others: asyncio.Task[Any], timeout_s: float | None = None) -> None:
        """Wait for shutdown or for the first of the others, which keep running."""
        requested = asyncio.create_task(self._event.wait(), name="wait for shutdown")
        try:
            await asyncio.wait([requested, *others], timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            requested.cancel()
