"""Renders a chart of Airflow with docker/helm/values.yaml: `make helm-chart CHART=FILE`. Without a chart it is skipped."""

from __future__ import annotations

import os
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.harness.docker_files import DOCKER, Json, of_kind

CHART = os.environ.get("PODRELAY_AIRFLOW_CHART", "")
pytestmark = pytest.mark.skipif(not CHART, reason="no chart: PODRELAY_AIRFLOW_CHART names none")


@pytest.fixture(scope="module")
def rendered() -> list[Json]:
    """The objects of a release `airflow` in the namespace `airflow`; the values match the chart's schema."""
    helm = pytest.importorskip("helm_python")
    values = yaml.safe_load((DOCKER / "helm" / "values.yaml").read_text())
    with helm.Chart.load(CHART) as chart:
        chart.validate_schema(values)
        texts = chart.render(values=values, name="airflow", namespace="airflow")
    return [
        item
        for name, text in texts.items()
        if name.endswith((".yaml", ".yml"))
        for item in yaml.safe_load_all(text)
        if item
    ]


def containers(items: list[Json]) -> list[tuple[str, Json]]:
    """Each container of each workload, with the workload's name."""
    found = []
    for item in items:
        if item["kind"] in ("Deployment", "StatefulSet", "Job"):
            spec = item["spec"]["template"]["spec"]
            parts = [*spec.get("initContainers", []), *spec["containers"]]
            found += [(item["metadata"]["name"], container) for container in parts]
    return found


def named(items: list[Json], kind: str, name: str) -> Json:
    (found,) = [item for item in of_kind(kind, items) if item["metadata"]["name"] == name]
    return found


def test_every_object_is_valid(rendered: list[Json]) -> None:
    for item in rendered:
        kubernetes_validate.validate(item, "1.33", strict=True)


def test_only_scheduler_and_api_server_know_redis_and_only_the_scheduler_the_key(rendered: list[Json]) -> None:
    holders = {
        (name, container["name"], variable["name"])
        for name, container in containers(rendered)
        for variable in container.get("env", [])
        if variable["name"].startswith("AIRFLOW__PODRELAY__")
    }
    assert holders == {
        ("airflow-scheduler", "scheduler", "AIRFLOW__PODRELAY__REDIS_URL"),
        ("airflow-scheduler", "scheduler", "AIRFLOW__PODRELAY__FERNET_KEY"),
        ("airflow-api-server", "api-server", "AIRFLOW__PODRELAY__REDIS_URL"),
    }
    configuration = named(rendered, "ConfigMap", "airflow-config")["data"]
    assert "PODRELAY" not in str(configuration)


def test_nobody_may_create_pods(rendered: list[Json]) -> None:
    assert [item["metadata"]["name"] for item in rendered if "Role" in item["kind"]] == []
    account = named(rendered, "ServiceAccount", "airflow-scheduler")
    assert account["automountServiceAccountToken"] is False


def test_the_executor_is_set_and_labelled(rendered: list[Json]) -> None:
    configuration = named(rendered, "ConfigMap", "airflow-config")["data"]["airflow.cfg"]
    assert "\nexecutor = podrelay.executor.RedisKubernetesExecutor\n" in configuration
    assert "\nnamespace = airflow-tasks\n" in configuration
    label = named(rendered, "Deployment", "airflow-scheduler")["metadata"]["labels"]["executor"]
    assert label == "podrelay.executor.RedisKubernetesExecutor"


def test_the_manifests_name_what_the_chart_makes(rendered: list[Json]) -> None:
    assert named(rendered, "ServiceAccount", "airflow-api-server")
    service = named(rendered, "Service", "airflow-api-server")
    template = yaml.safe_load((DOCKER / "kubernetes" / "base" / "pod_template.yaml").read_text())
    variables: dict[str, Any] = {item["name"]: item["value"] for item in template["spec"]["containers"][0]["env"]}
    address = f"http://airflow-api-server.airflow:{service['spec']['ports'][0]['port']}/execution/"
    assert variables["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"] == address
    for name in ("scheduler", "api-server"):  # what the NetworkPolicy podrelay-redis allows
        labels = named(rendered, "Deployment", f"airflow-{name}")["spec"]["template"]["metadata"]["labels"]
        assert labels["component"] == name


def test_there_is_no_redis_and_no_celery(rendered: list[Json]) -> None:
    assert not [name for name, _ in containers(rendered) if "redis" in name or "worker" in name or "flower" in name]
