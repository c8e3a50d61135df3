"""One deployment under test: database, Redis, local cluster, launchers, watchers and schedulers, all real processes."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import urllib.error
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis

from podrelay.protocol import identifiers
from tests.chaos import fork_server
from tests.chaos.links import Link, Links
from tests.chaos.postgres import Postgres, find_binaries
from tests.chaos.rows import Rows
from tests.chaos.task_api import TaskApi
from tests.harness.local_cluster import ROOT, LocalCluster
from tests.harness.redis_server import RedisServer

FERNET_KEY = "bm90LWEtc2VjcmV0LWtleS1mb3ItdGVzdHMtb25seSE="
TEMPLATE = """
apiVersion: v1
kind: Pod
metadata: {{name: template}}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  containers: [{{name: base, image: chaos, command: {command}}}]
"""
SLOTS = 64
DEAD_AFTER_S = 15
# So short that pods also end by themselves within a round; in its last five seconds no launch gets a pod.
IDLE_S = 20


@dataclass
class Member:
    """One process of the deployment, with its own links to Redis and to the API server."""

    name: str
    role: str
    to_redis: Link
    to_api: Link
    environment: dict[str, str]
    process: fork_server.Process | None = None
    starts: int = 0
    job_ids: list[int] = field(default_factory=list)


class Rig:
    """Start it once, run several rounds on it, stop it."""

    def __init__(
        self,
        drivers: int = 1,
        launchers: int = 2,
        watchers: int = 2,
        *,
        slots: int = SLOTS,
        sqlite: bool = False,
        warm_pods: int = 0,
    ) -> None:
        self._slots = slots
        self.warm_pods = warm_pods
        self._binaries = None if sqlite else find_binaries()
        self.folder = Path(tempfile.mkdtemp(prefix="podrelay-chaos-"))
        self.folder.chmod(0o755)
        self.shape = {"launcher": launchers, "watcher": watchers, "driver": drivers}
        self.runs = self.folder / "runs"
        # Which pod was given which task, whether it may run it or not.
        self.given = self.folder / "runs.given"
        self.redis_folder = self.folder / "redis"
        self.redis_folder.mkdir()
        self.redis = RedisServer(self.redis_folder, "--maxmemory-policy", "noeviction")
        self.redis.options = (*self.redis.options, "--appendonly", "yes", "--appendfsync", "everysec")
        self.cluster = LocalCluster(self.folder)
        self.links = Links()
        self._warm_socket = self.folder / "warm-pods.socket"
        self.members: dict[str, Member] = {}
        self.postgres: Postgres | None = None
        self._stack = contextlib.ExitStack()

    # --- life ---------------------------------------------------------------------------------------------------------
    def start(self) -> None:
        self._stack.callback(shutil.rmtree, self.folder, True)
        self._stack.callback(self.links.stop)
        url = self._start_database()
        # The way of all warm pods to Redis.
        self.pods_link = self.links.open(self.redis.port)
        os.environ.update(self._options(url))
        fork_server.run("make_database")
        self.rows = Rows(url)
        self._stack.callback(self.rows.close)
        self.task_api = TaskApi(self.rows)
        self._stack.callback(self.task_api.stop)
        self._write_template(0.3)
        if self.warm_pods:
            self._start_warm_pods()
        self._stack.enter_context(self.redis)
        self._stack.enter_context(self.cluster)
        for role, count in self.shape.items():
            for number in range(1, count + 1):
                self._add(f"{role}-{number}", role)
        self._stack.callback(self._end_members)
        for name in self.members:
            self.launch(name)
        self.until(self._ready, 240, "launchers, watcher and schedulers")
        if self.warm_pods:
            self._fill_pool()

    def stop(self, keep: bool = False) -> None:
        """:param keep: leave the folder with the logs, and say where."""
        if keep:
            kept = Path(f"{self.folder}-kept")
            left_out = shutil.ignore_patterns("postgres", "local-cluster.kubeconfig", self._warm_socket.name)
            shutil.copytree(self.folder, kept, ignore=left_out, ignore_dangling_symlinks=True)
            print(f"logs: {kept}", file=sys.stderr)
        self._stack.close()

    def _start_database(self) -> str:
        if self._binaries is None:
            if self.shape["driver"] > 1:
                raise RuntimeError("two schedulers need PostgreSQL: install Debian's postgresql")
            return f"sqlite:///{self.folder}/airflow.db"
        self.postgres = Postgres(self.folder, self._binaries)
        self._stack.callback(self.postgres.stop)
        self.postgres.start()
        return self.postgres.url

    def _start_warm_pods(self) -> None:
        """Like a node, no part of the deployment: nothing kills the server, only the pods in it."""
        environment = {"CHAOS_WARM_PODS": str(self._warm_socket)}
        server = fork_server.start("warm-pods", environment, self.folder / "warm-pods.log")
        self._stack.callback(fork_server.kill, server)
        self.until(self._warm_socket.exists, 60, "the server of warm pods")

    def _fill_pool(self) -> None:
        """The first launches show their shape and how many pods are needed; they get new pods."""
        tasks = self.make_tasks(self.warm_pods, "first")
        self.rows.schedule(tasks)
        self.until(
            lambda: all(state == "success" for state, _ in self.rows.states(tasks).values()), 60, "the first tasks"
        )
        self.until(self.idle_pods, 60, "idle pods")

    def _options(self, database_url: str) -> dict[str, str]:
        path = [str(ROOT / "executor"), str(ROOT / "workers"), str(ROOT), os.environ.get("PYTHONPATH", "")]
        options = {
            "PYTHONPATH": os.pathsep.join(filter(None, path)),
            "AIRFLOW_HOME": str(self.folder / "airflow"),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database_url,
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__FERNET_KEY": FERNET_KEY,
            "AIRFLOW__CORE__PARALLELISM": str(self._slots),
            "AIRFLOW__CORE__EXECUTOR": "podrelay.executor.RedisKubernetesExecutor",
            "AIRFLOW__API_AUTH__JWT_SECRET": "chaos-needs-a-secret-of-some-length-and-this-one-is-long-enough-0123456789",
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "INFO",
            "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": str(DEAD_AFTER_S),
            "AIRFLOW__KUBERNETES_EXECUTOR__IN_CLUSTER": "False",
            "AIRFLOW__KUBERNETES_EXECUTOR__POD_TEMPLATE_FILE": str(self.folder / "template.yaml"),
        }
        if self.warm_pods:
            options |= {
                "AIRFLOW__PODRELAY__WARM_PODS_MAX": str(self.warm_pods),
                # That of a killed pod, too: nothing is left.
                "AIRFLOW__KUBERNETES_EXECUTOR__DELETE_WORKER_PODS_ON_FAILURE": "True",
                "AIRFLOW__PODRELAY__WARM_POD_IDLE_S": str(IDLE_S),
                # In the pods, whose environment is that of the local cluster; members have links of their own.
                "AIRFLOW__PODRELAY__REDIS_URL": f"redis://127.0.0.1:{self.pods_link.port}/0",
            }
        return options

    def _write_template(self, seconds: float) -> None:
        words = [sys.executable, "-S", "-E", str(ROOT / "tests/chaos/pod.py"), str(self.task_api.port), str(self.runs),
                 str(seconds), str(self._warm_socket)]  # fmt: skip
        (self.folder / "template.yaml").write_text(TEMPLATE.format(command=json.dumps(words)))

    def _ready(self) -> bool:
        client = self.client()
        listed = client.hget("podrelay:default:watch:default", "t_listed")
        reported = all(self.status_of(name) for name in self.of("driver"))
        return bool(client.scard("rq:workers") >= self.shape["launcher"] and listed and reported)

    # --- members ------------------------------------------------------------------------------------------------------
    def _add(self, name: str, role: str) -> None:
        to_redis = self.links.open(self.redis.port)
        api_port = int(self.cluster.url.rpartition(":")[2])
        to_api = self.links.open(api_port)
        kubeconfig = self.folder / f"{name}.kubeconfig"
        kubeconfig.touch(mode=0o600)
        kubeconfig.write_text(self.cluster.kubeconfig.read_text().replace(f":{api_port}", f":{to_api.port}"))
        environment = {
            "AIRFLOW__PODRELAY__REDIS_URL": f"redis://127.0.0.1:{to_redis.port}/0",
            "AIRFLOW__KUBERNETES_EXECUTOR__CONFIG_FILE": str(kubeconfig),
            "CHAOS_STATUS": str(self.folder / f"{name}.json"),
        }
        self.members[name] = Member(name, role, to_redis, to_api, environment)

    def of(self, role: str) -> list[str]:
        return [member.name for member in self.members.values() if member.role == role]

    def launch(self, name: str) -> None:
        member = self.members[name]
        member.process = fork_server.start(member.role, member.environment, self.folder / f"{name}.log")
        member.starts += 1

    def kill(self, name: str) -> None:
        """SIGKILL. A scheduler's death is known at once; Airflow would need scheduler_health_check_threshold."""
        member = self.members[name]
        status = self.status_of(name) if member.role == "driver" else {}
        if member.process is not None:
            fork_server.kill(member.process)
        if status:
            self.rows.bury(int(status["job_id"]))
            (self.folder / f"{name}.json").unlink(missing_ok=True)

    def signal(self, name: str, number: int) -> None:
        process = self.members[name].process
        if process is not None:
            fork_server.send(process, number)

    def status_of(self, name: str) -> dict[str, Any]:
        try:
            status: dict[str, Any] = json.loads((self.folder / f"{name}.json").read_text())
        except (OSError, ValueError):
            return {}
        return status

    def leader(self) -> str:
        """Name of the leading watcher."""
        held = str(self.client().hget("podrelay:default:watch:default", "leader") or "")
        for name in self.of("watcher"):
            process = self.members[name].process
            if process is not None and f":{process.pid}:" in held:
                return name
        return self.of("watcher")[0]

    def revive(self) -> list[str]:
        """Start whatever has ended by itself, which nothing should; the names."""
        ended = []
        for name, member in self.members.items():
            if member.process is None or not member.process.is_alive():
                ended.append(name)
                self.launch(name)
        return ended

    def _end_members(self) -> None:
        for member in self.members.values():
            if member.process is not None:
                fork_server.send(member.process, signal.SIGCONT)
                fork_server.kill(member.process)

    # --- the rest of the world ----------------------------------------------------------------------------------------
    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.redis.url, decode_responses=True, socket_timeout=5)

    def restart_redis(self, keep_data: bool) -> None:
        """SIGKILL and start."""
        self.redis.kill()
        if not keep_data:
            shutil.rmtree(self.redis_folder / "appendonlydir", True)
        self.redis.start()

    def idle_pods(self) -> list[dict[str, Any]]:
        """Warm pods that run, and that no launch has."""
        found = self.cluster.pods(query=f"?labelSelector={identifiers.LABEL_IDLE}")
        return [pod for pod in found if pod["status"].get("phase") == "Running"]

    def delete_pod(self, pod: dict[str, Any], **options: Any) -> bool:
        """False where it is gone, or not as the options demand."""
        metadata = pod["metadata"]
        try:
            self.cluster.call("DELETE", f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}", options)
        except urllib.error.HTTPError as error:
            if error.code not in (404, 409):
                raise
            return False
        return True

    def make_tasks(self, count: int, name: str) -> list[str]:
        out = self.folder / "tasks.json"
        fork_server.run("make_tasks", count, name, str(out))
        ids: list[str] = json.loads(out.read_text())
        return ids

    @staticmethod
    def until(condition: Callable[[], Any], most_s: float, what: str) -> None:
        end = time.monotonic() + most_s
        while True:
            with contextlib.suppress(redis.RedisError, OSError):
                if condition():
                    return
            if time.monotonic() > end:
                raise TimeoutError(f"not there after {most_s:g} s: {what}")
            time.sleep(0.1)
