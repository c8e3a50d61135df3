"""The users that `airflow podrelay acl` prints, on a real Redis."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml

from podrelay.cli.acl import acl_lines, user_name
from podrelay.protocol.access import ROLES, Role
from tests.harness.local_cluster import LocalCluster
from tests.harness.redis_server import RedisServer, find_server
from tests.real_cluster.server import POD_SPEC

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


@contextmanager
def cluster_for_users(
    server: GuardedRedis, folder: Path, monkeypatch: pytest.MonkeyPatch, **options: str
) -> Iterator[dict[str, str]]:
    """A local cluster whose pods are timers, and the environment of workers on it; this process is the scheduler's user.

    :param options: of [kubernetes_executor], in capitals.
    """
    template = folder / "template.yaml"
    template.write_text(yaml.safe_dump({"metadata": {"name": "template"}, "spec": POD_SPEC}))
    with LocalCluster(folder / "cluster", runner="simulate") as cluster:
        environment = {
            "AIRFLOW__KUBERNETES_EXECUTOR__CONFIG_FILE": str(cluster.kubeconfig),
            "AIRFLOW__KUBERNETES_EXECUTOR__POD_TEMPLATE_FILE": str(template),
            **{f"AIRFLOW__KUBERNETES_EXECUTOR__{name}": value for name, value in options.items()},
            "AIRFLOW__PODRELAY__RECONCILE_INTERVAL_S": "0.2",
            "AIRFLOW__PODRELAY__LAUNCH_LEASE_S": "2",
            "AIRFLOW__PODRELAY__WATCH_LEASE_S": "1",
        }
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AIRFLOW__PODRELAY__REDIS_URL", server.url_of("scheduler"))
        yield environment


@contextmanager
def users_of_each_process(folder: Path) -> Iterator[GuardedRedis]:
    """A server with the users that `airflow podrelay acl` prints. The deployment is that of the environment."""
    find_server()
    with GuardedRedis(folder) as server:
        server.load(*lines(redis_6=not knows_read_only(server.url)))
        yield server
