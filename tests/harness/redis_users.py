"""The users that `airflow podrelay acl` prints, on a real Redis."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import redis

from podrelay.cli.acl import acl_lines, user_name
from podrelay.protocol.access import ROLES, Role
from tests.harness.redis_server import RedisServer

DEFAULT = "user default on nopass ~* &* +@all"


def password(role: Role) -> str:
    return f"{role}-of-the-test"


def lines(redis_6: bool, team: str | None = None, roles: tuple[Role, ...] = ROLES) -> list[str]:
    """The lines for an ACL file, as the present options of `[podrelay]` say, each with its password."""
    return [
        line
        for role in roles
        for line in acl_lines(team, role, "file", redis_6=redis_6, password_from=io.StringIO(password(role) + "\n"))
    ]


def knows_read_only(url: str) -> bool:
    """Does this server know patterns for reading only?"""
    return int(redis.Redis.from_url(url).info("server")["redis_version"].split(".")[0]) >= 7


class GuardedRedis(RedisServer):
    """A server with an ACL file, which a restart reads again. Its default user may do everything, for the test."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.acl_file = folder / "users.acl"
        self.acl_file.write_text(DEFAULT + "\n")
        super().__init__(folder, "--aclfile", str(self.acl_file), *options)

    @property
    def admin(self) -> Any:
        return redis.Redis.from_url(self.url, decode_responses=True)

    def load(self, *more: str) -> None:
        """Write these users into the ACL file, and let the server read it."""
        with self.acl_file.open("a") as file:
            file.write("\n".join(more) + "\n")
        self.admin.execute_command("ACL", "LOAD")

    def __enter__(self) -> GuardedRedis:
        super().__enter__()
        return self

    def url_of(self, role: Role, deployment: str = "default") -> str:
        return self.url.replace("//", f"//{user_name(deployment, role)}:{password(role)}@")

    def denials(self) -> list[str]:
        """What the server denied: to whom, and the command, key or channel."""
        return [
            f"{entry['username']}: {entry['reason']} {entry['object']} ({entry['context']})"
            for entry in self.admin.acl_log()
        ]
