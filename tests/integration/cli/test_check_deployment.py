"""`airflow podrelay check` finds what would show only after the start: executor, options, namespaces, template."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from podrelay.cli.check import Check, run_checks
from podrelay.cli.check_options import executors_of, old_defaults, unknown_variables
from podrelay.cli.check_template import judge_template
from podrelay.errors import ConfigError
from podrelay.get_provider_info import OPTIONS, default_of
from tests.harness.generated_config import airflow
from tests.harness.local_cluster import LocalCluster
from tests.harness.parity_rig import TEMPLATE

OURS = "podrelay.executor.RedisKubernetesExecutor"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with LocalCluster(tmp_path_factory.mktemp("cluster"), runner="simulate", namespaces="default,tasks") as cluster:
        yield cluster


@pytest.fixture
def options(cluster: LocalCluster, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A deployment in which everything is right, as environment variables."""
    template = tmp_path / "template.yaml"
    template.write_text(TEMPLATE)
    values = {
        "AIRFLOW__CORE__EXECUTOR": OURS,
        "AIRFLOW__PODRELAY__REDIS_URL": redis_url,
        "AIRFLOW__KUBERNETES_EXECUTOR__IN_CLUSTER": "False",
        "AIRFLOW__KUBERNETES_EXECUTOR__CONFIG_FILE": str(cluster.kubeconfig),
        "AIRFLOW__KUBERNETES_EXECUTOR__NAMESPACE": "tasks",
        "AIRFLOW__KUBERNETES_EXECUTOR__POD_TEMPLATE_FILE": str(template),
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    return values


def failed(process: str | None = None) -> dict[str, str]:
    return {check.name: check.detail for check in run_checks(None, process) if not check.ok}


def named(name: str) -> Check:
    return [check for check in run_checks(None) if check.name == name][0]


def test_a_good_deployment_passes_and_creates_nothing(options: dict[str, str], cluster: LocalCluster) -> None:
    found = list(run_checks(None))
    assert [(check.name, check.detail) for check in found if not check.ok] == []
    assert found[-1].name == "dry run"
    assert "tasks" in found[-1].detail
    assert [record for record in cluster.audit() if record["verb"] == "create" and record.get("resource") == "pods"]
    assert cluster.pods("tasks") == []


# --- executor -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("KubernetesExecutor", "does not name podrelay"),
        ("LocalExecutor", OURS),
        ("podrelay.executor.RedisKubernetesExecuter", "cannot be imported"),
        ("podrelay.executors.RedisKubernetesExecutor", "cannot be imported"),
        ("RedisKubernetesExecutor", "cannot be imported"),
        ("LocalExecutor;red=podrelay.executor.RedisKubernetesExecutor", "does not name podrelay"),
    ],
)
def test_an_executor_that_is_not_podrelay_is_named(
    options: dict[str, str], monkeypatch: pytest.MonkeyPatch, value: str, expected: str
) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", value)
    detail = failed()["executor"]
    assert "[core] executor" in detail
    assert expected in detail
    assert "executor" not in failed("launcher"), "only schedulers load it"


