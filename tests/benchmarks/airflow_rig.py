"""A whole Airflow whose executor changes with the contestant, seen from outside: when a task was queued, when its code began.

The demo's stack: real scheduler, API server and DAG processor, pods as processes on the local cluster; PostgreSQL where this
machine has it. Only scheduler and launcher are started anew for a contestant, so that all share everything else.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import redis
import yaml

from demo.stack import HERE as DEMO
from demo.stack import Shape, Stack
from podrelay.protocol.redis_keys import RedisKeys
from tests.benchmarks import forked_pods
from tests.chaos.postgres import Postgres, find_binaries
from tests.end_to_end.stack_rig import StackRig

ROOT = Path(__file__).resolve().parents[2]
DAGS = Path(__file__).parent / "dags"
IDLE_LABEL = "podrelay/idle"
_LIMIT_S = 180.0
_OVER = ("success", "failed")


@dataclass(frozen=True)
class Contestant:
    """An executor with its options, as environment variables of scheduler and launcher."""

    name: str
    launcher: bool
    options: Mapping[str, str] = field(default_factory=dict)


class Run(NamedTuple):
    """One run of a DAG."""

    dag_id: str
    run_id: str


class AirflowRig:
    """A context manager. Everything it started is gone at the end, whatever happened."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="podrelay-bench-airflow-"))
        self.folder.chmod(0o755)
        self._began = self.folder / "home" / "began"
        binaries = find_binaries()
        self._postgres = Postgres(self.folder, binaries) if binaries else None
        self.database = "PostgreSQL" if self._postgres else "SQLite"
        dags = self.folder / "home" / "dags"
        shutil.copytree(DAGS, dags, ignore=shutil.ignore_patterns("__pycache__"))
        self._began.mkdir()
        self.stack = Stack(self.folder / "home", Shape(launchers=0, dags=dags, options=self._options()))
        self.keys = RedisKeys()

    def __enter__(self) -> AirflowRig:
        with ExitStack() as stack:
            stack.callback(shutil.rmtree, self.folder, True)
            if self._postgres is not None:
                stack.callback(self._postgres.stop)
                self._postgres.start()
            stack.callback(self.stack.stop)
            self.stack.start()
            self.outside = StackRig(self.stack)
            self.cluster = self.outside.cluster
            self.redis = redis.Redis.from_url(self.stack.redis_url, decode_responses=True)
            stack.callback(self.redis.close)
            self._closing = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._closing.close()

    def _options(self) -> dict[str, str]:
        options = {"AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING"}
        if self._postgres is not None:
            options["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = self._postgres.url
        return options

    # --- contestants --------------------------------------------------------------------------------------------------
    def become(self, contestant: Contestant) -> None:
        """Replace scheduler and launcher of the last contestant, and forget its idle pods."""
        self.await_ends()
        children = self.stack.processes.children
        for name in [name for name in children if name in ("scheduler", "launcher.1")]:
            self.stack.processes.end(name)
        for pod in self._pods():
            self.cluster.call("DELETE", f"/api/v1/namespaces/default/pods/{pod['metadata']['name']}")
        self.until("no pod is left", lambda: not self._pods())
        for key in self.redis.keys("podrelay:default:warm_*"):
            self.redis.delete(key)
        command = [sys.executable, "-m", "airflow", "scheduler", "--skip-serve-logs"]
        self.stack.processes.start("scheduler", command, contestant.options)
        if contestant.launcher:
            before = self.redis.scard("rq:workers")
            self.stack.start_launcher("launcher.1", contestant.options)
            self.until("a launcher", lambda: self.redis.scard("rq:workers") > before)

    def until(self, what: str, true: Callable[[], object]) -> None:
        """:raises StackError: it did not come to hold, or a process of the stack has exited."""
        self.stack.processes.wait_for(what, lambda: bool(true()), _LIMIT_S, pause_s=0.1)

    def forked_pods(self) -> dict[str, str]:
        """Start the process from which warm pods are forked: the options of launchers whose pods are to come from there."""
        server, template = self.folder / "forked-pods", self.folder / "template.yaml"
        document = yaml.safe_load((DEMO / "pod_template.yaml").read_text())
        document["spec"]["containers"][0]["command"] = forked_pods.command(server)
        template.write_text(yaml.safe_dump(document))
        words = [sys.executable, "-m", "tests.benchmarks.forked_pods", str(server)]
        self.stack.processes.start("forked-pods", words, {"PYTHONPATH": str(ROOT)})
        self.until("the process that forks pods", server.exists)
        return {"AIRFLOW__KUBERNETES_EXECUTOR__POD_TEMPLATE_FILE": str(template)}

    def idle_pods(self) -> int:
        """How many warm pods wait for a workload."""
        return sum(self.redis.zcard(key) for key in self.redis.keys("podrelay:default:warm_idle:*"))

    def kept_pods(self) -> int:
        """How many warm pods exist that no task has, ready or not."""
        return len(self._pods()) - len(self._busy_pods())

    # --- runs ---------------------------------------------------------------------------------------------------------
    def trigger(self, dag_id: str) -> Run:
        self.until(f"DAG {dag_id}", lambda: self.stack.api.dag_is_known(dag_id))
        return Run(dag_id, self.stack.api.trigger(dag_id))

    def await_own_code(self, run: Run, tasks: int) -> None:
        """Returns when the code of so many tasks of the run has begun. Asks no server: that would cost them time."""
        self.until(f"own code of {tasks} tasks", lambda: len(list(self._began.glob(f"{run.run_id}.*"))) >= tasks)

    def finish(self, runs: Sequence[Run]) -> None:
        """Wait until the runs have succeeded. A pod may end some seconds later.

        :raises RuntimeError: a run failed.
        """
        for dag_id, run_id in runs:
            state = ""
            while state not in _OVER:
                self.until("", lambda: True)
                state = self.stack.api.run_state(dag_id, run_id)
                time.sleep(0.0 if state in _OVER else 0.5)
            if state != "success":
                raise RuntimeError(f"a run of {dag_id} ended as {state}")

    def await_ends(self) -> None:
        """Wait until no pod is left but idle ones."""
        self.until("the pods are gone", lambda: not self._busy_pods())

    def waits_s(self, runs: Sequence[Run]) -> list[float]:
        """Seconds from queued_dttm to the first line of the task's own code, of each task of finished runs."""
        found = []
        for dag_id, run_id in runs:
            answer = self.stack.api.get(f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances")
            for row in answer["task_instances"]:
                began_s = float((self._began / f"{run_id}.{row['task_id']}").read_text())
                found.append(began_s - datetime.fromisoformat(row["queued_when"]).timestamp())
        return found

    def launches(self, runs: Sequence[Run]) -> list[dict[str, str]]:
        """The ledger entries of these runs; none for the stock executor."""
        wanted = {run_id for _, run_id in runs}
        entries = [self.redis.hgetall(key) for key in self.redis.scan_iter(f"{self.keys.launch_prefix}*", count=1000)]
        return [entry for entry in entries if json.loads(entry.get("key") or "[0, 0, 0]")[2] in wanted]

    def requests(self, since: int) -> tuple[int, Counter[str]]:
        """What podrelay sent to the API server after entry `since` of its audit log: the number to go on with, and how
        often each verb and resource. Watches, which stay open, are left out.
        """
        entries = self.cluster.audit(since)
        last = entries[-1]["number"] if entries else since
        sent = [entry for entry in entries if entry["user_agent"].startswith("podrelay") and entry["verb"] != "watch"]
        return last, Counter(f"{entry['verb']} {entry['resource']}" for entry in sent)

    def _pods(self) -> list[dict[str, Any]]:
        return self.cluster.pods()

    def _busy_pods(self) -> list[str]:
        return [
            pod["metadata"]["name"] for pod in self._pods() if IDLE_LABEL not in (pod["metadata"].get("labels") or {})
        ]
