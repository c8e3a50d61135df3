"""A stack with everything on that docs/security.md lists: TLS with client certificates, a user of Redis for each process, the
workload in a Secret, the strict pod policy, and logs at DEBUG, which say the most.
"""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlencode

import redis

from demo.redis_binary import find_redis
from demo.stack import Shape, Stack
from tests.harness.certificates import make_certificates

# As whom `airflow podrelay acl` lets a process connect.
ROLES = ("scheduler", "launcher", "watcher", "dashboard")
_URL = "AIRFLOW__PODRELAY__REDIS_URL"
_OPTIONS = {
    "AIRFLOW__LOGGING__LOGGING_LEVEL": "DEBUG",
    "AIRFLOW__PODRELAY__WORKLOAD_IN_SECRET": "True",
    "AIRFLOW__PODRELAY__POD_POLICY": "strict",
}


class SecuredStack(Stack):
    """Its own processes connect to Redis as four users; `redis_url` is that of a fifth, the tests'."""

    def __init__(self, home: Path, dags: Path) -> None:
        self.passwords = {role: secrets.token_urlsafe(24) for role in (*ROLES, "test")}
        self._tls = home / "tls"
        super().__init__(home, Shape(dags=dags, launchers=2, watchers=2, dashboard=True, options=_OPTIONS))
        self.environment[_URL] = self.url_of("scheduler")
        self.processes.environment[_URL] = self.url_of("scheduler")

    @property
    def redis_url(self) -> str:
        return self.url_of("test")

    def url_of(self, role: str) -> str:
        files = {"ssl_ca_certs": "ca.crt", "ssl_certfile": "client.crt", "ssl_keyfile": "client.key"}
        options = urlencode({option: str(self._tls / name) for option, name in files.items()})
        user = "test" if role == "test" else f"podrelay.default.{role}"
        return f"rediss://{user}:{self.passwords[role]}@localhost:{self.redis_port}/0?{options}"

    def hidden(self) -> Iterator[tuple[str, str]]:
        """What nobody may find anywhere, with a name for it."""
        yield from (
            (f"the password of {role}", password) for role, password in self.passwords.items() if role != "test"
        )
        for option in ("CORE__FERNET_KEY", "API__SECRET_KEY", "API_AUTH__JWT_SECRET"):
            yield option, self.environment[f"AIRFLOW__{option}"]
        yield "the login", self.password

    # --- starting -------------------------------------------------------------------------------------------------------
    def start_redis(self) -> None:
        self._tls.mkdir(exist_ok=True)
        make_certificates(self._tls)
        data = self.home / "redis"
        data.mkdir(exist_ok=True)
        users = self.home / "users.acl"
        users.touch(mode=0o600)
        users.write_text("".join(self._users()))
        options = {
            "--port": "0", "--tls-port": str(self.redis_port), "--bind": "127.0.0.1", "--dir": str(data), "--save": "",
            "--appendonly": "yes", "--maxmemory-policy": "noeviction", "--aclfile": str(users),
            "--tls-cert-file": str(self._tls / "server.crt"), "--tls-key-file": str(self._tls / "server.key"),
            "--tls-ca-cert-file": str(self._tls / "ca.crt"), "--tls-auth-clients": "yes",
        }  # fmt: skip
        self.processes.start("redis", [find_redis(), *(word for option in options.items() for word in option)])
        self.processes.wait_for("Redis", self._redis_answers, 20)

    def _users(self) -> Iterator[str]:
        quiet = {**self.processes.environment, "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING"}  # DEBUG goes to stdout
        yield "user default off\n"
        yield f"user test on >{self.passwords['test']} ~* &* +@all\n"
        for role in ROLES:
            command = self._airflow("podrelay", "acl", "--process", role, "--password-stdin")
            yield subprocess.run(
                command, env=quiet, input=self.passwords[role] + "\n", capture_output=True,
                text=True, timeout=120, check=True,
            ).stdout  # fmt: skip

    def start_launcher(self, name: str, options: Mapping[str, str] | None = None) -> None:
        super().start_launcher(name, {_URL: self.url_of("launcher"), **(options or {})})

    def start_watcher(self, name: str) -> None:
        self.processes.start(name, self._airflow("podrelay", "watcher"), {_URL: self.url_of("watcher")})

    def _start_dashboard(self) -> None:
        before = self.processes.environment
        self.processes.environment = {**before, _URL: self.url_of("dashboard")}
        try:
            super()._start_dashboard()
        finally:
            self.processes.environment = before

    def refused_commands(self) -> list[str]:
        """What Redis denied to whom: nothing, where the users have all the rights that the processes need."""
        with redis.Redis.from_url(self.redis_url, decode_responses=True) as client:
            return [f"{entry['username']}: {entry['object']} ({entry['reason']})" for entry in client.acl_log()]
