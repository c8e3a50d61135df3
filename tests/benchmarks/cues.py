"""What a rig and its driver process say to each other: empty files in a folder."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

PREPARED = "prepared"
"""By the driver: everything is ready, nothing is handed over yet."""
GO = "go"
"""By the rig: begin."""
LET_END = "let-end"
"""By the rig: the pods run and are about to end."""
MARKED = "marked"
"""By the driver: the rows of the tasks say so, and the heartbeats are counted from here."""

_PAUSE_S = 0.002


class Cues:
    """One driver's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def give(self, name: str) -> None:
        (self.folder / name).touch()

    def given(self, name: str) -> bool:
        return (self.folder / name).exists()

    def wait_for(self, name: str, most_s: float, alive: Callable[[], bool] = lambda: True) -> bool:
        """False: it was not given in time, or the other side is gone."""
        end = time.monotonic() + most_s
        while not self.given(name):
            if time.monotonic() > end or not alive():
                return self.given(name)
            time.sleep(_PAUSE_S)
        return True
