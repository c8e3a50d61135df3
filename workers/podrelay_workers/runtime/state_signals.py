"""SIGUSR1 and SIGHUP in a worker: the first logs what it is doing, the second is logged and ignored.

Both would end the process without a word if nothing handled them. Used by `shutdown` and by the start of each worker.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGUSR1, signal.SIGHUP)
# Above this number of lines, the rest is counted only.
_MOST_LINES = 50

Describe = Callable[[], Iterable[str]]


def ignore_while_starting() -> None:
    """From here until `handled`, neither signal has an effect. Call it before the imports that take seconds."""
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)


@contextmanager
def handled(describe: Describe) -> Iterator[None]:
    """Handle both signals in the running event loop; `describe` returns lines about the present state."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, log_state, describe)
    loop.add_signal_handler(
        signal.SIGHUP,
        log.info,
        "Ignored SIGHUP: the log goes to stderr, and options are read at the start; restart to apply a change",
    )
    try:
        yield
    finally:
        for number in SIGNALS:
            loop.remove_signal_handler(number)
        ignore_while_starting()  # the rest of the process is its end


def log_state(describe: Describe) -> None:
    """Log each line of the state; an error while they are made must not end the process."""
    try:
        lines = list(describe())
    except Exception:
        log.exception("Cannot describe the state")
        return
    for line in lines[:_MOST_LINES]:
        log.info("State: %s", line)
    if len(lines) > _MOST_LINES:
        log.info("State: and %d lines more", len(lines) - _MOST_LINES)
