"""Callbacks, connection tests and logs in pods that really run, for a team: what the stock executor has no pods for.

One local cluster that runs processes, and one launcher and watcher of the team `red` (sections 22, 24, items 11, 149, 168).
"""

from __future__ import annotations

import json
import os
import sys
import threading
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
from airflow.executors import workloads
from airflow.models.connection_test import ConnectionTestKey
from airflow.utils.session import create_session
from kubernetes.client import models as k8s

from podrelay.executor import RedisKubernetesExecutor
from tests.harness.local_cluster import ROOT, LocalCluster
from tests.harness.parity_rig import PodrelayRig, Workers, workers
from tests.harness.redis_server import RedisServer
from tests.harness.task_instances import load, update
from tests.integration.parity.conftest import Rigs

TEAM = "red"
CALLBACKS = """
import pathlib

def note(path, text):
    pathlib.Path(path).write_text(text)

def fail():
    raise ValueError("this callback fails")
"""


class ExecutionApi(BaseHTTPRequestHandler):
    """The two routes of Airflow's Execution API that a connection test needs."""

    states: list[str] = []

    def do_GET(self) -> None:
        test = uuid.UUID(self.path.split("/")[-2])
        # One that may succeed, and one whose hook does not exist.
        kind = "sqlite" if test.int % 2 else "no_such_type"
        self._answer({"conn_id": "tested", "conn_type": kind, "host": ":memory:"})

    def do_PATCH(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.states.append(body["state"])
        self._answer({})

    def _answer(self, document: dict[str, Any]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(document).encode())

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def execution_api() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), ExecutionApi)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/execution/"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def real_cluster(folder: Path) -> Iterator[LocalCluster]:
    with LocalCluster(folder / "real", runner="process") as cluster:
        yield cluster


