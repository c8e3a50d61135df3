"""Responses of an API server that are easily expected otherwise: sizes, null, quantities, versions, quotas, deletions."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from podrelay_workers.kube.client import PodClient
from podrelay_workers.kube.errors import Silent
from tests.real_cluster.client import LABELS, ask, events
from tests.real_cluster.server import Json, Refusal, Server, pod, running

MIB = 1024 * 1024
FUTURE = 10**15


def refused(
    server: Server, method: str, path: str, body: Any = None, content_type: str = "application/json"
) -> Refusal:
    """The refusal of a request that must not succeed."""
    with pytest.raises(Refusal) as caught:
        server.call(method, path, body, content_type)
    return caught.value


def with_container(name: str, **fields: Any) -> Json:
    """A pod whose container has these fields too."""
    body = pod(name)
    (container,) = body["spec"]["containers"]
    return {**body, "spec": {**body["spec"], "containers": [{**container, **fields}]}}


# --- sizes ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("size", "code", "text"),
    [
        (int(1.6 * MIB), 500, "etcdserver: request is too large"),
        (int(1.9 * MIB), 500, "etcdserver: request is too large"),
        (int(2.1 * MIB), 500, "rpc error: code = ResourceExhausted desc = trying to send message larger than max ("),
        (int(2.9 * MIB), 500, "rpc error: code = ResourceExhausted desc = trying to send message larger than max ("),
        (int(3.1 * MIB), 413, "Request entity too large: limit is 3145728"),
    ],
)
def test_a_pod_that_is_too_large(server: Server, size: int, code: int, text: str) -> None:
    """Only a body above the server's own limit gets the code that stands for it; the storage's limits are lower."""
    refusal = refused(server, "POST", server.pods_path, with_container("large", args=["x" * size]))
    assert refusal.code == code
    assert refusal.body["message"].startswith(text)
    assert refusal.body.get("reason", "") == ("RequestEntityTooLarge" if code == 413 else "")


@pytest.mark.parametrize("kind", ["pods", "configmaps"])
def test_a_new_object_has_no_version(server: Server, name: str, kind: str) -> None:
    """As a manifest has that was copied from an object. A dry run does not find it."""
    path = f"/api/v1/namespaces/{server.namespace}/{kind}"
    body = pod(name) if kind == "pods" else {"metadata": {"name": name}}
    body["metadata"]["resourceVersion"] = "12"
    for _ in range(2):  # an object of that name makes no difference
        refusal = refused(server, "POST", path, body)
        assert (refusal.code, refusal.body.get("reason", "")) == (500, "")
        assert refusal.body["message"] == "resourceVersion should not be set on objects to be created"
        server.call("POST", f"{path}?dryRun=All", {**body, "metadata": {**body["metadata"], "name": f"{name}-dry"}})
        if kind == "pods" and server.get(name) is None:
            server.call("POST", path, pod(name, resourceVersion="0"))


def test_a_dry_run_does_not_reach_the_limit_of_the_storage(server: Server) -> None:
    body = with_container("large", args=["x" * int(1.6 * MIB)])
    assert server.call("POST", f"{server.pods_path}?dryRun=All", body)["metadata"]["uid"]


def test_a_change_that_makes_a_pod_too_large(server: Server, name: str) -> None:
    server.call("POST", server.pods_path, pod(name))
    before = (server.get(name) or {})["metadata"]["resourceVersion"]
    change = json.dumps({"status": {"message": "x" * int(1.6 * MIB)}})
    refusal = refused(
        server, "PATCH", f"{server.pods_path}/{name}/status", json.loads(change), "application/merge-patch+json"
    )
    assert (refusal.code, refusal.body["message"]) == (500, "etcdserver: request is too large")
    assert (server.get(name) or {})["metadata"]["resourceVersion"] == before


# --- null and quantities ----------------------------------------------------------------------------------------------
def test_null_in_a_map_or_list_of_strings_is_an_empty_string(server: Server, name: str) -> None:
    body = with_container(name, command=["true", None], args=[None, "a"])
    body["metadata"] |= {"labels": {"a": None, "b": "c"}, "annotations": {"d": None}}
    made = server.call("POST", server.pods_path, body)
    assert (made["metadata"]["labels"], made["metadata"]["annotations"]) == ({"a": "", "b": "c"}, {"d": ""})
    assert made["spec"]["containers"][0]["command"] == ["true", ""]
    assert made["spec"]["containers"][0]["args"] == ["", "a"]
    found = server.get(name) or {}
    found["metadata"]["labels"]["b"] = None
    changed = server.call("PUT", f"{server.pods_path}/{name}", found)
    assert changed["metadata"]["labels"] == {"a": "", "b": ""}
    merged = server.patch(f"{server.pods_path}/{name}", {"metadata": {"labels": {"a": None}}})
    assert merged["metadata"]["labels"] == {"b": ""}
    operations = [{"op": "add", "path": "/metadata/labels/e", "value": None}]
    patched = server.call("PATCH", f"{server.pods_path}/{name}", operations, "application/json-patch+json")
    assert patched["metadata"]["labels"] == {"b": "", "e": ""}


@pytest.mark.parametrize("field", ["containers", "env"])
def test_null_in_a_list_of_objects_is_an_empty_object(server: Server, field: str) -> None:
    body = with_container("null", env=[None])
    if field == "containers":
        body["spec"]["containers"].append(None)
    refusal = refused(server, "POST", server.pods_path, body)
    assert (refusal.code, refusal.body["reason"]) == (422, "Invalid")
    assert any(cause["reason"] == "FieldValueRequired" for cause in refusal.body["details"]["causes"])


QUANTITIES = {
    1: "1", "1": "1", 0.5: "500m", "0.5": "500m", "1000m": "1", "1500m": "1500m", 1000: "1k", "0": "0", "100000u": "100m",
    # Rounded up to thousandths.
    "100u": "1m", "1500u": "2m", "1n": "1m", "0.0001": "1m", "123456789n": "124m", "1e-4": "1e-3", "999999u": "1",
}  # fmt: skip
SIZES = {
    "128Mi": "128Mi", "1024Mi": "1Gi", "1.5Gi": "1536Mi", 1048576: "1048576", "1000000": "1M", "1e9": "1e9",
    "2000Mi": "2000Mi", "512": "512", "0.5Gi": "512Mi", "1536": "1536", "1Ki": "1Ki", "1e3": "1e3", "128m": "128m",
    "100u": "1m", "0.3Mi": "314572800m",
}  # fmt: skip


def test_quantities_come_back_in_their_canonical_form(server: Server, name: str) -> None:
    cases = [("cpu", *case) for case in QUANTITIES.items()] + [("memory", *case) for case in SIZES.items()]
    body = pod(name)
    (container,) = body["spec"]["containers"]
    body["spec"] = body["spec"] | {
        "containers": [
            {**container, "name": f"c{number}", "resources": {"limits": {kind: given}}}
            for number, (kind, given, _) in enumerate(cases)
        ]
    }
    made = server.call("POST", server.pods_path, body)
    for case, container in zip(cases, made["spec"]["containers"], strict=True):
        kind, given, expected = case
        # What is limited and not requested is requested up to its limit.
        assert container["resources"] == {"limits": {kind: expected}, "requests": {kind: expected}}, given


@pytest.mark.parametrize(
    ("resources", "field", "text"),
    [
        ({"limits": {"cpu": "-1"}}, "limits[cpu]", 'Invalid value: "-1": must be greater than or equal to 0'),
        ({"requests": {"memory": "-1Mi"}}, "requests[memory]", "must be greater than or equal to 0"),
        ({"requests": {"cpu": 2}, "limits": {"cpu": 1}}, "requests", "must be less than or equal to cpu limit of 1"),
        ({"requests": {"memory": "1Gi"}, "limits": {"memory": "1G"}}, "requests", "memory limit of 1G"),
        ({"limits": {"cpus": "1"}}, "limits[cpus]", '"cpus": must be a standard resource for containers'),
        ({"requests": {"Memory": "1Gi"}}, "requests[Memory]", "must be a standard resource for containers"),
        ({"limits": {"example.com/gpu": "0.5"}}, "limits[example.com/gpu]", '"500m": must be an integer'),
        ({"requests": {"example.com/gpu": 1}}, "limits", "Limit must be set for non overcommitable resources"),
        (
            {"requests": {"example.com/gpu": 1}, "limits": {"example.com/gpu": 2}},
            "requests",
            "must be equal to example.com/gpu limit of 2",
        ),
    ],
)
def test_resources_that_no_container_may_have(server: Server, resources: Json, field: str, text: str) -> None:
    refusal = refused(server, "POST", server.pods_path, with_container("refused", resources=resources))
    assert (refusal.code, refusal.body["reason"]) == (422, "Invalid")
    causes = [cause for cause in refusal.body["details"]["causes"] if text in cause["message"]]
    assert causes, refusal
    assert causes[0]["field"] == f"spec.containers[0].resources.{field}"


SOURCE = "spec.containers[0].env[0].valueFrom"
VOLUME = {"name": "v", "emptyDir": {}}


@pytest.mark.parametrize(
    ("fields", "container", "field", "reason"),
    [
        ({"volumes": [{"emptyDir": {}}]}, {}, "spec.volumes[0].name", "Required"),
        ({"volumes": [{"name": "A_b"}]}, {}, "spec.volumes[0].name", "Invalid"),
        ({"volumes": [VOLUME, VOLUME]}, {}, "spec.volumes[1].name", "Duplicate"),
        ({"volumes": [VOLUME | {"hostPath": {"path": "/"}}]}, {}, "spec.volumes[0].hostPath", "Forbidden"),
        ({"volumes": [{"name": "v", "secret": {}}]}, {}, "spec.volumes[0].secret.secretName", "Required"),
        ({"volumes": [{"name": "v", "configMap": {}}]}, {}, "spec.volumes[0].configMap.name", "Required"),
        ({"volumes": [{"name": "v", "persistentVolumeClaim": {}}]}, {},
         "spec.volumes[0].persistentVolumeClaim.claimName", "Required"),
        ({"volumes": [VOLUME]}, {"volumeMounts": [{"name": "v"}]},
         "spec.containers[0].volumeMounts[0].mountPath", "Required"),
        ({"volumes": [VOLUME]}, {"volumeMounts": [{"name": "v", "mountPath": "/x"}] * 2},
         "spec.containers[0].volumeMounts[1].mountPath", "Invalid"),
        ({}, {"env": [{"name": "a", "valueFrom": {}}]}, SOURCE, "Invalid"),
        ({}, {"env": [{"name": "a", "valueFrom": {"fieldRef": {"fieldPath": "metadata.nam"}}}]},
         f"{SOURCE}.fieldRef.fieldPath", "Invalid"),
        ({}, {"env": [{"name": "a", "valueFrom": {"fieldRef": {"fieldPath": "status.phase"}}}]},
         f"{SOURCE}.fieldRef.fieldPath", "NotSupported"),
        ({}, {"env": [{"name": "a", "valueFrom": {"secretKeyRef": {"name": "s"}}}]}, f"{SOURCE}.secretKeyRef.key",
         "Required"),
        ({}, {"env": [{"name": "a", "valueFrom": {"configMapKeyRef": {"key": "k"}}}]}, f"{SOURCE}.configMapKeyRef.name",
         "Invalid"),
        ({}, {"envFrom": [{}]}, "spec.containers[0].envFrom", "Invalid"),
        ({}, {"envFrom": [{"secretRef": {}}]}, "spec.containers[0].envFrom[0].secretRef.name", "Required"),
        ({"tolerations": [{"operator": "Equal", "value": "x"}]}, {}, "spec.tolerations[0].operator", "Invalid"),
        ({"tolerations": [{"key": "k", "operator": "Is"}]}, {}, "spec.tolerations[0].operator", "NotSupported"),
        ({"tolerations": [{"key": "k", "operator": "Exists", "value": "x"}]}, {}, "spec.tolerations[0].operator",
         "Invalid"),
        ({"tolerations": [{"key": "k", "operator": "Exists", "effect": "No"}]}, {}, "spec.tolerations[0].effect",
         "NotSupported"),
        ({"tolerations": [{"key": "k", "operator": "Exists", "tolerationSeconds": 3}]}, {},
         "spec.tolerations[0].effect", "Invalid"),
        ({"dnsPolicy": "Mine"}, {}, "spec.dnsPolicy", "NotSupported"),
        ({"dnsPolicy": "None"}, {}, "spec.dnsConfig", "Required"),
        ({"hostname": "A_b"}, {}, "spec.hostname", "Invalid"),
        ({"initContainers": [{"name": "base", "image": "i"}]}, {}, "spec.initContainers[0].name", "Duplicate"),
    ],
)  # fmt: skip
def test_parts_that_no_pod_may_have(server: Server, fields: Json, container: Json, field: str, reason: str) -> None:
    body = with_container("refused", **container)
    refusal = refused(server, "POST", server.pods_path, {**body, "spec": {**body["spec"], **fields}})
    assert (refusal.code, refusal.body["reason"]) == (422, "Invalid")
    assert (field, f"FieldValue{reason}") in [(c["field"], c["reason"]) for c in refusal.body["details"]["causes"]]


def test_parts_that_a_pod_may_have(server: Server, name: str) -> None:
    env = [
        {"name": f"v{number}", "valueFrom": {"fieldRef": {"fieldPath": path}}}
        for number, path in enumerate(
            ["metadata.name", "metadata.labels['a']", "metadata.annotations['b.c/d']", "status.podIPs", "spec.nodeName"]
        )
    ]
    env.append({"name": "s", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}})
    mounts = [{"name": "v", "mountPath": "/v"}, {"name": "w", "mountPath": "/v/w", "subPath": "w"}]
    body = with_container(name, env=env, envFrom=[{"configMapRef": {"name": "c"}}], volumeMounts=mounts)
    body["spec"] = body["spec"] | {
        "volumes": [{"name": "v"}, {"name": "w", "secret": {"secretName": "s"}}],
        "tolerations": [{"operator": "Exists"}, {"key": "k", "value": "v", "effect": "NoSchedule"}],
        "hostname": "worker-1",
        "dnsPolicy": "Default",
    }
    body["metadata"]["finalizers"] = ["podrelay.test/stays"]
    assert server.call("POST", server.pods_path, body)["metadata"]["uid"]


@pytest.mark.parametrize("finalizer", ["stays", "a b/c"])
def test_a_finalizer_has_a_qualified_name(server: Server, finalizer: str) -> None:
    refusal = refused(server, "POST", server.pods_path, pod("refused", finalizers=[finalizer]))
    assert (refusal.code, refusal.body["reason"]) == (422, "Invalid")
    assert refusal.body["details"]["causes"][0]["field"].startswith("metadata.finalizers")


def test_what_is_requested_equals_its_limit_after_rounding(server: Server, name: str) -> None:
    resources = {
        "limits": {"cpu": "1m", "example.com/gpu": 1},
        "requests": {"cpu": "999900n", "example.com/gpu": "1000m"},
    }
    made = server.call("POST", server.pods_path, with_container(name, resources=resources))
    expected = {"cpu": "1m", "example.com/gpu": "1"}
    assert made["spec"]["containers"][0]["resources"] == {"limits": expected, "requests": expected}


# --- versions ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("query", ["", "&resourceVersionMatch=NotOlderThan", "&resourceVersionMatch=Exact", "&limit=1"])
def test_a_list_of_the_future_is_not_there_yet(server: Server, query: str) -> None:
    answer = server.request("GET", f"{server.pods_path}?resourceVersion={FUTURE}{query}")
    assert (answer.status, answer.headers["Retry-After"]) == (504, "1")
    check_future(json.loads(answer.data))


def test_a_pod_of_the_future_is_not_there_yet(server: Server, name: str) -> None:
    server.call("POST", server.pods_path, pod(name))
    answer = server.request("GET", f"{server.pods_path}/{name}?resourceVersion={FUTURE}")
    assert (answer.status, answer.headers["Retry-After"]) == (504, "1")
    check_future(json.loads(answer.data))


def check_future(status: Json) -> None:
    assert status["reason"] == "Timeout"
    assert status["message"].startswith(f"Timeout: Too large resource version: {FUTURE}, current: ")
    assert status["details"]["retryAfterSeconds"] == 1
    assert status["details"]["causes"][0]["reason"] == "ResourceVersionTooLarge"


def test_a_watch_of_the_future_is_silent(server: Server, seven: list[str]) -> None:
    async def watch(api: PodClient) -> list[Json]:
        version = str(FUTURE)
        stream = api.watch_stream(server.namespace, version=version, labels=LABELS, silence_s=3, timeout_s=20)
        await asyncio.to_thread(server.set_status, seven[0], running())
        return [event async for event in stream]

    with pytest.raises(Silent):
        ask(watch)


# --- other objects ----------------------------------------------------------------------------------------------------
def test_a_quota_that_no_controller_has_looked_at_limits_nothing(server: Server, name: str) -> None:
    """A quota takes effect through its status."""
    quotas = f"/api/v1/namespaces/{server.namespace}/resourcequotas"
    server.call("POST", quotas, {"metadata": {"name": "none"}, "spec": {"hard": {"pods": 0}}})
    try:
        try:
            server.call("POST", server.pods_path, pod(name))
        except Refusal:
            assert server.call("GET", f"{quotas}/none")["status"]["hard"], "refused by a quota without status"
            pytest.skip("a controller of this cluster has looked at the quota")
        assert server.call("GET", f"{quotas}/none")["spec"]["hard"] == {"pods": "0"}
    finally:
        server.call("DELETE", f"{quotas}/none")


@pytest.mark.parametrize("kind", ["pods", "secrets", "configmaps", "serviceaccounts", "resourcequotas"])
@pytest.mark.parametrize("query", ["", "?dryRun=All"])
def test_nothing_is_made_in_a_namespace_that_does_not_exist(server: Server, kind: str, query: str) -> None:
    body = pod("a") if kind == "pods" else {"metadata": {"name": "a"}}
    refusal = refused(server, "POST", f"/api/v1/namespaces/podrelay-no-such-namespace/{kind}{query}", body)
    assert (refusal.code, refusal.body["reason"]) == (404, "NotFound")
    assert refusal.body["message"] == 'namespaces "podrelay-no-such-namespace" not found'
    assert refusal.body["details"]["kind"] == "namespaces"


# --- deletion ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("field", ["uid", "resourceVersion"])
def test_the_conflict_of_a_precondition_names_the_kind(server: Server, name: str, field: str) -> None:
    """Other conflicts name the resource, `pods`."""
    server.call("POST", server.pods_path, pod(name))
    other = {"uid": "00000000-0000-4000-8000-000000000000", "resourceVersion": "1"}[field]
    refusal = refused(server, "DELETE", f"{server.pods_path}/{name}", {"preconditions": {field: other}})
    assert (refusal.code, refusal.body["reason"]) == (409, "Conflict")
    assert refusal.body["message"].startswith(f'Operation cannot be fulfilled on Pod "{name}": the ')
    assert refusal.body["details"] == {"name": name, "kind": "Pod"}
    stale = refused(server, "PUT", f"{server.pods_path}/{name}", stale_copy(server, name))
    assert (stale.code, stale.body["details"]["kind"]) == (409, "pods")


def stale_copy(server: Server, name: str) -> Json:
    """The pod as it was before its last change."""
    found = server.get(name) or {}
    server.patch(f"{server.pods_path}/{name}", {"metadata": {"annotations": {"changed": "yes"}}})
    return found


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"propagationPolicy": "background"}, "propagationPolicy"),
        ({"propagationPolicy": "Orphan", "orphanDependents": True}, "propagationPolicy"),
        ({"dryRun": ["Some"]}, "dryRun"),
    ],
)
def test_options_that_no_deletion_may_have(server: Server, name: str, options: Json, field: str) -> None:
    """As `delete_option_kwargs` may hold them."""
    server.call("POST", server.pods_path, pod(name))
    refusal = refused(server, "DELETE", f"{server.pods_path}/{name}", options)
    assert (refusal.code, refusal.body["reason"]) == (422, "Invalid")
    assert refusal.body["details"]["kind"] == "DeleteOptions"
    assert [cause["field"] for cause in refusal.body["details"]["causes"]] == [field]
    assert server.get(name)


@pytest.mark.parametrize("method", ["POST", "PATCH", "PUT"])
def test_a_dry_run_is_of_all(server: Server, name: str, method: str) -> None:
    found = server.call("POST", server.pods_path, pod(name))
    path = server.pods_path if method == "POST" else f"{server.pods_path}/{name}"
    content_type = "application/merge-patch+json" if method == "PATCH" else "application/json"
    body = pod(f"{name}-2") if method == "POST" else found
    refusal = refused(server, method, f"{path}?dryRun=Some", body, content_type)
    assert (refusal.code, refusal.body["reason"]) == (422, "Invalid")
    assert [cause["field"] for cause in refusal.body["details"]["causes"]] == ["dryRun"]


@pytest.mark.parametrize("options", [None, {"gracePeriodSeconds": 0}, {"gracePeriodSeconds": 60}])
def test_a_deleted_pod_without_node_is_changed_and_then_removed(
    server: Server, seven: list[str], options: Json | None
) -> None:
    begin = ask(lambda api: api.list_page(server.namespace, labels=LABELS)).version
    server.call("DELETE", f"{server.pods_path}/{seven[0]}", options)
    seen = ask(lambda api: events(api, server, begin, 2))
    assert [event["type"] for event in seen] == ["MODIFIED", "DELETED"]
    for event in seen:
        assert event["object"]["metadata"]["name"] == seven[0]
        assert event["object"]["metadata"]["deletionGracePeriodSeconds"] == 0
        assert event["object"]["metadata"]["deletionTimestamp"]
