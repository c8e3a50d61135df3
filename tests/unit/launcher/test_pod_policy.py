"""Which pods `[podrelay] pod_policy` forbids, field by field, and how the option is read. A pod of any shape is judged."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from podrelay.errors import ConfigError
from podrelay.protocol.messages import LaunchRequest
from podrelay_workers.launcher.pod_manifest import ManifestRenderer
from podrelay_workers.launcher.pod_policy import PRESETS, PodPolicy, describe, load_pod_policy
from podrelay_workers.launcher.pod_rules import FLAGS, LISTS
from podrelay_workers.launcher.pod_template import ManifestError

Json = dict[str, Any]

ROOT = Path(__file__).resolve().parents[3]
STRICT = load_pod_policy("strict", ["airflow"])
CONFINED: Json = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
}
POD: Json = {
    "metadata": {"name": "p", "namespace": "airflow", "annotations": {"dag_id": "d"}},
    "spec": {
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}, "fsGroup": 0},
        "volumes": [{"name": "a", "emptyDir": {}}, {"name": "b"}, {"name": "c", "hostPath": None, "secret": {}}],
        "containers": [{"name": "base", "args": ["tok3n"], "securityContext": CONFINED}],
        "initContainers": [{"name": "first", "securityContext": CONFINED}],
        "ephemeralContainers": [{"name": "debug", "securityContext": CONFINED}],
    },
}
KINDS = ("containers", "initContainers", "ephemeralContainers")


def changed(path: str, value: Any) -> Json:
    """The pod with another value at a path such as `spec.containers[0].name`."""
    pod: Json = json.loads(json.dumps(POD))
    *parents, last = path.replace("[", ".[").split(".")
    where: Any = pod
    for name in parents:
        where = where[int(name[1:-1])] if name.startswith("[") else where.setdefault(name, {})
    if last.startswith("["):
        where[int(last[1:-1])] = value
    else:
        where[last] = value
    return pod


def test_a_pod_that_keeps_every_rule() -> None:
    assert STRICT.violations(POD) == []
    assert set(STRICT.rules) >= {"namespaces", "host_network", "host_paths", "privileged", "added_capabilities"}


# Where, what stands there, and the line about it, which begins with the rule.
OF_PODS: list[tuple[str, Any, str]] = [
    ("metadata.namespace", "kube-system", 'namespaces: metadata.namespace is "kube-system"'),
    ("metadata.namespace", None, "namespaces: metadata.namespace is not set"),
    ("spec.hostNetwork", True, "host_network: spec.hostNetwork is true"),
    ("spec.hostPID", True, "host_pid: spec.hostPID is true"),
    ("spec.hostIPC", True, "host_ipc: spec.hostIPC is true"),
    ("spec.volumes[0]", {"name": "v", "hostPath": {"path": "/etc"}}, 'host_paths: spec.volumes[0].hostPath.path is "/etc"'),
    ("spec.volumes[0]", {"hostPath": {}}, "host_paths: spec.volumes[0].hostPath.path is not set"),
    ("spec.volumes[0]", {"emptyDir": {}, "hostPath": {"path": "/"}}, 'host_paths: spec.volumes[0].hostPath.path is "/"'),
    ("spec.volumes[1]", {"name": "v", "nfs": {"server": "s"}}, "volume_types: spec.volumes[1].nfs is an object"),
    ("spec.volumes[1]", {"hostpath": {"path": "/"}}, "volume_types: spec.volumes[1].hostpath is an object"),
    ("spec.securityContext.windowsOptions", {"hostProcess": True},
     "host_process: spec.securityContext.windowsOptions.hostProcess is true"),
    ("spec.securityContext.runAsNonRoot", False, "run_as_root: spec.securityContext.runAsNonRoot is false"),
    ("spec.securityContext.runAsUser", 0, "run_as_root: spec.securityContext.runAsUser is 0"),
    ("spec.securityContext.seccompProfile.type", "Unconfined",
     'seccomp_profiles: spec.securityContext.seccompProfile.type is "Unconfined"'),
    ("spec.securityContext.appArmorProfile", {"type": "Unconfined"},
     'apparmor_profiles: spec.securityContext.appArmorProfile.type is "Unconfined"'),
    ("metadata.annotations", {"container.apparmor.security.beta.kubernetes.io/base": "unconfined"},
     'apparmor_profiles: metadata.annotations["container.apparmor.security.beta.kubernetes.io/base"] is "unconfined"'),
    ("spec.securityContext.seLinuxOptions", {"type": "spc_t"},
     'selinux_types: spec.securityContext.seLinuxOptions.type is "spc_t"'),
    ("spec.securityContext.seLinuxOptions", {"role": "r"}, 'selinux_types: spec.securityContext.seLinuxOptions.role is "r"'),
    ("spec.securityContext.sysctls", [{"name": "net.ipv4.tcp_syncookies"}, {"name": "kernel.msgmax", "value": "1"}],
     'sysctls: spec.securityContext.sysctls[1].name is "kernel.msgmax"'),
]  # fmt: skip
OF_CONTAINERS: list[tuple[str, Any, str]] = [
    ("ports", [{"hostPort": 0}, {"containerPort": 80, "hostPort": 80}], "host_ports: ports[1].hostPort is 80"),
    ("livenessProbe", {"httpGet": {"host": "10.0.0.1"}}, 'probe_hosts: livenessProbe.httpGet.host is "10.0.0.1"'),
    ("lifecycle", {"preStop": {"tcpSocket": {"host": "h"}}}, 'probe_hosts: lifecycle.preStop.tcpSocket.host is "h"'),
    ("securityContext.privileged", True, "privileged: securityContext.privileged is true"),
    ("securityContext.allowPrivilegeEscalation", True,
     "privilege_escalation: securityContext.allowPrivilegeEscalation is true"),
    ("securityContext.allowPrivilegeEscalation", None,
     "privilege_escalation: securityContext.allowPrivilegeEscalation is not set"),
    ("securityContext.capabilities.add", ["NET_BIND_SERVICE", "SYS_ADMIN"],
     'added_capabilities: securityContext.capabilities.add[1] is "SYS_ADMIN"'),
    ("securityContext.capabilities.add", ["ALL"], 'added_capabilities: securityContext.capabilities.add[0] is "ALL"'),
    ("securityContext.capabilities.drop", ["NET_RAW"],
     'default_capabilities: securityContext.capabilities.drop is "NET_RAW"'),
    ("securityContext.capabilities", None, "default_capabilities: securityContext.capabilities.drop is not set"),
    ("securityContext.runAsNonRoot", False, "run_as_root: securityContext.runAsNonRoot is false"),
    ("securityContext.runAsUser", 0, "run_as_root: securityContext.runAsUser is 0"),
    ("securityContext.seccompProfile", {"type": "Unconfined"},
     'seccomp_profiles: securityContext.seccompProfile.type is "Unconfined"'),
    ("securityContext.appArmorProfile", {"type": "Unconfined"},
     'apparmor_profiles: securityContext.appArmorProfile.type is "Unconfined"'),
    ("securityContext.seLinuxOptions", {"user": "u"}, 'selinux_types: securityContext.seLinuxOptions.user is "u"'),
    ("securityContext.windowsOptions", {"hostProcess": True},
     "host_process: securityContext.windowsOptions.hostProcess is true"),
    ("securityContext.procMount", "Unmasked", 'unmasked_proc: securityContext.procMount is "Unmasked"'),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value", "line"), OF_PODS, ids=[line for *_, line in OF_PODS])
def test_what_is_forbidden_about_a_pod(path: str, value: Any, line: str) -> None:
    assert STRICT.violations(changed(path, value)) == [line]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("field", "value", "line"), OF_CONTAINERS, ids=[line for *_, line in OF_CONTAINERS])
def test_what_is_forbidden_about_a_container_of_any_kind(kind: str, field: str, value: Any, line: str) -> None:
    rule, _, finding = line.partition(": ")
    assert STRICT.violations(changed(f"spec.{kind}[0].{field}", value)) == [f"{rule}: spec.{kind}[0].{finding}"]


def test_every_rule_of_the_preset_forbids_something_here() -> None:
    assert {line.partition(":")[0] for _, _, line in OF_PODS + OF_CONTAINERS} == set(PRESETS["strict"])


def test_what_a_pod_says_counts_where_a_container_says_nothing() -> None:
    none = changed("spec.securityContext", None)
    assert sorted(STRICT.violations(none)) == [
        *(f"run_as_root: spec.{kind}[0].securityContext.runAsNonRoot is not set" for kind in sorted(KINDS)),
        *(f"seccomp_profiles: spec.{kind}[0].securityContext.seccompProfile.type is not set" for kind in sorted(KINDS)),
    ]
    for kind in KINDS:
        none["spec"][kind][0]["securityContext"] = {
            **CONFINED, "runAsNonRoot": True, "runAsUser": 50000, "seccompProfile": {"type": "Localhost"},
        }  # fmt: skip
    assert STRICT.violations(none) == []


# --- rules with a list ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("spec", "lines"),
    [
        ({"serviceAccountName": "tasks"}, []),
        ({"serviceAccount": "tasks"}, []),
        ({"serviceAccountName": "admin"}, ['service_accounts: spec.serviceAccountName is "admin"']),
        (
            {"serviceAccountName": "tasks", "serviceAccount": "admin"},
            ['service_accounts: spec.serviceAccount is "admin"'],
        ),
        ({}, ["service_accounts: spec.serviceAccountName is not set"]),
    ],
)
def test_service_accounts(spec: Json, lines: list[str]) -> None:
    policy = load_pod_policy('{"service_accounts": ["tasks"]}', [])
    assert policy.violations({"metadata": {}, "spec": spec}) == lines


def test_no_service_account_is_the_one_named_default() -> None:
    assert not load_pod_policy('{"service_accounts": ["default"]}', []).violations({"spec": {}})
    assert not load_pod_policy('{"namespaces": ["default"]}', []).violations({"spec": {}})


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/mnt/dags", True),
        ("/mnt/dags/", True),
        ("//mnt/./dags/team", True),
        ("/mnt/dags2", False),
        ("/mnt", False),
        ("/mnt/dags/../../etc", False),
        ("mnt/dags", False),
        ("", False),
    ],
)
def test_a_path_of_the_node_is_allowed_with_what_is_below_it(path: str, allowed: bool) -> None:
    policy = load_pod_policy('{"preset": "strict", "host_paths": ["/mnt/dags"]}', ["airflow"])
    pod = changed("spec.volumes[0]", {"name": "v", "hostPath": {"path": path}})
    assert (policy.violations(pod) == []) is allowed


def test_a_user_namespace_can_be_required() -> None:
    policy = load_pod_policy('{"host_users": false}', [])
    assert policy.violations({"spec": {}}) == ["host_users: spec.hostUsers is not set"]
    assert policy.violations({"spec": {"hostUsers": False}}) == []


def test_watched_namespaces() -> None:
    assert STRICT.violations(changed("metadata.namespace", "other"))
    assert "namespaces" not in load_pod_policy("strict", [None]).rules  # the watcher follows all of them
    assert load_pod_policy('{"namespaces": "watched"}', ["a", "b"]).rules == {"namespaces": {"a", "b"}}


# --- pods of any shape ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("path", "value", "line"),
    [
        ("spec", [], "spec is a list, not an object"),
        ("metadata", "m", 'metadata is "m", not an object'),
        ("spec.hostPID", "true", 'spec.hostPID is "true", not true or false'),
        ("spec.hostNetwork", 1, "spec.hostNetwork is 1, not true or false"),
        ("spec.volumes", {"v": {"hostPath": {"path": "/"}}}, "spec.volumes is an object, not a list"),
        ("spec.volumes[0]", ["hostPath"], "spec.volumes[0] is a list, not an object"),
        ("spec.volumes[0]", {"hostPath": "/etc"}, 'spec.volumes[0].hostPath is "/etc", not an object'),
        ("spec.volumes[0]", {"hostPath": {"path": ["/etc"]}}, "spec.volumes[0].hostPath.path is a list, not a text"),
        ("spec.containers", "all", 'spec.containers is "all", not a list'),
        ("spec.initContainers[0]", None, "spec.initContainers[0] is null, not an object"),
        ("spec.containers[0].securityContext", True, "spec.containers[0].securityContext is true, not an object"),
        ("spec.securityContext.runAsUser", False, "spec.securityContext.runAsUser is false, not a whole number"),
        ("spec.securityContext.runAsUser", "0", 'spec.securityContext.runAsUser is "0", not a whole number'),
        ("spec.containers[0].securityContext.capabilities.add", "ALL",
         'spec.containers[0].securityContext.capabilities.add is "ALL", not a list'),
    ],
)  # fmt: skip
def test_a_malformed_pod_is_a_violation(path: str, value: Any, line: str) -> None:
    assert f"malformed pod: {line}" in STRICT.violations(changed(path, value))


@pytest.mark.parametrize("pod", [None, [], "pod", 7])
def test_what_is_no_object_is_a_violation(pod: Any) -> None:
    assert STRICT.violations(pod)[0].startswith("malformed pod: the pod is ")


names = st.sampled_from(sorted({
    "metadata", "spec", "namespace", "annotations", "securityContext", "containers", "initContainers", "volumes", "name",
    "ephemeralContainers", "hostPath", "path", "capabilities", "add", "drop", "ports", "hostPort", "runAsUser", "type",
    "runAsNonRoot", "seccompProfile", "appArmorProfile", "seLinuxOptions", "sysctls", "windowsOptions", "hostProcess",
    "livenessProbe", "lifecycle", "preStop", "httpGet", "host", "privileged", "serviceAccount", "hostUsers", "procMount",
}))  # fmt: skip
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(object()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names | st.integers(), inner, max_size=6),
    max_leaves=25,
)
any_pod = st.dictionaries(st.sampled_from(["metadata", "spec"]), anything) | anything
paths = st.sampled_from(
    ["metadata", "spec", *(path for path, _, _ in OF_PODS)]
    + [f"spec.containers[0].{field}" for field, _, _ in OF_CONTAINERS]
)


@pytest.mark.timeout(60)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(pod=any_pod | st.builds(changed, paths, anything))
def test_any_pod_is_judged(pod: Any) -> None:
    before = repr(pod)
    found = STRICT.violations(pod)
    assert all(rule in (*FLAGS, *LISTS, "malformed pod") for rule in (line.partition(":")[0] for line in found))
    assert len(describe(found)) < 1500
    assert repr(pod) == before
    if not isinstance(pod, dict) or not isinstance(pod.get("spec") or {}, dict):
        assert found


def test_a_message_is_short_and_holds_no_payload() -> None:
    pod = changed("spec.containers[0].securityContext.capabilities.add", ["X" * 10_000] + [f"C{n}" for n in range(50)])
    text = describe(STRICT.violations(pod))
    assert len(text) < 700
    assert text.startswith("[podrelay] pod_policy forbids this pod: added_capabilities: spec.containers[0]")
    assert text.endswith("; and 46 more")
    assert "tok3n" not in text


# --- the option -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("text", ["", " ", "{}", '{"host_pid": true, "sysctls": true}'])
def test_without_a_rule_nothing_is_read(text: str) -> None:
    policy = load_pod_policy(text, ["airflow"])
    assert not policy.rules
    assert policy.violations(None) == []  # type: ignore[arg-type]


def test_rules_beside_a_preset_replace_those_of_it() -> None:
    policy = load_pod_policy('{"preset": "strict", "host_network": true, "sysctls": []}', ["airflow"])
    assert "host_network" not in policy.rules
    assert policy.rules["sysctls"] == set()
    assert policy.rules.keys() == STRICT.rules.keys() - {"host_network"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stricct", "is neither strict nor JSON"),
        ('{"host_pid": false', "is neither strict nor JSON"),
        ("[" * 100_000, "is neither strict nor JSON"),
        ("[]", "is a list, not an object of rules"),
        ("false", "is false, not an object of rules"),
        ('{"preset": "baseline"}', 'there is no preset "baseline"; the presets are strict'),
        ('{"preset": ["strict"]}', "there is no preset a list"),
        ('{"hostNetwork": false}', 'there is no rule "hostNetwork". Did you mean host_network?'),
        ('{"images": []}', 'there is no rule "images".'),
        ('{"host_pid": false, "host_pid": true}', 'holds "host_pid" twice'),
        ('{"host_pid": "no"}', 'host_pid is "no", not true or false'),
        ('{"host_pid": null}', "host_pid is null, not true or false"),
        ('{"host_pid": 0}', "host_pid is 0, not true or false"),
        ('{"host_pid": []}', "host_pid is a list, not true or false"),
        ('{"sysctls": false}', "sysctls is false, not a list of texts"),
        ('{"sysctls": "a"}', 'sysctls is "a", not a list of texts'),
        ('{"sysctls": [1]}', "sysctls is a list, not a list of texts"),
        ('{"sysctls": [""]}', "sysctls is a list, not a list of texts"),
        ('{"sysctls": "watched"}', 'sysctls is "watched", not a list of texts'),
    ],
)
def test_a_mistake_in_the_option_is_named(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_pod_policy(text, ["airflow"])
    assert str(caught.value).startswith("[podrelay] pod_policy")
    assert message in str(caught.value)
    assert len(str(caught.value)) < 400


# --- the finished manifest --------------------------------------------------------------------------------------------
def renderer(folder: Path, policy: PodPolicy, spec: Json) -> ManifestRenderer:
    path = folder / "template.yaml"
    path.write_text(yaml.safe_dump({"kind": "Pod", "spec": {"containers": [{"name": "base", "image": "i"}], **spec}}))
    config = SimpleNamespace(kube_image=None, pod_template_file=str(path))
    return ManifestRenderer("prod", kube_config=config, policy=policy)


def launch(**changes: Any) -> LaunchRequest:
    return LaunchRequest(**{
        "launch_id": "0192f0c1-aaaa-7bbb-8ccc-0123456789ab", "attempt": 0, "kind": "task", "subject": "ti", "owner": "17",
        "namespace": "airflow", "key": ("etl", "load", "r", 1, -1), "args": ("python", "-m", "run"), **changes,
    })  # fmt: skip


@pytest.mark.parametrize("source", ["template", "pod_override", "pod_mutation_hook"])
def test_wherever_a_field_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    if source == "pod_mutation_hook":
        monkeypatch.setattr("airflow.settings.pod_mutation_hook", lambda pod: setattr(pod.spec, "host_pid", True))
    override = {"spec": {"hostPID": True, "containers": [{"name": "base"}]}} if source == "pod_override" else None
    made = renderer(
        tmp_path, load_pod_policy('{"host_pid": false}', []), {"hostPID": True} if source == "template" else {}
    )
    for _ in range(2):  # the second launch is rendered from what the first has proved
        with pytest.raises(ManifestError, match="host_pid: spec.hostPID is true") as caught:
            made.render(launch(pod_override=override))
        assert caught.value.reason == "PodPolicyViolation"
        assert caught.value.pod is not None
        assert caught.value.pod["metadata"]["namespace"] == "airflow"


def test_a_hook_may_mend_what_a_template_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airflow.settings.pod_mutation_hook", lambda pod: setattr(pod.spec, "host_pid", False))
    assert renderer(tmp_path, load_pod_policy('{"host_pid": false}', []), {"hostPID": True}).render(launch())


@pytest.mark.parametrize("folder", ["docker/kubernetes/base", "demo"])
def test_a_template_of_ours_keeps_the_strict_preset(folder: str) -> None:
    config = SimpleNamespace(kube_image=None, pod_template_file=str(ROOT / folder / "pod_template.yaml"))
    assert ManifestRenderer("prod", kube_config=config, policy=STRICT).render(launch())
