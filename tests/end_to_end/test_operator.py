"""The documentation, carried out by an operator who knows nothing else: each marked block is typed, in their order.

A plain Airflow gets podrelay, runs with it, changes its key and its password and its processes under load, and goes back.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from demo.processes import marked
from podrelay.protocol import identifiers
from tests.end_to_end.conftest import _STACK
from tests.end_to_end.operator_machine import NAMESPACE, Machine

pytestmark = pytest.mark.timeout(600)

# The pages name this run of the DAG etl.
RUN = "nightly-1"
DAGS = Path(__file__).with_name("operator_dags")


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    root = tmp_path_factory.mktemp("machine")
    machine = Machine(root)
    try:
        shutil.copytree(DAGS, machine.airflow_home / "dags")
        machine.start()
        yield machine
    finally:
        machine.stop()
    assert marked(root) == []


@pytest.fixture(autouse=True)
def _show_logs(machine: Machine, request: pytest.FixtureRequest) -> None:
    request.node.stash[_STACK] = machine


class Load:
    """Runs of the DAG `steady`: what an operator's Airflow does while the operator works."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.runs: list[str] = []

    def more(self) -> None:
        self.runs.append(self._machine.api.trigger("steady"))

    def tasks(self) -> list[Any]:
        return [task for run in self.runs for task in self._machine.api.tasks("steady", run)]

    def check(self) -> None:
        """Wait for the end: every task a success at its first try, in one pod."""
        over = {"success", "failed"}
        self._machine.until("the API server", self._machine.api.health)
        self._machine.until(
            "the load", lambda: all(self._machine.api.run_state("steady", run) in over for run in self.runs)
        )
        tasks = self.tasks()
        assert Counter((task.state, task.try_number) for task in tasks) == {("success", 1): len(tasks)}
        pods = self._machine.pods_made("steady")
        assert len(pods) >= len(tasks) and set(pods.values()) == {1}, "each launch has one pod"


def test_install_and_run_the_first_task(machine: Machine) -> None:
    machine.do("docs/install.md", "Install the package")
    machine.do("docs/install.md", "Write the configuration")
    machine.adapt("/etc/airflow/pod_template.yaml")
    machine.do("docs/install.md", "Check it")
    machine.do("docs/install.md", "Start launchers and watchers")
    machine.do("docs/operations.md", "Readiness")
    machine.do("docs/install.md", "Switch Airflow")
    machine.do("docs/install.md", "Run the first task")


def test_scale_to_four_launchers(machine: Machine) -> None:
    machine.do("docs/routine.md", "Scale launchers")


def test_why_a_task_waits_and_another_failed(machine: Machine) -> None:
    machine.api.post("/api/v2/dags/etl/dagRuns", {"dag_run_id": RUN, "logical_date": None})
    machine.do("docs/routine.md", "Find out why a task waits")
    machine.do("docs/routine.md", "Find out why a task failed")
    rows = machine.api.get("/api/v2/eventLogs?dag_id=etl&limit=100")["event_logs"]
    said = {(row["task_id"], row["event"]): row["extra"] for row in rows}
    assert "Unschedulable" in said["load", "pod pending"]
    assert "exit code 3" in said["clean", "pod failed"]
    assert "no library libpq.so.5" in said["clean", "pod failed"]
    machine.api.patch(f"/api/v2/dags/etl/dagRuns/{RUN}/taskInstances/load", {"new_state": "failed"})


def test_the_key_and_the_password_change_under_load(machine: Machine) -> None:
    machine.type("systemctl stop podrelay-launcher@2 podrelay-watcher@2")  # fewer processes restart faster
    load = Load(machine)
    load.more()
    machine.do("docs/security.md", "The Fernet key")
    load.more()
    machine.do("docs/security.md", "The password of Redis")
    machine.environment["REDISCLI_AUTH"] = machine.processes.environment["REDISCLI_AUTH"] = machine.words[
        "NEW-PASSWORD"
    ]
    with pytest.raises(redis.AuthenticationError):
        redis.Redis.from_url(f"redis://:old-secret@127.0.0.1:{machine.redis_port}/0").ping()
    load.check()


def test_an_upgrade_under_load(machine: Machine) -> None:
    load = Load(machine)
    load.more()
    machine.do("docs/routine.md", "Upgrade")
    load.check()


def test_going_back_and_removing_podrelay(machine: Machine) -> None:
    machine.do("docs/migration.md", "Go back")
    machine.until("the API server", machine.api.health)
    run = machine.api.trigger("hello")
    machine.until("the task", lambda: machine.api.run_state("hello", run) == "success")
    pods = machine.cluster.call("GET", f"/api/v1/namespaces/{NAMESPACE}/pods")["items"]
    assert not any(identifiers.LABEL_LAUNCH_ID in pod["metadata"]["labels"] for pod in pods if run in str(pod))
    machine.do("docs/routine.md", "Remove podrelay")
    left = redis.Redis.from_url(f"redis://:new-secret@127.0.0.1:{machine.redis_port}/0", decode_responses=True)
    assert [key for key in left.scan_iter("*") if not key.startswith(("rq:job:", "rq:results:"))] == []
    assert "podrelay" not in machine.type("airflow --help")
