"""A PostgreSQL of the harness' own: Debian's binaries, data in a temporary folder, one loopback port."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import time
from pathlib import Path

from tests.harness.redis_server import free_port

_START_LIMIT_S = 60.0


def find_binaries() -> Path | None:
    """The folder of `initdb` and `postgres`, newest version first; None where there is none."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)
    return folders[0].parent if folders else None


class Postgres:
    """One server process. It refuses to run as root, so root starts it as another user."""

    def __init__(self, folder: Path, binaries: Path) -> None:
        self._data = folder / "postgres"
        self._binaries = binaries
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"postgresql+psycopg2://airflow@127.0.0.1:{self.port}/postgres"

    @property
    def dsn(self) -> str:
        return f"postgresql://airflow@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        self._data.mkdir(parents=True)
        other_user = _other_user()
        if other_user:
            shutil.chown(self._data, *other_user)
            for parent in self._data.parents[:1]:
                parent.chmod(0o755)
        who = (
            ["setpriv", f"--reuid={other_user[0]}", f"--regid={other_user[1]}", "--clear-groups"] if other_user else []
        )
        initdb = [
            str(self._binaries / "initdb"),
            "-D",
            str(self._data),
            "-U",
            "airflow",
            "-A",
            "trust",
            "-N",
            "-E",
            "UTF8",
        ]
        subprocess.run([*who, *initdb], check=True, stdout=subprocess.DEVNULL, cwd="/")
        options = {
            "listen_addresses": "127.0.0.1", "port": self.port, "unix_socket_directories": "", "fsync": "off",
            "synchronous_commit": "off", "full_page_writes": "off", "max_connections": 200,
        }  # fmt: skip
        words = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        log = (self._data.parent / "postgres.log").open("ab")
        self._process = subprocess.Popen(
            [*who, str(self._binaries / "postgres"), "-D", str(self._data), *words], stdout=log, stderr=log, cwd="/"
        )
        self._await()

    def _await(self) -> None:
        import psycopg2

        end = time.monotonic() + _START_LIMIT_S
        while True:
            try:
                psycopg2.connect(self.dsn).close()
                return
            except psycopg2.OperationalError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.1)

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)  # PostgreSQL's fast shutdown
            self._process.wait(30)


def _other_user() -> tuple[int, int] | None:
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return entry.pw_uid, entry.pw_gid
    return None
