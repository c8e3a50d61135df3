"""A complete Airflow with podrelay: Redis, the local cluster, launchers, watchers and Airflow's own processes.

Used by `demo.run` and by the end-to-end tests. It uses one home folder and free ports of 127.0.0.1, nothing else.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import shlex
import ssl
import sys
import urllib.request
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import redis

from demo.airflow_api import AirflowApi
from demo.processes import Processes, StackError, free_ports, listens
from demo.redis_binary import NoRedis, find_redis

HERE = Path(__file__).resolve().parent
USER = "admin"
NAMESPACE = "default"
# The namespaces of the DAG podrelay_troubles; the second holds one pod at a time.
TROUBLED_NAMESPACES = (NAMESPACE, "small")

# Importing Airflow takes many seconds, and longer when eight processes do it at the same time on two cores.
_START_LIMIT_S = 240.0
_AIRFLOW_PARTS = ("scheduler", "dag_processor", "triggerer", "metadatabase")


@dataclass(frozen=True)
class Shape:
    """Which processes to start, and with which options."""

    launchers: int = 2
    watchers: int = 1
    dashboard: bool = False
    namespaces: tuple[str, ...] = (NAMESPACE,)
    dags: Path = HERE / "dags"
    # Options of Airflow and podrelay as environment variables; they override those of the stack.
    options: Mapping[str, str] = field(default_factory=dict)


class Stack:
    """Call `start`, then `stop`, which leaves no process behind even if `start` failed halfway."""

    def __init__(self, home: Path, shape: Shape | None = None, report: Callable[[str], None] = lambda _: None) -> None:
        """:param report: called with what `start` waits for, in a few words."""
        self.home = home
        self.shape = shape or Shape()
        self._report = report
        self.redis_port, self.cluster_port, self.api_port, self.dashboard_port = free_ports(4)
        self.password = secrets.token_urlsafe(9)
        self.kubeconfig = home / "kubeconfig"
        self.api = AirflowApi(self.airflow_url, USER, self.password)
        self.environment = {**self._options(), **self.shape.options}
        self.processes = Processes(home, {**_inherited(), **self.environment})

    @property
    def redis_url(self) -> str:
        return f"redis://127.0.0.1:{self.redis_port}/0"

    @property
    def airflow_url(self) -> str:
        return f"http://127.0.0.1:{self.api_port}"

    @property
    def dashboard_url(self) -> str:
        return f"http://127.0.0.1:{self.dashboard_port}"

    @property
    def environment_file(self) -> Path:
        """A file for a shell to read: `airflow` commands typed there reach this stack. It holds its secrets, mode 0600."""
        return self.home / "environment.sh"

    @property
    def launchers(self) -> list[str]:
        """Names of the running launcher processes."""
        return [name for name in self.processes.children if name.startswith("launcher")]

    def start(self) -> None:
        """Start everything; return when all parts of Airflow report that they are healthy.

        :raises StackError: a part did not start; the message names it and its log.
        """
        self._write_files()
        self._report("Redis and the local cluster")
        self.start_redis()
        self.start_cluster()
        self._report("Airflow's database")
        self.processes.run("db-migrate", self._airflow("db", "migrate"), 120)
        self._report("launchers, watcher, scheduler, API server, DAG processor and triggerer")
        self.start_airflow()
        for number in range(1, self.shape.launchers + 1):
            self.start_launcher(f"launcher.{number}")
        for number in range(1, self.shape.watchers + 1):
            self.start_watcher(f"watcher.{number}")
        if self.shape.dashboard:
            self._start_dashboard()
        self.processes.wait_for("Airflow", self._airflow_is_healthy, _START_LIMIT_S, pause_s=0.3)
        self.api.execution_health()

    def stop(self) -> None:
        """End all processes; the local cluster and Redis, which the others need, last."""
        self.processes.end_all(last=("cluster", "redis"))

    def start_redis(self) -> None:
        try:
            server = find_redis()
        except NoRedis as error:
            raise StackError(str(error)) from error
        data = self.home / "redis"
        data.mkdir(exist_ok=True)
        options = {
            "--port": str(self.redis_port),
            "--bind": "127.0.0.1",
            "--dir": str(data),
            "--save": "",
            "--appendonly": "yes",
            "--maxmemory-policy": "noeviction",
        }
        self.processes.start("redis", [server, *(word for option in options.items() for word in option)])
        self.processes.wait_for("Redis", self._redis_answers, 20)

    def start_cluster(self) -> None:
        command = self._airflow("podrelay", "local-cluster", "--kubeconfig-out", str(self.kubeconfig))
        options = ["--port", str(self.cluster_port), "--namespaces", ",".join(self.shape.namespaces)]
        self.processes.start("cluster", [*command, *options])
        self.processes.wait_for(
            "The local cluster", lambda: self.kubeconfig.exists() and listens(self.cluster_port), 60
        )
        self.make_troubles()

    def make_troubles(self) -> None:
        """What the DAG podrelay_troubles meets: an image that cannot be pulled, and a namespace for one pod."""
        config = json.loads(self.kubeconfig.read_text())
        cluster = config["clusters"][0]["cluster"]
        tls = ssl.create_default_context(cadata=base64.b64decode(cluster["certificate-authority-data"]).decode())
        body = json.dumps({"images": [{"pattern": "registry.example.com/*"}], "quota": {"small": 1}}).encode()
        request = urllib.request.Request(
            f"{cluster['server']}/local-cluster/faults", data=body, method="PUT",
            headers={"Authorization": f"Bearer {config['users'][0]['user']['token']}"},
        )  # fmt: skip
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=tls))
        opener.open(request, timeout=10).close()

    def start_airflow(self) -> None:
        self.start_api_server("api-server", self.api_port)
        self.start_scheduler()
        self.processes.start("dag-processor", self._airflow("dag-processor"))
        self.processes.start("triggerer", self._airflow("triggerer", "--skip-serve-logs"))

    def start_api_server(self, name: str, port: int, options: Mapping[str, str] | None = None) -> None:
        """:param options: environment variables for this server alone."""
        host = ("--host", "127.0.0.1", "--port", str(port), "--workers", "1")
        self.processes.start(name, self._airflow("api-server", *host), options)

    def start_scheduler(self) -> None:
        self.processes.start("scheduler", self._airflow("scheduler", "--skip-serve-logs"))

    def start_launcher(self, name: str, options: Mapping[str, str] | None = None) -> None:
        """:param options: environment variables for this launcher alone."""
        self.processes.start(name, self._airflow("podrelay", "launcher"), options)

    def start_watcher(self, name: str) -> None:
        self.processes.start(name, self._airflow("podrelay", "watcher"))

    def _start_dashboard(self) -> None:
        # In the environment, because every user of the machine can read a command line.
        login = {"RQ_DASHBOARD_USERNAME": USER, "RQ_DASHBOARD_PASSWORD": self.password}
        command = self._airflow("podrelay", "dashboard", "--port", str(self.dashboard_port))
        self.processes.start("dashboard", command, login)
        self.processes.wait_for("rq-dashboard", lambda: listens(self.dashboard_port), 60)

    def _airflow(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "airflow", *words]

    def _airflow_is_healthy(self) -> bool:
        health = self.api.health()
        return all(health.get(part) == "healthy" for part in _AIRFLOW_PARTS)

    def _redis_answers(self) -> bool:
        try:
            with redis.Redis.from_url(self.redis_url, socket_timeout=1) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    def _write_files(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        # SimpleAuthManager generates and prints a password unless this file holds one.
        passwords = self.home / "passwords.json"
        passwords.touch(mode=0o600)
        passwords.write_text(json.dumps({USER: self.password}) + "\n")
        self.environment_file.touch(mode=0o600)
        self.environment_file.write_text(self._exports())

    def _exports(self) -> str:
        """The environment of the stack as shell commands: `airflow` and `kubectl` then mean this stack."""
        path = f'export PATH={shlex.quote(str(Path(sys.executable).parent))}:"$PATH"'
        values = {**self.environment, "KUBECONFIG": str(self.kubeconfig), "NO_PROXY": "127.0.0.1,localhost"}
        return "\n".join([path, *(f"export {name}={shlex.quote(value)}" for name, value in values.items())]) + "\n"

    def _options(self) -> dict[str, str]:
        """The configuration of the stack. Only the executor and the Redis URL are specific to podrelay."""
        options = {
            "core.executor": "podrelay.executor.RedisKubernetesExecutor",
            "podrelay.redis_url": self.redis_url,
            "podrelay.dashboard_url": self.dashboard_url if self.shape.dashboard else "",
            "kubernetes_executor.config_file": str(self.kubeconfig),
            "kubernetes_executor.in_cluster": "False",
            "kubernetes_executor.namespace": NAMESPACE,
            "kubernetes_executor.multi_namespace_mode": str(len(self.shape.namespaces) > 1),
            "kubernetes_executor.multi_namespace_mode_namespace_list": ",".join(self.shape.namespaces),
            "kubernetes_executor.pod_template_file": str(HERE / "pod_template.yaml"),
            # Five processes and all pods share this file; SQLite's default timeout of 5 s is too short on a busy machine.
            "database.sql_alchemy_conn": f"sqlite:///{self.home}/airflow.db?timeout=60",
            "core.dags_folder": str(self.shape.dags),
            "core.load_examples": "False",
            "core.dags_are_paused_at_creation": "False",
            "core.fernet_key": urlsafe_b64encode(secrets.token_bytes(32)).decode(),
            "core.execution_api_server_url": f"{self.airflow_url}/execution/",
            "core.simple_auth_manager_users": f"{USER}:admin",
            "core.simple_auth_manager_passwords_file": str(self.home / "passwords.json"),
            "api.base_url": self.airflow_url,
            "api.secret_key": secrets.token_urlsafe(32),
            "api_auth.jwt_secret": secrets.token_urlsafe(64),
            "workers.execution_api_timeout": "60",
            "usage_data_collection.enabled": "False",
            "dag_processor.refresh_interval": "30",
        }
        sections = ((name.partition("."), value) for name, value in options.items())
        environment = {f"AIRFLOW__{part[0]}__{part[2]}".upper(): value for part, value in sections}
        return {**environment, "AIRFLOW_HOME": str(self.home)}


def _inherited() -> dict[str, str]:
    """The environment of this process, without variables that configure another Airflow, Python or cluster."""
    # Without bytecode files each process and each pod would compile Airflow again, which takes 5 s of CPU time.
    foreign = ("AIRFLOW", "PODRELAY", "KUBE", "PYTHONPATH", "PYTHONHOME", "PYTHONDONTWRITEBYTECODE", "RQ_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    # Pods find `python` and `airflow` on the PATH of the local cluster.
    path = os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", os.defpath)])
    no_proxy = ",".join(filter(None, [kept.get("NO_PROXY") or kept.get("no_proxy"), "127.0.0.1", "localhost"]))
    # SPT_NOENV: Airflow sets process titles, and must not overwrite the environment, which holds our mark.
    more = {"PATH": path, "NO_PROXY": no_proxy, "no_proxy": no_proxy, "PYTHONUNBUFFERED": "1", "SPT_NOENV": "1"}
    return {**kept, **more}
