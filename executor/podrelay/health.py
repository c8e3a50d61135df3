"""Whether each worker process of this host is ready: one small file per process.

Launchers and watchers write it; `podrelay-probe` and `airflow podrelay status --probe` read it, in the same container. The
probe does not ask Redis: a working connection of its own would show nothing about the process it reports on. A killed process
leaves its file behind; the next reader detects that the process id is unused or that the file is stale. It imports only
Python's standard library, so that a probe takes milliseconds.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

# Seconds between two writes of a process.
WRITE_INTERVAL_S = 2.0
# A process is not ready if its file or its last reply from Redis is older. Several writes may be late on a busy host.
STALE_AFTER_S = 15.0


@dataclass(frozen=True)
class ProcessHealth:
    """The record of one process. Times are wall-clock seconds of this host, 0 for never.

    `trouble` is why the process cannot do its work although Redis answers; empty if it can. `place` is `Settings.place`.
    """

    kind: str
    team: str | None
    pid: int
    last_reply_s: float
    written_s: float
    trouble: str = ""
    place: str = ""

    @property
    def deployment(self) -> str:
        return self.place.rpartition("-")[0]

    def why_not_ready(self, now_s: float) -> str:
        """The reason in a few words; empty if the process is ready."""
        if now_s - self.written_s > STALE_AFTER_S:
            return f"not responding: last update {now_s - self.written_s:.0f} s ago"
        if not self.last_reply_s:
            return self.trouble or "no reply from Redis yet"
        if now_s - self.last_reply_s > STALE_AFTER_S:
            return f"no reply from Redis for {now_s - self.last_reply_s:.0f} s"
        return self.trouble

    def line(self, reason: str) -> str:
        """What a probe prints about this process; `reason` is what `why_not_ready` returned."""
        return f"{self.kind} {self.pid} is {f'not ready: {reason}' if reason else 'ready'}"


def write(kind: str, team: str | None, place: str, last_reply_s: float, trouble: str = "") -> None:
    """Record the health of this process. A folder that cannot be written to does not stop the process."""
    with contextlib.suppress(OSError):
        path = _own_file(kind)
        new = path.with_suffix(".new")
        new.write_text(
            json.dumps(asdict(ProcessHealth(kind, team, os.getpid(), last_reply_s, time.time(), trouble, place)))
        )
        new.replace(path)


def remove(kind: str) -> None:
    """Remove the record of this process, which is about to exit."""
    with contextlib.suppress(OSError):
        _own_file(kind).unlink(missing_ok=True)


def read(kind: str, team: str | None, place: str | None = None) -> list[ProcessHealth]:
    """Every live process of this kind and team, and of one deployment if `place` names it, on this host. Files of dead
    processes are removed.
    """
    found = []
    with contextlib.suppress(OSError):
        for path in sorted(_folder().glob(f"{kind}-*.json")):
            with contextlib.suppress(OSError, ValueError, TypeError):
                record = ProcessHealth(**json.loads(path.read_text()))
                if not _exists(record.pid):
                    path.unlink(missing_ok=True)
                elif record.team == team and place in (None, record.place):
                    found.append(record)
    return found


def _own_file(kind: str) -> Path:
    return _folder() / f"{kind}-{os.getpid()}.json"


def _folder() -> Path:
    """:raises OSError: the folder cannot be created, or belongs to another user."""
    folder = Path(tempfile.gettempdir()) / f"podrelay-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to another user")
    return folder


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
