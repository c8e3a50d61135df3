"""Redis' password and the Fernet key change under load, with restarts in any order: nothing is lost, nothing runs twice."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet

from podrelay import compat
from podrelay.cli.acl import user_name
from podrelay.protocol.access import Role
from podrelay.protocol.redis_keys import RedisKeys
from tests.conftest import FERNET_KEY
from tests.harness.parity_rig import Task, Workers, workers
from tests.harness.redis_server import find_server
from tests.harness.redis_users import GuardedRedis, cluster_for_users, knows_read_only, lines, password
from tests.harness.task_instances import load, update
from tests.real_cluster.loop import Loop
from tests.real_cluster.server import Server, ended

OTHER_KEY = Fernet.generate_key().decode()
PROCESSES: tuple[Role, ...] = ("scheduler", "launcher", "watcher")
BATCH = 5


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GuardedRedis]:
    find_server()
    monkeypatch.setenv("AIRFLOW__PODRELAY__DEPLOYMENT", "default")
    folder = tmp_path / "redis"
    folder.mkdir()
    with GuardedRedis(folder) as server:
        server.load(*lines(redis_6=not knows_read_only(server.url), roles=PROCESSES))
        yield server


class Kubelet(threading.Thread):
    """Ends every pod as soon as it exists, once its task has reported success."""

    def __init__(self, api: Server) -> None:
        super().__init__(daemon=True)
        self.api, self.stopped = api, threading.Event()
        self.seen: set[str] = set()

    def run(self) -> None:
        while not self.stopped.wait(0.05):
            for pod in self.api.pods():
                name = pod["metadata"]["name"]
                if name not in self.seen:
                    self.seen.add(name)
                    update(pod["metadata"]["annotations"]["podrelay/subject"], state="success")
                    self.api.set_status(name, ended(0))


class Deployment:
    """A scheduler in this process, a launcher and a watcher beside it, each as its own user."""

    def __init__(
        self, server: GuardedRedis, folder: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
    ):
        self.server = server
        self.monkeypatch = monkeypatch
        self.api = Server(Path(environment["AIRFLOW__KUBERNETES_EXECUTOR__CONFIG_FILE"]), "default")
        self.workers: dict[Role, Workers] = {}
        self.tasks: list[Task] = []
        self.stack = ExitStack()
        for role in PROCESSES[1:]:
            given = {**environment, "AIRFLOW__PODRELAY__REDIS_URL": server.url_of(role)}
            begun = workers(folder / role, server.admin, modules=(role,), environment=given)
            self.workers[role] = self.stack.enter_context(begun)
        self.loop = Loop(self.api)
        self.kubelet = Kubelet(self.api)
        self.kubelet.start()

    def work(self, seconds: float) -> None:
        """Hand over tasks all the time."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.tasks += self.loop.submit(BATCH)
            self.beat(0.3)

    def beat(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.loop.executor.heartbeat()
            time.sleep(0.02)

    def url_with(self, role: Role, secret: str) -> str:
        return self.server.url.replace("//", f"//{user_name('default', role)}:{secret}@")

    def restart(self, role: Role, secret: str, fernet_keys: str) -> None:
        """With this password and these keys. A worker is killed, a scheduler is replaced by one that adopts its tasks."""
        options = {
            "AIRFLOW__PODRELAY__REDIS_URL": self.url_with(role, secret),
            "AIRFLOW__PODRELAY__FERNET_KEY": fernet_keys,
        }
        if role != "scheduler":
            begun = self.workers[role]
            begun.kill(role)
            begun.environment.update(options)
            begun.start(role)
            return
        # Airflow itself resets what a scheduler had not handed over; there is none here.
        keys = [task.key for task in self.tasks]
        self.loop.until(
            lambda: not any(compat.queued(self.loop.executor, key) for key in keys), "the hand-over of every task"
        )
        for name, value in options.items():
            self.monkeypatch.setenv(name, value)
        left = [task for task in self.tasks if task.key in self.loop.executor.running]
        before = self.loop.executor
        before._breaker.close()
        self.loop = Loop(self.api)
        self.loop.executor.event_buffer.update(before.event_buffer)
        for task in left:
            row = load(task.ti_id)
            if str(row.state) in (
                "queued",
                "running",
            ):  # the scheduler adopts those that the database shows as unfinished
                assert not self.loop.executor.try_adopt_task_instances([row])

    def close(self) -> None:
        self.kubelet.stopped.set()
        self.kubelet.join()
        self.loop.executor.end()
        self.stack.close()


@pytest.fixture
def deployment(
    airflow_db: None, server: GuardedRedis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Deployment]:
    with cluster_for_users(server, tmp_path, monkeypatch, DELETE_WORKER_PODS="False") as environment:
        deployment = Deployment(server, tmp_path, environment, monkeypatch)
        yield deployment
        deployment.close()


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    "order", [("launcher", "scheduler", "watcher"), ("watcher", "launcher", "scheduler")], ids="-".join
)
def test_password_and_key_change_under_load(
    deployment: Deployment, server: GuardedRedis, order: tuple[Role, ...]
) -> None:
    """As docs/security.md says: a second password, and B as the second key, then as the first, then alone."""
    admin: Any = server.admin
    users = {role: user_name("default", role) for role in PROCESSES}
    new = {role: f"new-{password(role)}" for role in PROCESSES}
    deployment.work(1.0)
    for role, user in users.items():
        admin.execute_command("ACL", "SETUSER", user, f">{new[role]}")
    for fernet_keys in (f"{FERNET_KEY},{OTHER_KEY}", f"{OTHER_KEY},{FERNET_KEY}"):
        for role in order:
            deployment.work(0.5)
            deployment.restart(role, new[role], fernet_keys)
    deployment.work(0.5)
    for role, user in users.items():
        admin.execute_command("ACL", "SETUSER", user, f"<{password(role)}")
        admin.execute_command("CLIENT", "KILL", "USER", user)  # whoever still uses the old one is locked out
    deployment.work(1.0)
    # What was written with A has its pod by now.
    deployment.loop.until(lambda: not deployment.loop.executor.running, "the end of every task")
    for role in order:
        deployment.restart(role, new[role], OTHER_KEY)
        deployment.work(0.5)
    deployment.loop.until(lambda: not deployment.loop.executor.running, "the end of the later tasks")
    tasks = deployment.tasks
    assert len(tasks) >= 10 * BATCH
    assert {str(load(task.ti_id).state) for task in tasks} == {"success"}
    pods = [pod["metadata"]["annotations"]["podrelay/subject"] for pod in deployment.api.pods()]
    assert sorted(pods) == sorted(task.ti_id for task in tasks), "each task ran in one pod"
    assert not [event for event in deployment.loop.executor.event_buffer.values() if str(event[0]) == "failed"]
    assert {client["user"] for client in admin.client_list()} <= {*users.values(), "default"}
    assert [entry for entry in server.denials() if "auth" in entry.lower()] == []
    assert admin.xlen(RedisKeys("default").quarantine) == 0, "each process could read what the others wrote"
