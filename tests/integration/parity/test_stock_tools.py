"""The provider's own tools beside our executor: its command line as a user runs it, and the pod that it renders for the UI
(items 124 to 126).
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator
from airflow.providers.cncf.kubernetes.template_rendering import get_rendered_k8s_spec

from podrelay.protocol import identifiers
from podrelay.protocol.messages import LaunchRequest
from podrelay_workers.launcher.pod_manifest import ManifestRenderer
from tests.harness.local_cluster import ROOT, LocalCluster
from tests.harness.parity_rig import TEMPLATE, Rig
from tests.harness.task_instances import load

DAG = """
from airflow.sdk import DAG, task
from kubernetes.client import models as k8s

override = k8s.V1Pod(
    metadata=k8s.V1ObjectMeta(labels={"team": "blue"}),
    spec=k8s.V1PodSpec(containers=[k8s.V1Container(name="base", image="special:1")]),
)

with DAG("shown", schedule=None):

    @task(executor_config={"pod_override": override})
    def with_override(): ...

    @task
    def plain(): ...

    with_override() >> plain()
"""
TIMES = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?=(\.\d+)?Z)")


def airflow(*words: str, **environment: str) -> str:
    """What the command says; podrelay's executor is the configured one."""
    done = subprocess.run(
        [sys.executable, "-m", "airflow", *words],
        env=os.environ | {"PYTHONPATH": f"{ROOT}/executor:{ROOT}/workers"} | environment,
        capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.timeout(120)
def test_generate_dag_yaml(airflow_db: None, tmp_path: Path) -> None:
    (tmp_path / "dags").mkdir()
    (tmp_path / "dags" / "shown.py").write_text(DAG)
    (tmp_path / "template.yaml").write_text(TEMPLATE)
    airflow(
        "kubernetes", "generate-dag-yaml", "shown", "--logical-date", "2026-11-20T00:00:00+00:00",
        "--output-path", str(tmp_path),
        AIRFLOW__CORE__DAGS_FOLDER=str(tmp_path / "dags"),
        AIRFLOW__KUBERNETES_EXECUTOR__POD_TEMPLATE_FILE=str(tmp_path / "template.yaml"),
    )  # fmt: skip
    written = {path.name.split("_2026")[0]: path for path in (tmp_path / "airflow_yaml_output").iterdir()}
    assert set(written) == {"shown_with_override", "shown_plain"}
    special, plain = (yaml.safe_load(written[f"shown_{task}"].read_text()) for task in ("with_override", "plain"))
    assert special["metadata"]["labels"]["team"] == "blue"
    assert special["spec"]["containers"][0]["image"] == "special:1"
    assert plain["spec"]["containers"][0]["image"] == "apache/airflow:3.3.2"
    assert plain["metadata"]["labels"]["airflow-worker"] == "worker-config"


class Ages:
    """Our pods in a cluster of their own, whose times can be set back."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "template.yaml").write_text(TEMPLATE)
        self.cluster = LocalCluster(folder, runner="simulate", data_dir=folder / "data")
        self.cluster.start()

    def make(self, name: str) -> str:
        """A pod as a launcher makes it; its name."""
        config = type("Config", (), {"kube_image": "image", "pod_template_file": str(self.folder / "template.yaml")})()
        request = LaunchRequest(
            f"{len(name):08d}-aaaa-4bbb-8ccc-0123456789ab",
            0,
            "task",
            "ti",
            (name, "task", "run", 1, -1),
            "7",
            ("true",),
        )
        body = ManifestRenderer("default", kube_config=config, hook=False).render(request)
        if name.startswith("waits"):
            body["metadata"]["annotations"]["local-cluster/hold"] = "true"
        made = self.cluster.call("POST", "/api/v1/namespaces/default/pods", body)
        return str(made["metadata"]["name"])

    def age(self, minutes: float, *pods: str) -> None:
        """Restart the cluster with all times of these pods so much earlier."""
        self.cluster.kill()  # a stop would end the pods
        journal = self.folder / "data" / "journal.jsonl"
        lines = [
            TIMES.sub(lambda found: _earlier(found[0], minutes), line) if any(pod in line for pod in pods) else line
            for line in journal.read_text().splitlines(keepends=True)
        ]
        journal.write_text("".join(lines))
        self.cluster.start()

    def phase(self, pod: str) -> str:
        return str(self.cluster.call("GET", f"/api/v1/namespaces/default/pods/{pod}")["status"]["phase"])

    def left(self) -> set[str]:
        return {pod["metadata"]["name"] for pod in self.cluster.pods()}


def _earlier(text: str, minutes: float) -> str:
    return (datetime.fromisoformat(text) - timedelta(minutes=minutes)).isoformat()


@pytest.fixture
def ages(tmp_path: Path) -> Iterator[Ages]:
    made = Ages(tmp_path)
    yield made
    made.cluster.stop()


@pytest.mark.timeout(180)
def test_cleanup_pods_by_age(airflow_db: None, ages: Ages) -> None:
    made = {name: ages.make(name) for name in (
        "runs", "runs-long", "ended", "ended-long-ago", "failed-long-ago", "evicted-long-ago", "waits-x", "waits-for-long",
        "\u65e5\u5831",
    )}  # fmt: skip
    cases: dict[str, dict[str, Any]] = {
        "ended": {"exit_code": 0},
        "ended-long-ago": {"exit_code": 0},
        "\u65e5\u5831": {"exit_code": 0},
        "failed-long-ago": {"exit_code": 1},
        "evicted-long-ago": {"exit_code": 137, "pod_reason": "Evicted"},
    }
    while any(ages.phase(pod) == "Pending" for name, pod in made.items() if not name.startswith("waits")):
        time.sleep(0.05)
    for name, case in cases.items():
        ages.cluster.end_pod("default", made[name], **case)
    ages.age(40, *(pod for name, pod in made.items() if "long" in name or not name.isascii()))
    assert ages.left() == set(made.values())
    airflow(
        "kubernetes", "cleanup-pods", "--namespace", "default", "--min-completed-minutes", "10",
        AIRFLOW__KUBERNETES_EXECUTOR__CONFIG_FILE=str(ages.cluster.kubeconfig),
    )  # fmt: skip
    assert ages.left() == {made[name] for name in ("runs", "runs-long", "ended", "waits-x")}


def test_the_rendered_pod_is_the_one_that_runs(ours: Rig) -> None:
    """What Airflow renders for a reader, from the same row: the same pod, but for what names this launch of it."""
    override = PodGenerator.deserialize_model_dict(
        {
            "metadata": {"labels": {"team": "blue"}, "namespace": "other"},
            "spec": {"containers": [{"name": "base", "image": "a:1"}]},
        }
    )
    task = ours.submit(executor_config={"pod_override": override})
    ti = load(task.ti_id)
    shown, runs = get_rendered_k8s_spec(ti), ours.pod(task)
    assert shown is not None
    for part in ("labels", "annotations"):
        fields = {key: value for key, value in runs["metadata"][part].items() if not key.startswith("podrelay/")}
        assert fields | {identifiers.LABEL_WORKER: "0"} == shown["metadata"][part] | {identifiers.LABEL_WORKER: "0"}
    assert runs["metadata"]["namespace"] == shown["metadata"]["namespace"] == "other"
    assert runs["spec"]["containers"][0]["image"] == shown["spec"]["containers"][0]["image"] == "a:1"
    assert runs["spec"]["containers"][0]["env"] == shown["spec"]["containers"][0]["env"]
    assert runs["spec"]["containers"][0]["args"][:4] == shown["spec"]["containers"][0]["args"][:4]
