"""What each worker process of this host last heard, in a small file of its own: a probe in the same container asks the file.

Written by launchers and watchers, read by `airflow podrelay status --probe`. Redis is not asked: a probe whose own
connection works says nothing of the process that it speaks of. A process that is killed leaves its file; the next reader
sees that nobody has its process id, or that it is too old.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

# How often a process writes (s), and how old its word from Redis or from itself may be.
EVERY_S = 2.0
DEAF_AFTER_S = 15.0


@dataclass(frozen=True)
class ProcessHealth:
    """`redis_s` and `written_s` are wall-clock times of this host, 0 for never; `trouble` is empty when all is well."""

    kind: str
    team: str | None
    pid: int
    redis_s: float
    written_s: float
    trouble: str = ""

    def deaf(self, now_s: float) -> str:
        """Why this process is not ready; empty if it is."""
        if now_s - self.written_s > DEAF_AFTER_S:
            return f"does not move, heard of {now_s - self.written_s:.0f} s ago"
        if now_s - self.redis_s > DEAF_AFTER_S:
            return (
                f"has not heard from Redis for {now_s - self.redis_s:.0f} s"
                if self.redis_s
                else "has not reached Redis"
            )
        return self.trouble


def write(kind: str, team: str | None, redis_s: float, trouble: str = "") -> None:
    """Tell of this process. A folder that cannot be written to is no trouble for the work itself."""
    with contextlib.suppress(OSError):
        path = _folder() / f"{kind}-{os.getpid()}.json"
        new = path.with_suffix(".new")
        new.write_text(json.dumps(asdict(ProcessHealth(kind, team, os.getpid(), redis_s, time.time(), trouble))))
        new.replace(path)


def forget(kind: str) -> None:
    """Take back what this process told of itself: it ends."""
    with contextlib.suppress(OSError):
        (_folder() / f"{kind}-{os.getpid()}.json").unlink(missing_ok=True)


def read(kind: str, team: str | None) -> list[ProcessHealth]:
    """Every live process of this kind and team on this host."""
    found = []
    with contextlib.suppress(OSError):
        for path in sorted(_folder().glob(f"{kind}-*.json")):
            with contextlib.suppress(OSError, ValueError, TypeError):
                heard = ProcessHealth(**json.loads(path.read_text()))
                if not _alive(heard.pid):
                    path.unlink(missing_ok=True)
                elif heard.team == team:
                    found.append(heard)
    return found


def _folder() -> Path:
    """:raises OSError: it cannot be made, or somebody else made it."""
    folder = Path(tempfile.gettempdir()) / f"podrelay-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to somebody else")
    return folder


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
