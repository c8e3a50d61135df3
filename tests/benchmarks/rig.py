"""The processes of a benchmark: Redis, the local cluster with latency, launchers, a watcher; and what each of them cost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.local_cluster import LocalCluster
from tests.support.redis_server import RedisServer

TEMPLATE = """
apiVersion: v1
kind: Pod
metadata:
  name: worker
  annotations:
    local-cluster/duration-s: "{duration_s}"
spec:
  restartPolicy: Never
  containers:
  - name: base
    image: airflow:bench
    resources:
      requests: {{cpu: 10m, memory: 16Mi}}
"""
FERNET_KEY = "bm90LWEtc2VjcmV0LWtleS1mb3ItdGVzdHMtb25seSE="


class Rig:
    """One API server and one Redis; everything that is measured runs against them, in turn."""

    def __init__(self, latency_s: float, duration_s: float = 1.0, kubeconfig: Path | None = None) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="podrelay-bench-"))
        self.latency_s = latency_s
        self.cluster: LocalCluster | None = None if kubeconfig else LocalCluster(self.folder, runner="simulate")
        self.kubeconfig = kubeconfig
        self.redis = RedisServer(self.folder)
        self.template = self.folder / "template.yaml"
        self.template.write_text(TEMPLATE.format(duration_s=duration_s))

    def __enter__(self) -> Rig:
        self.redis.start()
        if self.cluster is not None:
            self.cluster.start()
            self.kubeconfig = self.cluster.kubeconfig
            if self.latency_s:
                verbs = ["create", "get", "list", "patch", "delete", "deletecollection", "watch"]
                self.cluster.faults({"verbs": verbs, "latency_s": self.latency_s})
        return self

    def __exit__(self, *exc: object) -> None:
        if self.cluster is not None:
            self.cluster.stop()
        self.redis.__exit__(*exc)

    def environment(self, **more: str) -> dict[str, str]:
        """Airflow's options for a process of this rig, in an Airflow home of its own."""
        home = tempfile.mkdtemp(dir=self.folder)
        return {
            **os.environ,
            "AIRFLOW_HOME": home,
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__FERNET_KEY": FERNET_KEY,
            "AIRFLOW__API_AUTH__JWT_SECRET": "benchmarks-need-a-secret-of-some-length-and-this-one-is-long-enough-0123",
            "AIRFLOW__CORE__PARALLELISM": "1000000",
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR",
            "AIRFLOW__PODRELAY__REDIS_URL": self.redis.url,
            "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT": "36000",
            "AIRFLOW__KUBERNETES_EXECUTOR__IN_CLUSTER": "False",
            "AIRFLOW__KUBERNETES_EXECUTOR__CONFIG_FILE": str(self.kubeconfig),
            "AIRFLOW__KUBERNETES_EXECUTOR__POD_TEMPLATE_FILE": str(self.template),
            **more,
        }

    def creations(self, since_s: float) -> list[float]:
        """When the API server got each creation, from its audit log (wall clock, seconds)."""
        assert self.cluster is not None
        return sorted(
            float(line["time"])
            for line in self.cluster.audit()
            if line["verb"] == "create" and line["status"] == 201 and float(line["time"]) >= since_s
        )

    @contextmanager
    def workers(self, launchers: int, **more: str) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
        """Launchers and a watcher, ready."""
        environment = self.environment(**more)
        names = [f"launcher-{number}" for number in range(launchers)] + ["watcher"]
        log = (self.folder / "workers.log").open("ab")
        started = {
            name: subprocess.Popen(
                [sys.executable, "-m", "airflow", "podrelay", name.split("-")[0]],
                env=environment,
                stdout=log,
                stderr=log,
            )
            for name in names
        }
        try:
            self._wait_for_workers(launchers)
            yield started
        finally:
            for process in started.values():
                process.send_signal(signal.SIGTERM)
            for process in started.values():
                process.wait(30)
            log.close()

    def _wait_for_workers(self, launchers: int) -> None:
        import redis

        client = redis.Redis.from_url(self.redis.url, decode_responses=True)
        end = time.monotonic() + 60
        while time.monotonic() < end:
            if client.scard("rq:workers") >= launchers and client.hget("podrelay:default:watch:default", "t_listed"):
                return
            time.sleep(0.1)
        raise TimeoutError(f"launchers and watcher did not become ready; see {self.folder}/workers.log")

    def drive(self, executor: str, tasks: int, *options: str, **more: str) -> dict[str, Any]:
        """Run `drive.py` in a process of its own."""
        out = self.folder / "measured.json"
        out.unlink(missing_ok=True)
        log = (self.folder / "drive.log").open("ab")
        subprocess.run(
            [sys.executable, "-m", "tests.benchmarks.drive", "--executor", executor, "--tasks", str(tasks), "--out", str(out),
             *options],
            env=self.environment(**more), stdout=log, stderr=log, check=True,
        )  # fmt: skip
        measured: dict[str, Any] = json.loads(out.read_text())
        return measured


def cost_of(process: subprocess.Popen[bytes]) -> dict[str, float]:
    """CPU seconds so far, and resident memory now, of a process and its children."""
    ticks = os.sysconf("SC_CLK_TCK")
    cpu, memory_kb = 0.0, 0
    for pid in _family(process.pid):
        try:
            stat = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            continue
        cpu += (int(stat[11]) + int(stat[12])) / ticks
        memory_kb += next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")), 0)
    return {"cpu_s": cpu, "memory_mb": memory_kb / 1024}


def _family(pid: int) -> list[int]:
    found = [pid]
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return found
    for child in children:
        found += _family(int(child))
    return found
