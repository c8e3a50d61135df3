"""`airflow podrelay acl`: users of Redis, each with the rights of one process and no others. It connects to nothing."""

from __future__ import annotations

import hashlib
from typing import Literal, TextIO

from airflow.configuration import conf

from podrelay.errors import ConfigError
from podrelay.protocol import access
from podrelay.protocol.access import Role
from podrelay.redis_address import parse_redis_url
from podrelay.settings import load_settings
from podrelay.teams import cluster_of

Format = Literal["file", "setuser"]

# Redis refuses it: nobody gets a user whose password stands in a manual.
PLACEHOLDER = "#SHA256-OF-THE-PASSWORD"


def acl_lines(
    team: str | None, process: Role | None, form: Format, *, redis_6: bool, password_from: TextIO | None = None
) -> list[str]:
    """One line per user.

    :param team: only the launcher and the watcher of this team; None: those without a team, and the others.
    :param process: only this one.
    :param password_from: where to read the password of this one from; None: a placeholder stands for each password.
    :raises ConfigError: an option of the command line or of `[podrelay]` is wrong.
    """
    if password_from is not None and process is None:
        raise ConfigError("--password-stdin needs --process: each user gets a password of its own.")
    if team is not None and process is not None and process not in access.OF_ONE_CLUSTER:
        raise ConfigError(f"--team: one {process} serves all teams. Leave --team away.")
    settings = load_settings(conf)
    address = parse_redis_url(settings.redis_url)
    secret = _hashed(password_from) if password_from is not None else PLACEHOLDER
    roles = (process,) if process else access.OF_ONE_CLUSTER if team else access.ROLES
    return [
        _line(
            form,
            user_name(settings.deployment, role, team),
            secret,
            access.rules(
                role,
                settings.deployment,
                _cluster(role, team),
                read_only_patterns=not redis_6,
                select=bool(address.options.get("db")),
            ),
        )
        for role in roles
    ]


def user_name(deployment: str, role: Role, team: str | None = None) -> str:
    """No two users of a Redis get the same name: no name of a deployment or a team holds a dot."""
    return ".".join(filter(None, ("podrelay", deployment, role, team if role in access.OF_ONE_CLUSTER else None)))


def _cluster(role: Role, team: str | None) -> str:
    if role not in access.OF_ONE_CLUSTER and conf.getboolean("core", "multi_team", fallback=False):
        return access.ALL_CLUSTERS
    return cluster_of(team)


def _line(form: Format, user: str, secret: str, rules: str) -> str:
    if form == "setuser":
        return f"ACL SETUSER {user} reset on {secret} {rules}"
    return f"user {user} on {secret} {rules}"


def _hashed(source: TextIO) -> str:
    password = source.readline().rstrip("\r\n")
    if not password:
        raise ConfigError("--password-stdin: the first line of the standard input is empty. It must be the password.")
    return f"#{hashlib.sha256(password.encode()).hexdigest()}"
