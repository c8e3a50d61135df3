"""A warm pod with a workload is the process that Airflow starts for it: tests run both, against the real execution API."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from podrelay.protocol.identifiers import launch_of_host
from podrelay.protocol.mailbox import MailboxKey
from tests.harness.execution_api import ExecutionApi, token_generator
from tests.harness.task_instances import load, make_task_instances, update, workload_of
from tests.harness.warm_process import LAUNCH, Process, WarmProcess, start, until

DAGS = Path(__file__).parent / "dags"
AIRFLOW = "airflow.sdk.execution_time.execute_workload"


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of the pods and of the execution API."""
    return {
        "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "INFO",
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(tmp_path_factory.mktemp("logs")),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": os.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] + "?timeout=60",
        "AIRFLOW_IS_K8S_EXECUTOR_POD": "True",
        # How long the supervisor may need to see that its task has ended (findings).
        "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
    }


@pytest.fixture(scope="module")
def api(airflow_db: None, options: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExecutionApi]:
    with ExecutionApi(tmp_path_factory.mktemp("api"), options) as api:
        yield api


@pytest.fixture(scope="module")
def rows(airflow_db: None) -> dict[str, str]:
    """The one task instance of each DAG."""
    return {dag: make_task_instances(dag_id=dag, task_id="own_code")[0] for dag in ("look", "fail", "die", "stay")}


@dataclass
class Pods:
    """Runs the task of a DAG in a pod of either kind. `note` is what it wrote."""

    folder: Path
    redis_url: str
    options: dict[str, str]
    rows: dict[str, str]

    @property
    def note(self) -> Any:
        return json.loads((self.folder / "note").read_text())

    def start(self, kind: str, dag: str, *, from_file: bool = False, again: bool = False, **more: str) -> Process:
        """The process, once it has its workload."""
        (self.folder / "note").unlink(missing_ok=True)
        if not again:
            update(self.rows[dag], state="queued", hostname="", pid=None, start_date=None, end_date=None)
        workload = workload_of(self.rows[dag], token_generator()).model_dump_json()
        options = {**self.options, "NOTE": str(self.folder / "note"), **more}
        if kind == "plain":
            words = ["--json-string", workload]
            if from_file:
                (self.folder / "workload").write_text(workload)
                words = ["--json-path", str(self.folder / "workload")]
            return start(self.folder, AIRFLOW, words, options)
        pod = WarmProcess(self.folder, self.redis_url, options, from_file=from_file)
        pod.wait_alive()
        pod.deliver(workload)
        return pod.process

    def run(self, kind: str, dag: str, **more: Any) -> Process:
        """The process after its end."""
        process = self.start(kind, dag, **more)
        process.ended()
        return process

    def state(self, dag: str) -> str:
        return str(load(self.rows[dag]).state)

    def host(self, dag: str) -> str:
        """What the row names as its host."""
        return str(load(self.rows[dag]).hostname)


@pytest.fixture
def pods(
    tmp_path: Path, redis_url: str, api: ExecutionApi, options: dict[str, str], rows: dict[str, str]
) -> Iterator[Pods]:
    more = {"AIRFLOW__CORE__EXECUTION_API_SERVER_URL": api.url, "AIRFLOW__PODRELAY__REDIS_URL": redis_url}
    yield Pods(tmp_path, redis_url, {**options, **more}, rows)


both = pytest.mark.parametrize("kind", ["plain", "warm"])


def log_of(process: Process) -> list[dict[str, Any]]:
    """The JSON lines on standard output, without what differs from run to run."""
    lines = [json.loads(line) for line in process.stdout.read_text().splitlines()]
    varying = ("timestamp", "duration", "bundle_prepare_ms", "dag_file_parse_ms", "server")
    return [{name: value for name, value in line.items() if name not in varying} for line in lines]


