"""The overlays and components of docker/kubernetes render to valid objects that fit each other and the code."""

from __future__ import annotations

import re
import shutil
from typing import Any

import kubernetes_validate
import pytest
import yaml

from podrelay.protocol import redis_keys
from podrelay.protocol.redis_keys import RedisKeys
from podrelay_workers.launcher.pod_policy import load_pod_policy
from tests.harness.docker_files import KUBERNETES, Json, named, of_kind, rendered, selects
from tests.unit.test_repository import read

COMPONENTS = sorted(path.name for path in (KUBERNETES / "components").iterdir())
OVERLAYS = sorted(path.name for path in (KUBERNETES / "overlays").iterdir())
# Of KEDA; kubernetes-validate knows only what Kubernetes brings.
FOREIGN = {"ScaledObject", "TriggerAuthentication"}


def overlay(name: str) -> tuple[Json, ...]:
    return rendered(KUBERNETES / "overlays" / name)


@pytest.fixture(scope="module")
def with_components(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Renders the base with some components, as an overlay of an operator's own does."""
    root = tmp_path_factory.mktemp("kustomize") / "kubernetes"
    shutil.copytree(KUBERNETES, root)

    def render(*components: str) -> tuple[Json, ...]:
        folder = root / "overlays" / "-".join(("mine", *components))
        folder.mkdir(exist_ok=True)
        document = {"resources": ["../../base"], "components": [f"../../components/{name}" for name in components]}
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(document))
        return rendered(folder)

    return render


def test_every_overlay_is_the_base_with_its_component() -> None:
    assert set(OVERLAYS) <= set(COMPONENTS)
    for name in OVERLAYS:
        text = read(f"docker/kubernetes/overlays/{name}/kustomization.yaml")
        document = yaml.safe_load(text)
        assert document["resources"] == ["../../base"]
        assert document["components"] == [f"../../components/{name}"]
        for further in re.findall(r"# - (\S+)", text):
            assert (KUBERNETES / "overlays" / name / further).is_dir()


@pytest.mark.parametrize(
    "components", [[name] for name in COMPONENTS] + [["redis", "workload_secrets", "keda"]], ids="+".join
)
def test_what_is_rendered_matches_the_schema(components: list[str], with_components: Any) -> None:
    items = with_components(*components)
    for item in items:
        if item["kind"] not in FOREIGN:
            kubernetes_validate.validate(item, "1.33", strict=True)
    names = [(item["kind"], item["metadata"].get("namespace"), item["metadata"]["name"]) for item in items]
    assert len(names) == len(set(names))
    assert {namespace for _, namespace, _ in names} == {"airflow", "airflow-tasks"}


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_autoscaler_alone_decides_how_many_launchers_there_are(name: str) -> None:
    items = overlay(name)
    assert "replicas" not in named("Deployment", "podrelay-launcher", items)["spec"]
    assert named("Deployment", "podrelay-watcher", items)["spec"]["replicas"] == 2
    assert len([item for item in items if item["kind"] in ("HorizontalPodAutoscaler", "ScaledObject")]) == 1
    assert named("PodDisruptionBudget", "podrelay-launcher", items)["spec"]["maxUnavailable"] == 1


def test_keda_counts_every_queue_of_launches_once() -> None:
    spec = named("ScaledObject", "podrelay-launcher", overlay("keda"))["spec"]
    assert spec["scaleTargetRef"] == {"name": "podrelay-launcher"}
    counted = [trigger["metadata"]["listName"] for trigger in spec["triggers"]]
    assert counted == [redis_keys.rq_queue(queue) for queue in RedisKeys("default").launch_queues("default")]
    names = [trigger["name"] for trigger in spec["triggers"]]
    modifiers = spec["advanced"]["scalingModifiers"]
    assert modifiers["formula"].split(" + ") == names
    assert len(set(names)) == len(names)
    assert {trigger["metadata"]["listLength"] for trigger in spec["triggers"]} == {modifiers["target"]}
    assert spec["minReplicaCount"] >= 2  # waiting launches and clean-ups, which it does not count, need launchers too
    assert spec["minReplicaCount"] < spec["maxReplicaCount"]


def test_keda_logs_in_as_a_user_of_its_own() -> None:
    items = overlay("keda")
    spec = named("ScaledObject", "podrelay-launcher", items)["spec"]
    authentication = named("TriggerAuthentication", "podrelay-autoscaler", items)
    for trigger in spec["triggers"]:
        assert trigger["type"] == "redis"
        assert trigger["authenticationRef"] == {"name": authentication["metadata"]["name"]}
        assert set(trigger["metadata"]) == {"listName", "listLength"}  # no address, no password
    references = authentication["spec"]["secretTargetRef"]
    assert {item["parameter"] for item in references} == {"address", "username", "password", "tls"}
    made = re.search(
        r"create secret generic (\S+) (.*?)\n# tls",
        read("docker/kubernetes/components/keda/kustomization.yaml"),
        re.DOTALL,
    )
    assert made is not None
    assert {item["name"] for item in references} == {made[1]}
    assert {item["key"] for item in references} == set(re.findall(r"--from-literal=(\w+)=", made[2]))


