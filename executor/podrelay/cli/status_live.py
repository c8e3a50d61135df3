"""`airflow podrelay status --watch`: the overview again and again, until Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from podrelay.cli.plain_text import printable
from podrelay.cli.status_text import overview_view, plain
from podrelay.errors import RedisUnavailable
from podrelay.protocol.messages import Json

SHORTEST_S = 0.2


def watch(read: Callable[[], Json], interval_s: float, *, as_json: bool) -> None:
    """Show what `read` returns every `interval_s` until SIGINT or SIGTERM: on a terminal in place, else one after the other.

    An unavailable Redis is shown instead, and asked again.
    """
    console, interrupt = Console(), _Interrupt()
    try:
        interrupt.install()
        if console.is_terminal and not as_json:
            with Live(console=console, screen=True, auto_refresh=False, vertical_overflow="ellipsis") as live:
                _repeat(lambda: live.update(_view(read, interval_s), refresh=True), interval_s, interrupt)
        else:
            _repeat(
                lambda: print(_json(read) if as_json else plain(_view(read, interval_s)) + "\n", flush=True),
                interval_s,
                interrupt,
            )
    except KeyboardInterrupt:
        return
    except (
        BrokenPipeError
    ):  # whoever read it has seen enough; Python would report the closed pipe once more at its exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Interrupt:
    """SIGINT or SIGTERM, so that the terminal is restored. Python drops an exception that a signal raises while an object is
    finalised, such as a lost connection: then `received` ends the loop.
    """

    def __init__(self) -> None:
        self.received = False

    def install(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = True
        raise KeyboardInterrupt


def _repeat(show: Callable[[], Any], interval_s: float, interrupt: _Interrupt) -> None:
    while not interrupt.received:
        began_s = time.monotonic()
        show()
        time.sleep(max(SHORTEST_S, interval_s - (time.monotonic() - began_s)))


def _view(read: Callable[[], Json], interval_s: float) -> RenderableType:
    try:
        return overview_view(read())
    except RedisUnavailable as error:
        return Text(printable(f"Redis unavailable; trying again every {interval_s:g} s: {error}"))


def _json(read: Callable[[], Json]) -> str:
    try:
        return json.dumps(read())
    except RedisUnavailable as error:
        return json.dumps({"ok": None, "error": str(error)})
