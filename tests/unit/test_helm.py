"""docker/helm agrees with the manifests beside it: names, namespaces, Secrets, versions."""

from __future__ import annotations

import re

import pytest
import yaml

import podrelay
from podrelay.executor import RedisKubernetesExecutor
from tests.harness.docker_files import Json, named
from tests.unit.test_docker import REDIS, RELAY_KEY
from tests.unit.test_repository import read


def values() -> Json:
    document: Json = yaml.safe_load(read("docker/helm/values.yaml"))
    return document


def test_the_executor_is_named_by_its_class_path_and_fits_into_a_label() -> None:
    """An alias would not: a colon is not allowed there, and the chart takes the class path from 1.19 on."""
    name = values()["executor"]
    assert name == f"{RedisKubernetesExecutor.__module__}.{RedisKubernetesExecutor.__name__}"
    assert len(name) <= 63
    assert "KubernetesExecutor" in name  # the chart asks for this word


@pytest.mark.parametrize(
    ("process", "secret", "options"),
    [("scheduler", "podrelay-scheduler", {REDIS, RELAY_KEY}), ("apiServer", "podrelay-api-server", {REDIS})],
)
def test_a_process_gets_its_own_secret_only(process: str, secret: str, options: set[str]) -> None:
    references = {item["name"]: item["valueFrom"]["secretKeyRef"] for item in values()[process]["env"]}
    assert set(references) == options
    made = re.search(rf"create secret generic {secret} (.*?)\n +(?:kubectl|```)", read("docs/helm.md"), re.DOTALL)
    assert made is not None
    assert {reference["name"] for reference in references.values()} == {secret}
    assert {reference["key"] for reference in references.values()} == set(re.findall(r"--from-literal=(\w+)=", made[1]))


def test_no_other_process_gets_redis_or_the_key() -> None:
    """The chart hands `env`, `secret` and `extraEnv` of the top level to each process, and to task pods."""
    assert not {"env", "secret", "extraEnv", "extraEnvFrom", "extraSecrets"} & set(values())
    others = {name: item for name, item in values().items() if name not in ("scheduler", "apiServer")}
    assert "podrelay-" not in str(others)


def test_the_scheduler_may_do_nothing_in_kubernetes() -> None:
    found = values()
    assert found["allowPodLaunching"] is False
    assert found["scheduler"]["serviceAccount"]["automountServiceAccountToken"] is False
    assert found["webserver"]["allowPodLogReading"] is found["apiServer"]["allowPodLogReading"] is False
    (subject,) = named("RoleBinding", "podrelay-log-reader")["subjects"]
    assert subject["name"] == "airflow-api-server"  # the chart's name for it in a release named airflow


def test_pods_run_in_the_namespace_of_the_manifests_with_the_same_image() -> None:
    options = named("ConfigMap", "podrelay")["data"]
    namespace = values()["config"]["kubernetes_executor"]["namespace"]
    assert namespace == options["AIRFLOW__KUBERNETES_EXECUTOR__NAMESPACE"]
    image = values()["images"]["airflow"]
    template = yaml.safe_load(read("docker/kubernetes/base/pod_template.yaml"))
    assert f"{image['repository']}:{image['tag']}" == template["spec"]["containers"][0]["image"]
    assert image["tag"] == podrelay.__version__


def test_one_airflow() -> None:
    version = values()["airflowVersion"]
    assert f"\nAIRFLOW := {version}\n" in read("Makefile")
    assert f"\nARG AIRFLOW={version}\n" in read("docker/helm/Dockerfile")