@pytest.mark.parametrize("value", [OURS, f"LocalExecutor,{OURS}", f"k8s:{OURS}", f"LocalExecutor, k8s:{OURS}"])
def test_podrelay_may_be_one_of_several_executors(
    options: dict[str, str], monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", value)
    check = named("executor")
    assert check.ok
    assert bool(check.warnings) is value.startswith("LocalExecutor")


def test_the_executors_of_a_team_are_read() -> None:
    value = "LocalExecutor;red=a.B, alias:c.D;=ignored"
    assert executors_of(value, None) == ["LocalExecutor"]
    assert executors_of(value, "red") == ["a.B", "alias:c.D"]
    assert executors_of(value, "blue") == []


# --- options ------------------------------------------------------------------------------------------------------
def test_unknown_variables_are_found_with_a_hint() -> None:
    good = ["AIRFLOW__PODRELAY__REDIS_URL", "AIRFLOW__PODRELAY__REDIS_URL_CMD", "AIRFLOW__PODRELAY__FERNET_KEY_SECRET",
            "AIRFLOW_HOME", "PODRELAY_REAL_KUBECONFIG", "AIRFLOW__CORE__EXECUTOR", "AIRFLOW_PODRELAY_SERVICE_HOST",
            "AIRFLOW_PODRELAY_REDIS_PORT_6379_TCP"]  # fmt: skip
    assert list(unknown_variables(good)) == []
    bad = ["AIRFLOW__PODRELAY__LAUNCHER_CONCURENCY", "AIRFLOW_PODRELAY_REDIS_URL", "AIRFLOW__RED___PODRELAY__REDIS_URL",
           "airflow__podrelay__redis_url", "AIRFLOW__PODRELAY__SPEED"]  # fmt: skip
    found = dict(zip(sorted(bad), unknown_variables(bad), strict=True))
    assert "did you mean launcher_concurrency?" in found[bad[0]]
    assert "AIRFLOW__PODRELAY__" in found[bad[1]].partition(" ")[2]
    assert "all teams share" in found[bad[2]]
    assert all(name in text for name, text in found.items())


def test_an_unknown_option_in_the_environment_fails_the_check(
    options: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__PODRELAY__LAUNCH_LEASE", "7")
    assert "AIRFLOW__PODRELAY__LAUNCH_LEASE" in failed()["[podrelay] options"]


def test_a_former_default_is_listed_with_the_present_one() -> None:
    former = {"launcher_concurrency": ("32", "48")}
    (line,) = old_defaults({"launcher_concurrency": "48"}, former)
    assert "48" in line
    assert "it is 64 now" in line
    assert list(old_defaults({"launcher_concurrency": "50", "deployment": ""}, former)) == []
    (line,) = old_defaults({"launcher_concurrency": "64", "deployment": "default"}, former)
    assert line.endswith("apply: launcher_concurrency.")


def test_texts_that_this_release_has_airflow_write_are_no_old_defaults() -> None:
    written = {name: str(option["default"]) for name, option in OPTIONS.items() if option["type"] == "string"}
    assert "deployment" in written
    assert list(old_defaults(written)) == []
    assert len(list(old_defaults({"launcher_concurrency": default_of("launcher_concurrency")}))) == 1


# --- kubeconfig and namespaces ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"CONFIG_FILE": "/nope/kubeconfig"}, ["/nope/kubeconfig", "no such file"]),
        ({"CLUSTER_CONTEXT": "elsewhere"}, ["cluster_context", "elsewhere"]),
        ({"IN_CLUSTER": "True"}, ["in_cluster"]),
    ],
)
def test_a_kubeconfig_that_cannot_be_used_is_named(
    options: dict[str, str], monkeypatch: pytest.MonkeyPatch, changes: dict[str, str], expected: list[str]
) -> None:
    for name, value in changes.items():
        monkeypatch.setenv(f"AIRFLOW__KUBERNETES_EXECUTOR__{name}", value)
    found = failed()
    assert set(found) == {"Kubernetes"}
    for text in expected:
        assert text in found["Kubernetes"]


def test_a_server_that_is_away_is_named(
    options: dict[str, str], monkeypatch: pytest.MonkeyPatch, cluster: LocalCluster, tmp_path: Path
) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    text = cluster.kubeconfig.read_text()
    port = text.partition("https://127.0.0.1:")[2].split()[0].strip("\"',}")
    kubeconfig.write_text(text.replace(f":{port}", ":9"))
    monkeypatch.setenv("AIRFLOW__KUBERNETES_EXECUTOR__CONFIG_FILE", str(kubeconfig))
    assert "127.0.0.1:9 does not answer" in failed()["Kubernetes"]


@pytest.mark.parametrize(
    "changes",
    [
        {"NAMESPACE": "nowhere"},
        {"MULTI_NAMESPACE_MODE": "True", "MULTI_NAMESPACE_MODE_NAMESPACE_LIST": "tasks,nowhere"},
    ],
)
def test_a_namespace_that_does_not_exist_is_named(
    options: dict[str, str], monkeypatch: pytest.MonkeyPatch, changes: dict[str, str]
) -> None:
    for name, value in changes.items():
        monkeypatch.setenv(f"AIRFLOW__KUBERNETES_EXECUTOR__{name}", value)
    for process in (None, "launcher", "watcher"):
        detail = failed(process)["Kubernetes"]
        assert "no namespace nowhere" in detail
        assert "[kubernetes_executor] namespace" in detail


# --- template -----------------------------------------------------------------------------------------------------
def template(metadata: str = "{name: t}", container: str = "name: base, image: x", spec: str = "") -> str:
    return f"""
apiVersion: v1
kind: Pod
metadata: {metadata}
spec:
  restartPolicy: Never
  containers: [{{{container}}}]
{spec}"""