def test_kedas_operator_reaches_redis_and_nobody_else_does_by_that_rule() -> None:
    policy = named("NetworkPolicy", "podrelay-autoscaler", overlay("keda"))["spec"]
    redis = named("NetworkPolicy", "podrelay-redis", overlay("keda"))["spec"]
    assert policy["podSelector"] == redis["podSelector"]
    (rule,) = policy["ingress"]
    (peer,) = rule["from"]
    assert peer["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "keda"}
    assert selects(peer["podSelector"], {"app": "keda-operator"})
    assert not selects(peer["podSelector"], {})


def test_keda_may_count_by_a_metric_that_exists(with_components: Any) -> None:
    spec = named("ScaledObject", "podrelay-launcher", with_components("keda_metrics"))["spec"]
    by_lists = named("ScaledObject", "podrelay-launcher", overlay("keda"))["spec"]
    for part in ("scaleTargetRef", "minReplicaCount", "maxReplicaCount", "pollingInterval"):
        assert spec[part] == by_lists[part]
    (trigger,) = spec["triggers"]
    assert trigger["type"] == "prometheus"
    # A missing metric is no reason to scale down.
    assert trigger["metadata"]["ignoreNullValues"] == "false"
    assert trigger["metadata"]["threshold"] == by_lists["advanced"]["scalingModifiers"]["target"]
    query = trigger["metadata"]["query"]
    (name,) = re.findall(r"podrelay_\w+", query)
    row = next(line for line in read("docs/metrics.md").splitlines() if line.startswith(f"| `{name}`"))
    labels = set(re.findall(r"(\w+)!?=", query))
    assert labels == {"deployment", "cluster", "state", "priority"}  # the first two are on all metrics
    assert all(f"`{label}`" in row for label in ("state", "priority"))
    assert "queued" in row


def test_the_cpu_autoscaler_needs_no_request() -> None:
    spec = named("HorizontalPodAutoscaler", "podrelay-launcher", overlay("hpa"))["spec"]
    assert spec["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "podrelay-launcher"}
    (metric,) = spec["metrics"]
    assert metric["resource"]["target"]["type"] == "AverageValue"
    assert 2 <= spec["minReplicas"] < spec["maxReplicas"]


def test_workloads_in_secrets_bring_option_and_role(with_components: Any) -> None:
    items = with_components("workload_secrets", "hpa")
    options = named("ConfigMap", "podrelay", items)["data"]
    assert options["AIRFLOW__PODRELAY__WORKLOAD_IN_SECRET"] == "True"
    assert options["AIRFLOW__PODRELAY__POD_POLICY"] == "strict"
    assert named("Role", "podrelay-workload-secrets", items)
    assert "AIRFLOW__PODRELAY__WORKLOAD_IN_SECRET" not in named("ConfigMap", "podrelay")["data"]


def test_warm_pods_bring_option_role_and_way_to_redis(with_components: Any) -> None:
    items = with_components("warm_pods", "hpa")
    assert int(named("ConfigMap", "podrelay", items)["data"]["AIRFLOW__PODRELAY__WARM_PODS_MAX"]) > 0
    assert named("Role", "podrelay-warm-pods", items)
    redis = named("NetworkPolicy", "podrelay-redis", items)["spec"]
    assert named("NetworkPolicy", "podrelay-redis-warm-pods", items)["spec"]["podSelector"] == redis["podSelector"]
    assert "AIRFLOW__PODRELAY__WARM_PODS_MAX" not in named("ConfigMap", "podrelay")["data"]


def test_redis_keeps_the_strict_policy_and_is_reached_by_its_users_only(with_components: Any) -> None:
    items = with_components("redis", "keda", "workload_secrets")
    (server,) = of_kind("StatefulSet", items)
    pod = server["spec"]["template"]
    policy = load_pod_policy("strict", ["airflow"])
    assert policy.violations({"metadata": {**server["metadata"], **pod["metadata"]}, "spec": pod["spec"]}) == []
    (container,) = pod["spec"]["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    for bound in ("requests", "limits"):
        assert set(container["resources"][bound]) == {"cpu", "memory", "ephemeral-storage"}
    labels = pod["metadata"]["labels"]
    (service,) = of_kind("Service", items)
    assert service["spec"]["selector"].items() <= labels.items()
    guards = [item for item in of_kind("NetworkPolicy", items) if selects(item["spec"]["podSelector"], labels)]
    assert {item["metadata"]["name"] for item in guards} == {"podrelay-redis", "podrelay-autoscaler"}
    configuration = named("ConfigMap", "podrelay-redis", items)["metadata"]["name"]
    assert configuration in {volume.get("configMap", {}).get("name") for volume in pod["spec"]["volumes"]}