@pytest.fixture(scope="module", params=["False", "True"], ids=["token in the arguments", "token in a Secret"])
def red_environment(
    request: pytest.FixtureRequest,
    folder: Path,
    real_cluster: LocalCluster,
    redis_server: RedisServer,
    execution_api: str,
) -> dict[str, str]:
    """A team's options stand alone: nothing falls back to those without its prefix, but client and Redis are shared."""
    home = folder / "red"
    (home / "dags").mkdir(parents=True, exist_ok=True)
    (home / "parity_callbacks.py").write_text(CALLBACKS)
    env = {
        "PYTHONPATH": f"{ROOT}/executor:{ROOT}/workers:{home}",
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(home / "dags"),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": execution_api,
        "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
        "AIRFLOW__CORE__FERNET_KEY": os.environ["AIRFLOW__CORE__FERNET_KEY"],
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    container = {"name": "base", "image": "local", "env": [{"name": name, "value": env[name]} for name in env]}
    template = {"spec": {"restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": [container]}}
    (home / "template.yaml").write_text(json.dumps(template))
    return {
        "AIRFLOW__KUBERNETES_EXECUTOR__CONFIG_FILE": str(real_cluster.kubeconfig),
        f"AIRFLOW__{TEAM.upper()}___KUBERNETES_EXECUTOR__POD_TEMPLATE_FILE": str(home / "template.yaml"),
        f"AIRFLOW__{TEAM.upper()}___CORE__PARALLELISM": "7",
        "AIRFLOW__PODRELAY__REDIS_URL": redis_server.url,
        "AIRFLOW__PODRELAY__LAUNCH_LEASE_S": "2",
        "AIRFLOW__PODRELAY__WORKLOAD_IN_SECRET": request.param,
        "AIRFLOW__METRICS__STATSD_ON": "False",
    }


@pytest.fixture(scope="module")
def red_workers(folder: Path, redis_server: RedisServer, red_environment: dict[str, str]) -> Iterator[Workers]:
    client = redis.Redis.from_url(redis_server.url)
    with workers(folder / "red", client, "real", team=TEAM, environment=red_environment) as made:
        yield made


class RedRig(PodrelayRig):
    """The executor of the team."""

    def start(self, job_id: int) -> RedisKubernetesExecutor:
        executor = RedisKubernetesExecutor(team_name=TEAM)
        executor.job_id = job_id
        executor.start()
        return executor


@pytest.fixture
def red(
    airflow_db: None,
    real_cluster: LocalCluster,
    red_workers: Workers,
    red_environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[RedRig]:
    monkeypatch.setenv("AIRFLOW__PODRELAY__DEPLOYMENT", "real")
    monkeypatch.setenv("AIRFLOW__PODRELAY__RECONCILE_INTERVAL_S", "0.2")
    for name, value in red_environment.items():
        monkeypatch.setenv(name, value)
    rig = RedRig(real_cluster)
    yield rig
    rig.close()
    real_cluster.call("DELETE", "/api/v1/namespaces/default/pods", {"gracePeriodSeconds": 0})


def callback(function: str, **kwargs: Any) -> workloads.ExecuteCallback:
    """A deadline's callback, as the scheduler would queue it."""
    return workloads.ExecuteCallback.model_validate(
        {
            "callback": {
                "id": str(uuid.uuid4()),
                "fetch_method": "import_path",
                "data": {"path": function, "kwargs": kwargs},
            },
            "dag_rel_path": "dag.py",
            "token": "token",
            "log_path": None,
            "bundle_info": {"name": "dags-folder", "version": None},
        }
    )


def queue(rig: RedRig, *wanted: Any) -> None:
    with create_session() as session:
        for workload in wanted:
            rig.executor.queue_workload(workload, session)


def test_callbacks_run_in_pods(red: RedRig, tmp_path: Path) -> None:
    note = tmp_path / "note"
    good = callback("parity_callbacks.note", path=str(note), text="reached")
    bad = callback("parity_callbacks.fail")
    queue(red, good, bad)
    red.executor.heartbeat()
    assert good.key in red.executor.running
    assert red.executor.queued_callbacks == {}
    seen: dict[Any, list[str]] = {good.key: [], bad.key: []}

    def over() -> bool:
        for key, (state, _) in red.executor.get_event_buffer().items():
            seen[key].append(str(state))
        return all(states and states[-1] in ("success", "failed") for states in seen.values())

    red.until(over, "both callbacks end", 60)
    assert seen == {good.key: ["running", "success"], bad.key: ["running", "failed"]}
    assert note.read_text() == "reached"
    assert red.executor.running == set()


def test_connection_tests_run_in_pods(red: RedRig) -> None:
    ExecutionApi.states.clear()
    tests = [
        workloads.TestConnection(
            connection_test_id=uuid.UUID(int=uuid.uuid4().int // 2 * 2 + odd), connection_id="c", timeout=30, token="t"
        )
        for odd in (0, 1)
    ]
    queue(red, *tests)
    keys = {ConnectionTestKey(id=str(test.connection_test_id)) for test in tests}
    red.executor.heartbeat()
    assert keys <= red.executor.running
    assert red.executor.queued_connection_tests == {}
    red.until(lambda: not red.executor.running, "both tests end", 60)
    assert len(ExecutionApi.states) == 2, "each supervisor reported what it found"


def test_a_team_has_its_own_options_queues_and_cluster(red: RedRig) -> None:
    assert red.executor.parallelism == 7
    task = red.submit()
    client = red.executor._breaker._client  # type: ignore[attr-defined]
    assert client.hget(f"podrelay:real:launch:{task.launch_id}", "queue") == b"podrelay.real.red.launch"
    assert red.pod(task)["metadata"]["labels"]["podrelay/cluster"] == TEAM


# --- logs (117 to 119) --------------------------------------------------------------------------------------------------
def speaking(text: str) -> dict[str, Any]:
    """The pod of a task that says something and stays."""
    container = k8s.V1Container(
        name="base", command=["python", "-c", f"import time; print({text!r}, flush=True); time.sleep(99)"]
    )
    return {"pod_override": k8s.V1Pod(spec=k8s.V1PodSpec(containers=[container]))}


def logs(ti_id: str) -> tuple[list[str], list[str]]:
    """As the API server reads them: an executor that was never started."""
    ti = load(ti_id)
    return RedisKubernetesExecutor(team_name=TEAM).get_task_log(ti, ti.try_number)


def test_the_log_of_a_running_pod(red: RedRig) -> None:
    task = red.submit(executor_config=speaking("the first words"))
    red.until(lambda: "the first words" in logs(task.ti_id)[1][0])
    messages, _ = logs(task.ti_id)
    assert messages[0].startswith("Attempting to fetch logs from pod")
    assert messages[-1] == "Found logs through kube API"
    # After a relaunch there are two pods: the newest counts.
    red.end_pod(red.pod(task), exit_code=128, reason="StartError")
    second = red.pod(task, 1, phase="Running")
    log_requests = [entry for entry in red.cluster.audit() if entry["verb"] == "log"]
    red.until(lambda: "the first words" in logs(task.ti_id)[1][0])
    later = [entry["name"] for entry in red.cluster.audit() if entry["verb"] == "log"][len(log_requests) :]
    assert later
    assert set(later) == {second["metadata"]["name"]}
    update(task.ti_id, state="success")
    for pod in red.pods(task):
        red.cluster.vanish_pod("default", pod["metadata"]["name"])
    messages, texts = logs(task.ti_id)
    assert texts == [""]
    assert "Reading from k8s pod logs failed" in messages[-1]


def test_constructing_opens_nothing(red: RedRig) -> None:
    process = psutil.Process()
    before = process.num_fds(), len(process.children())
    made = [RedisKubernetesExecutor(team_name=TEAM) for _ in range(100)]
    assert (process.num_fds(), len(process.children())) == before
    assert len(made) == 100
    assert threading.active_count() < 20


def test_an_executor_without_a_team_is_not_disturbed(rigs: Rigs, red: RedRig) -> None:
    other = rigs("podrelay")
    task, mine = other.submit(), red.submit()
    other.pod(task)
    red.pod(mine)
    assert mine.key not in other.executor.running
