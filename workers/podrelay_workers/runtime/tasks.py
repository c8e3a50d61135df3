"""Named asyncio tasks that live and end together. Used by the launcher, the watcher and `shutdown`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

log = logging.getLogger(__name__)

_Task = asyncio.Task[Any]


class TaskSupervisor:
    """Runs the loops of one process: the first that ends, and any error, ends them all. Create it in the running loop.

    A process without one of its loops would look healthy and do only part of its work. Leaving the `async with` block
    cancels what still runs and waits for it.
    """

    def __init__(self, *expected: type[BaseException]) -> None:
        """:param expected: errors by which a task ends in normal operation; they are raised, but not logged."""
        self._expected = expected
        self._loops: list[_Task] = []
        self._background: set[_Task] = set()
        self._failed: asyncio.Future[_Task] = asyncio.get_running_loop().create_future()

    def start(self, name: str, work: Coroutine[Any, Any, Any]) -> None:
        """Start a loop: `wait` returns when it ends."""
        self._loops.append(asyncio.create_task(work, name=name))

    def start_background(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Start a task that may end before the others; only its error ends them."""
        task = asyncio.create_task(work, name=name)
        self._background.add(task)
        task.add_done_callback(self._background_done)

    async def wait(self) -> None:
        """Wait until a loop has ended or a background task has failed.

        :raises BaseException: the error of that task, logged with the task's name.
        """
        done, _ = await asyncio.wait([*self._loops, self._failed], return_when=asyncio.FIRST_COMPLETED)
        if self._failed in done:
            self._raise_error_of(self._failed.result())
        for task in self._loops:
            if task in done:
                self._raise_error_of(task)

    async def __aenter__(self) -> TaskSupervisor:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await cancel_and_wait(*self._loops, *self._background)
        self._failed.cancel()

    def _background_done(self, task: _Task) -> None:
        self._background.discard(task)
        if not task.cancelled() and task.exception() is not None and not self._failed.done():
            self._failed.set_result(task)

    def _raise_error_of(self, task: _Task) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, self._expected):
            log.error("Task %r failed (%s: %s); stopping the others", task.get_name(), type(error).__name__, error)
        task.result()


async def cancel_and_wait(*tasks: asyncio.Future[Any], again_s: float = 0.2) -> None:
    """Cancel the tasks that still run and wait until all have ended; their errors are dropped.

    :param again_s: seconds after which a task that still runs is cancelled again. On Python 3.10 and 3.11
        `asyncio.wait_for`, which redis-py uses too, loses a cancellation that arrives at the moment its work is done.
    """
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=again_s)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # retrieved, so that asyncio does not report it as never retrieved