@pytest.mark.parametrize("from_file", [False, True])
def test_the_task_sees_the_same_process(pods: Pods, from_file: bool) -> None:
    plain = pods.run("plain", "look", from_file=from_file)
    expected, usual_host = pods.note, pods.host("look")
    warm = pods.run("warm", "look", from_file=from_file)
    found, host = pods.note, pods.host("look")
    assert (plain.ended(), warm.ended()) == (0, 0)
    assert pods.state("look") == "success"
    for name in ("argv", "original argv"):
        *before, option, given = expected.pop(name)
        *before_too, option_too, given_too = found.pop(name)
        assert (before, option) == (before_too, option_too)
        assert ("token" in given) == ("token" in given_too) == (not from_file)
    for times in (expected, found):
        times.pop("module_s"), times.pop("own_code_s")
    if from_file:
        found["descriptors"].remove("/memfd")
    assert found == expected
    assert found["ways to the database"] == []
    assert host == f"{usual_host}.{LAUNCH.replace('-', '')}-1"
    assert launch_of_host(host) == (LAUNCH, 1)
    assert log_of(warm) == log_of(plain)
    assert warm.stderr.read_text() == plain.stderr.read_text()


@both
@pytest.mark.parametrize(("dag", "state"), [("fail", "failed"), ("die", "failed")])
def test_the_end_of_the_task_is_no_end_of_the_process(pods: Pods, kind: str, dag: str, state: str) -> None:
    """Airflow's module ends with 0, whatever became of the task."""
    assert pods.run(kind, dag).ended() == 0
    assert pods.state(dag) == state


@both
def test_a_task_that_runs_elsewhere_is_left_alone(pods: Pods, kind: str) -> None:
    update(pods.rows["look"], state="running", hostname="another", pid=1)
    process = pods.run(kind, "look", again=True)
    assert process.ended() == 1
    assert "409" in process.output() or "already running" in process.output()
    assert pods.host("look") == "another"


@both
def test_an_api_that_is_away_ends_the_process(pods: Pods, kind: str) -> None:
    away = {
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": "http://127.0.0.1:9/execution/",
        "AIRFLOW__WORKERS__EXECUTION_API_RETRIES": "1",
    }
    assert pods.run(kind, "look", **away).ended() == 1


@both
def test_sigterm_reaches_the_task(pods: Pods, kind: str) -> None:
    process = pods.start(kind, "stay")
    until(lambda: (pods.folder / "note").exists(), "the task runs")
    process.popen.send_signal(signal.SIGTERM)
    assert process.ended(20) == 0
    assert pods.note == {"killed": True}
    assert pods.state("stay") == "failed"


def test_threads_that_a_fork_would_lack_cost_a_new_interpreter(pods: Pods) -> None:
    """OpenTelemetry starts threads when Airflow is imported."""
    telemetry = {
        "AIRFLOW__TRACES__OTEL_ON": "True",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
    }
    pods.run("plain", "look", **telemetry)
    expected = pods.note
    warm = pods.run("warm", "look", **telemetry)
    found = pods.note
    assert warm.ended() == 0
    assert pods.state("look") == "success"
    assert launch_of_host(pods.host("look")) == (LAUNCH, 1)
    assert found["threads"] == expected["threads"]
    assert found["environment"] == expected["environment"]
    assert found["main"] == expected["main"]


def test_neither_workload_nor_key_is_shown(pods: Pods) -> None:
    workload = workload_of(pods.rows["look"], token_generator()).model_dump_json()
    update(pods.rows["look"], state="queued")
    pod = WarmProcess(pods.folder, pods.redis_url, {**pods.options, "NOTE": str(pods.folder / "note")})
    pod.wait_alive()
    pod.client.rpush(pod.inbox, workload)  # not sealed
    pod.client.rpush(pod.inbox, MailboxKey.generate().text)
    pod.deliver(workload)
    assert pod.process.ended() == 0
    text = pod.process.output()
    assert text.count("Dropped an item of the mailbox") == 2
    assert json.loads(workload)["token"] not in text
    assert pod.key.text not in text
    assert pod.key.text not in json.dumps(pods.note)
