"""Who owns which field of a pod, compared with what real servers answered."""

from __future__ import annotations

import json
from typing import Any

import pytest

from podrelay_local_cluster.kubelet import pod_status
from podrelay_local_cluster.objects import managed_fields
from podrelay_local_cluster.objects.defaults import pod_spec

Json = dict[str, Any]


def pod(metadata: Json | None = None, **spec: Any) -> tuple[Json, Json]:
    """The spec as given, and the pod with its defaults."""
    given = {"containers": [{"name": "c", "image": "i:1"}], **spec}
    return given, {
        "metadata": {"name": "p", **(metadata or {})},
        "spec": pod_spec(given),
        "status": {"phase": "Pending"},
    }


def created(metadata: Json | None = None, **spec: Any) -> Json:
    (entry,) = managed_fields.of_new_pod("kubectl-run", *pod(metadata, **spec))
    found: Json = json.loads(entry)
    return found


def test_a_new_pod() -> None:
    entry = created()
    entry.pop("time")
    assert entry == {
        "manager": "kubectl-run", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1",
        "fieldsV1": {
            "f:spec": {
                "f:containers": {
                    'k:{"name":"c"}': {
                        ".": {}, "f:image": {}, "f:imagePullPolicy": {}, "f:name": {}, "f:resources": {},
                        "f:terminationMessagePath": {}, "f:terminationMessagePolicy": {},
                    }
                },
                "f:dnsPolicy": {}, "f:enableServiceLinks": {}, "f:restartPolicy": {}, "f:schedulerName": {},
                "f:securityContext": {}, "f:terminationGracePeriodSeconds": {},
            }
        },
    }  # fmt: skip


def test_names_are_sorted_and_quoted() -> None:
    labels = created({"labels": {"z": "", 'a"b': "", "m": ""}})["fieldsV1"]["f:metadata"]["f:labels"]
    assert list(labels) == [".", 'f:a"b', "f:m", "f:z"]


@pytest.mark.parametrize(
    ("field", "value", "owned"),
    [
        ("volumes", [{"name": "v", "configMap": {"name": "m"}}],
         {".": {}, 'k:{"name":"v"}': {".": {}, "f:configMap": {".": {}, "f:name": {}}, "f:name": {}}}),
        ("tolerations", [{"key": "k"}], {}),
        ("nodeSelector", {"disk": "ssd"}, {}),
        ("securityContext", {"fsGroup": 1}, {".": {}, "f:fsGroup": {}}),
        ("serviceAccountName", "a", {}),
        ("imagePullSecrets", [{"name": "s"}], {".": {}, 'k:{"name":"s"}': {".": {}, "f:name": {}}}),
        ("imagePullSecrets", ["odd"], {}),
        ("hostAliases", [{"ip": {"odd": []}}], {".": {}, 'k:{"ip":{"odd":[]}}': {".": {}, "f:ip": {".": {}, "f:odd": {}}}}),
    ],
)  # fmt: skip
def test_a_field_of_the_spec(field: str, value: Any, owned: Json) -> None:
    assert created(**{field: value})["fieldsV1"]["f:spec"][f"f:{field}"] == owned


def test_a_container() -> None:
    env = [{"name": "A", "value": "x"}, {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]
    ports = [{"containerPort": 80, "protocol": "TCP"}]
    container = {
        "name": "c",
        "image": "i",
        "args": ["a"],
        "env": env,
        "ports": ports,
        "resources": {"limits": {"cpu": "1"}},
    }
    owned = created(containers=[container])["fieldsV1"]["f:spec"]["f:containers"]['k:{"name":"c"}']
    assert owned["f:args"] == {}
    assert owned["f:env"] == {
        ".": {}, 'k:{"name":"A"}': {".": {}, "f:name": {}, "f:value": {}},
        'k:{"name":"B"}': {".": {}, "f:name": {}, "f:valueFrom": {".": {}, "f:fieldRef": {}}},
    }  # fmt: skip
    assert list(owned["f:ports"]) == [".", 'k:{"containerPort":80,"protocol":"TCP"}']
    limits: Json = {".": {}, "f:cpu": {}}
    assert owned["f:resources"] == {".": {}, "f:limits": limits, "f:requests": limits}


def test_the_kubelet_owns_what_it_has_reported() -> None:
    given, found = pod()
    states = pod_status.initial_statuses(found["spec"])
    found["status"] = pod_status.build(found, states, sandbox=False)
    managers = managed_fields.with_kubelet(managed_fields.of_new_pod("m", given, found), found["status"])
    entry = json.loads(managers[1])
    assert (entry["manager"], entry["subresource"]) == ("kubelet", "status")
    fields = entry["fieldsV1"]["f:status"]
    assert list(fields) == ["f:conditions", "f:containerStatuses", "f:hostIP", "f:hostIPs", "f:startTime"]
    usual: Json = {".": {}, "f:lastProbeTime": {}, "f:lastTransitionTime": {}, "f:status": {}, "f:type": {}}
    with_text = usual | {"f:message": {}, "f:reason": {}}
    assert fields["f:conditions"] == {
        'k:{"type":"ContainersReady"}': with_text, 'k:{"type":"Initialized"}': usual,
        'k:{"type":"PodReadyToStartContainers"}': usual, 'k:{"type":"Ready"}': with_text,
    }  # fmt: skip
    states[0].set_running("local://1")
    status = pod_status.build(found, states)
    again = managed_fields.with_kubelet(managers, status)
    assert again[0] == managers[0]
    fields = json.loads(again[1])["fieldsV1"]["f:status"]
    assert {"f:phase", "f:podIP"} < set(fields)
    assert fields["f:podIPs"] == {".": {}, 'k:{"ip":"127.0.0.1"}': {".": {}, "f:ip": {}}}
    assert fields["f:conditions"]['k:{"type":"Ready"}'] == usual


@pytest.mark.parametrize(
    ("given", "agent", "name"),
    [
        ("mine", "kubectl/1", "mine"),
        ("", "kubectl/v1.32 (linux)", "kubectl"),
        ("", "", "unknown"),
        ("x" * 200, "", "x" * 128),
    ],
)
def test_the_name_of_a_manager(given: str, agent: str, name: str) -> None:
    assert managed_fields.manager_name(given, agent) == name
