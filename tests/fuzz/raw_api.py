"""An API server that sends exactly the bytes it is given, in its own thread: what no HTTP library would send."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

Json = dict[str, Any]
Answer = Callable[[str, str], bytes]


def response(status: str, headers: list[tuple[bytes, bytes]], body: bytes) -> bytes:
    """One HTTP response; `headers` as they are."""
    lines = [f"HTTP/1.1 {status}".encode("latin-1", "replace"), *(name + b": " + value for name, value in headers)]
    if not any(name.lower() == b"content-length" for name, _ in headers):
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def document(value: Any, status: str = "200 OK") -> bytes:
    return response(
        status, [(b"Content-Type", b"application/json")], json.dumps(value).encode("utf-8", "surrogatepass")
    )


class RawApi:
    """Lists `pods`, streams what `push` gets to its watches, and answers everything else by `answer`."""

    def __init__(self) -> None:
        self.pods: dict[str, Json] = {}
        self.version = 100
        self.answer: Answer = lambda method, path: document({"kind": "Status", "code": 404}, "404 Not Found")
        # What a list or the beginning of a watch is answered with instead, once each.
        self.instead: list[bytes] = []
        self.lists = self.watches = 0
        self.port = 0
        self._lines: asyncio.Queue[bytes] = asyncio.Queue()
        self._serving: set[asyncio.Task[Any]] = set()
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> RawApi:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *exc: object) -> None:
        self.clear()
        self._loop.call_soon_threadsafe(self._server.close)
        self._loop.call_soon_threadsafe(lambda: self._loop.call_later(0.1, self._loop.stop))
        self._thread.join(10)
        self._loop.close()

    def kubeconfig(self, folder: Path) -> Path:
        path = folder / "raw.kubeconfig"
        config = {
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{self.port}"}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        }  # fmt: skip
        path.write_text(yaml.safe_dump(config))
        return path

    # --- watches ------------------------------------------------------------------------------------------------------
    def push(self, *lines: bytes) -> None:
        """Send these to the next watch that reads; each with its line end."""
        for line in lines:
            self._loop.call_soon_threadsafe(self._lines.put_nowait, line)

    @property
    def waiting(self) -> int:
        """How many lines no watch has taken yet."""
        return self._lines.qsize()

    def clear(self) -> None:
        """Drop what is not sent yet, and every connection: the watcher begins anew."""

        def drop() -> None:
            while not self._lines.empty():
                self._lines.get_nowait()
            for task in self._serving:
                task.cancel()

        self._loop.call_soon_threadsafe(drop)

    # --- server -------------------------------------------------------------------------------------------------------
    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._server = server = self._loop.run_until_complete(
            asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 26)
        )
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                while await self._one(reader, writer):
                    await writer.drain()
        finally:
            self._serving.discard(task)
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ", 2)
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        await reader.readexactly(int(headers.get("content-length", "0")))
        address = urlsplit(target)
        if method != "GET" or not address.path.endswith("/pods"):
            writer.write(self.answer(method, address.path))
            return True
        instead = self.instead.pop() if self.instead else b""
        if instead:
            writer.write(instead)
            await writer.drain()
            return False
        if "watch" in parse_qs(address.query):
            self.watches += 1
            await self._watch(writer)
            return False
        self.lists += 1
        metadata = {"resourceVersion": str(self.version)}
        writer.write(document({"kind": "PodList", "metadata": metadata, "items": list(self.pods.values())}))
        return True

    async def _watch(self, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
        while not writer.transport.is_closing():
            lines = [await self._lines.get()]
            while not self._lines.empty() and len(lines) < 50:
                lines.append(self._lines.get_nowait())
            data = b"".join(lines)
            writer.write(b"%x\r\n%s\r\n" % (len(data), data))
            await writer.drain()
