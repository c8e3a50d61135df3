"""The log of a container: a file of lines, each with its time, and readers that can wait for more lines.

Written by `processes` from the container's stdout and stderr, read by the API of logs.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from podrelay_local_cluster.objects import clock

_MAX_LINE_BYTES = 16 * 1024
"""Longer lines are split, as container runtimes do."""


@dataclass(frozen=True)
class LogOptions:
    """The parameters of one request. `since` is RFC 3339 text; empty for the whole log."""

    follow: bool = False
    tail_lines: int | None = None
    limit_bytes: int | None = None
    since: str = ""
    timestamps: bool = False


class ContainerLog:
    """The log of one run of one container, open for writing."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.closed = False
        self._file = path.open("ab", buffering=0)
        self._rest = b""
        self._readers: set[asyncio.Event] = set()

    def feed(self, chunk: bytes) -> None:
        """Append output of the container. Complete lines become readable at once."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        while len(self._rest) > _MAX_LINE_BYTES:
            lines.append(self._rest[:_MAX_LINE_BYTES])
            self._rest = self._rest[_MAX_LINE_BYTES:]
        if lines:
            stamp = clock.now_text_fine().encode("ascii") + b" "
            self._file.write(b"".join(stamp + line + b"\n" for line in lines))
            self._wake()

    def close(self) -> None:
        """Complete the last line; readers that follow the log reach its end."""
        if self.closed:
            return
        if self._rest:
            self.feed(b"\n")
        self._file.close()
        self.closed = True
        self._wake()

    def subscribe(self) -> asyncio.Event:
        reader = asyncio.Event()
        self._readers.add(reader)
        return reader

    def unsubscribe(self, reader: asyncio.Event) -> None:
        self._readers.discard(reader)

    def _wake(self) -> None:
        for reader in self._readers:
            reader.set()


class LogDirectory:
    """All logs of the cluster: one directory per pod uid and container, one file per run of a container."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._open: dict[Path, ContainerLog] = {}

    def create(self, uid: str, container: str, restart: int) -> ContainerLog:
        log = ContainerLog(self._path(uid, container, restart))
        self._open[log.path] = log
        return log

    def exists(self, uid: str, container: str, restart: int) -> bool:
        return self._path(uid, container, restart).exists()

    def tail(self, uid: str, container: str, restart: int, lines: int, limit_bytes: int) -> str:
        """The end of a log as text."""
        content = self._content(self._path(uid, container, restart))
        return _render(content, LogOptions(tail_lines=lines))[-limit_bytes:].decode("utf-8", "replace")

    def remove(self, uid: str) -> None:
        """Delete the logs of a removed pod, as a kubelet does."""
        directory = self._root / uid
        for path in [path for path in self._open if directory in path.parents]:
            self._open.pop(path).close()
        shutil.rmtree(directory, ignore_errors=True)

    async def read(self, uid: str, container: str, restart: int, options: LogOptions) -> AsyncIterator[bytes]:
        """The existing lines; with `follow` also each new line until the container ends."""
        path = self._path(uid, container, restart)
        log = self._open.get(path)
        left = options.limit_bytes
        reader = log.subscribe() if log is not None and options.follow else None
        position, first = 0, True
        try:
            while True:
                ended = log is None or log.closed
                if reader is not None:
                    reader.clear()
                content = self._content(path, position)
                position += len(content)
                text = _render(content, options, whole=first)
                first = False
                text = text if left is None else text[:left]
                if text:
                    left = None if left is None else left - len(text)
                    yield text
                if reader is None or ended or left == 0:
                    return
                await reader.wait()
        finally:
            if log is not None and reader is not None:
                log.unsubscribe(reader)

    def _path(self, uid: str, container: str, restart: int) -> Path:
        return self._root / uid / container / f"{restart}.log"

    @staticmethod
    def _content(path: Path, position: int = 0) -> bytes:
        try:
            with path.open("rb") as file:
                file.seek(position)
                return file.read()
        except FileNotFoundError:
            return b""


def _render(content: bytes, options: LogOptions, whole: bool = True) -> bytes:
    """The requested lines as bytes. `whole` is False for the later parts of a followed log."""
    lines = content.split(b"\n")[:-1]
    if options.since:
        since = options.since.encode("ascii")
        lines = [line for line in lines if line >= since]
    if whole and options.tail_lines is not None:
        lines = lines[-options.tail_lines :] if options.tail_lines else []
    if not options.timestamps:
        lines = [line.partition(b" ")[2] for line in lines]
    return b"".join(line + b"\n" for line in lines)