@pytest.mark.parametrize(
    ("text", "field"),
    [
        (template(container="name: base, image: x, resource: {limits: {cpu: 1}}"), "spec.containers[0].resource"),
        (template(spec="  nodeselector: {a: b}"), "spec.nodeselector"),
        (template(spec="  volumes: [{name: v, emptydir: {medium: Memory}}]"), "spec.volumes[0].emptydir"),
        (template(metadata="{name: t, annotation: {a: b}}"), "metadata.annotation"),
        (template(metadata="{annotations: {cluster-autoscaler.kubernetes.io/safe-to-evict: false}}"), "safe-to-evict"),
        (template(metadata="{labels: {release: 1.10}}"), "metadata.labels.release"),
        (template(metadata="{labels: {build: 0123}}"), "metadata.labels.build"),
        (template(spec="  nodeSelector: {gpu: yes}"), "spec.nodeSelector.gpu"),
        (template(container="name: base, image: x, env: [{name: DEBUG, value: off}]"), "env[0].value"),
        (template(container="name: side, image: x}, {name: base, image: y"), "first container is side"),
        (template(container="name: base, image: x}, {name: base, image: y"), "named base"),
        (template().replace("Never", "OnFailure"), "restartPolicy"),
        (template().replace("kind: Pod", "kind: Deployment"), "Deployment"),
        ("spec: {}", "spec.containers"), ("- a", "spec.containers"), ("", "spec.containers"),
        (template(container="name: base, image: x, env: {A: b}"), "not a pod"),
        (template(container="image: x"), "not a pod"),
        (template(metadata='{resourceVersion: "12"}'), "metadata.resourceVersion"),
    ],
)  # fmt: skip
def test_a_template_that_is_not_what_its_author_wrote_is_refused(text: str, field: str) -> None:
    faults, _ = judge_template(text)
    assert any(field in fault for fault in faults), faults
    assert not any("'off'" in fault or "False" in fault and "env" in fault for fault in faults), "it may be a secret"


@pytest.mark.parametrize(
    "text",
    [
        template(), template(metadata='{annotations: {safe-to-evict: "false"}, labels: {release: "1.10", n: 5}}'),
        template(container="name: base, image: x, resources: {limits: {cpu: 0.50, memory: 1e3}, requests: {cpu: 1}}"),
        template(container="name: base, image: x}, {name: side, image: y"),
        template(spec="  volumes: [{name: v, secret: {secretName: s, defaultMode: 0644}}, {name: w, emptyDir: {}}]"),
        template(metadata="{creationTimestamp: null, labels: {}}", spec="  tolerations: []"),
    ],
)  # fmt: skip
def test_a_template_that_is_right_has_no_faults(text: str) -> None:
    assert judge_template(text) == ([], [])


def test_the_templates_that_we_ship_have_no_faults() -> None:
    for path in ("demo/pod_template.yaml", "docker/kubernetes/base/pod_template.yaml"):
        assert judge_template((Path(__file__).parents[3] / path).read_text("utf-8")) == ([], []), path


def test_a_container_with_another_name_is_renamed_with_a_warning() -> None:
    faults, warnings = judge_template(template(container="name: worker, image: x"))
    assert faults == []
    assert "worker" in warnings[0]


def test_a_pod_that_kubernetes_refuses_fails_the_check(options: dict[str, str]) -> None:
    file = Path(options["AIRFLOW__KUBERNETES_EXECUTOR__POD_TEMPLATE_FILE"])
    file.write_text(template(container="name: base, image: x, volumeMounts: [{name: missing, mountPath: /x}]"))
    found = failed()
    assert set(found) == {"dry run"}
    assert "missing" in found["dry run"]
    assert "namespace tasks" in found["dry run"]


def test_a_quota_that_is_used_up_is_only_a_warning(options: dict[str, str], cluster: LocalCluster) -> None:
    cluster.faults(quota={"tasks": 0})
    try:
        check = named("dry run")
    finally:
        cluster.faults(quota={})
    assert check.ok
    assert "quota of namespace tasks" in check.warnings[0]


# --- command ------------------------------------------------------------------------------------------------------
@pytest.mark.timeout(300)
def test_the_command_has_three_exit_codes_and_json(options: dict[str, str], tmp_path: Path) -> None:
    from airflow.cli.cli_parser import get_parser

    home = tmp_path / "home"
    passed = airflow(home, "podrelay", "check", **options)
    assert passed.returncode == 0, passed.stdout + passed.stderr
    assert "ok   dry run" in passed.stdout
    misspelt = options | {"AIRFLOW__CORE__EXECUTOR": "podrelay.executor.RedisKubernetes"}
    file = home / "airflow.cfg"
    file.write_text(file.read_text().replace("[podrelay]\n", "[podrelay]\nlaunch_lease = 3\n"))
    result = airflow(home, "podrelay", "check", "--json", **misspelt)
    assert result.returncode == 1, result.stderr
    document = json.loads(result.stdout)
    assert document["ok"] is False
    found = {check["name"]: check["detail"] for check in document["checks"] if not check["ok"]}
    assert set(found) == {"executor", "[podrelay] options"}
    assert "did you mean launch_lease_s?" in found["[podrelay] options"]
    with pytest.raises(SystemExit) as wrong:
        get_parser().parse_args(["podrelay", "check", "--process", "scheduler"])
    assert wrong.value.code == 2


def test_a_misspelt_section_is_refused(options: dict[str, str], tmp_path: Path) -> None:
    from airflow.configuration import conf

    from podrelay.cli.check_options import check_names

    for section in ("pod_relay", "podreley", "red=podrelay"):
        conf.add_section(section)
        conf.set(section, "redis_url", "redis://x")
        try:
            with pytest.raises(ConfigError, match="is not read"):
                check_names()
        finally:
            conf.remove_section(section)
