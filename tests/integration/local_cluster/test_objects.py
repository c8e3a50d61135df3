"""Create, read and change objects: defaults, refusals, and the form of refusals."""

from __future__ import annotations

import copy
from typing import Any

import httpx
import pytest

from tests.harness.cluster_api import Json, NamespaceApi, held, pod, status_of

REFUSED: dict[str, tuple[dict[str, Any], int, str, str]] = {
    "no name": ({"metadata": {"name": ""}}, 422, "Invalid", "metadata.name: Required value"),
    "capitals": ({"metadata": {"name": "No"}}, 422, "Invalid", "metadata.name: Invalid value"),
    "underscore": ({"metadata": {"name": "a_b"}}, 422, "Invalid", "RFC 1123"),
    "ends in dash": ({"metadata": {"name": "a-"}}, 422, "Invalid", "RFC 1123"),
    "long": ({"metadata": {"name": "a" * 254}}, 422, "Invalid", "no more than 253"),
    "label value": ({"metadata": {"name": "a", "labels": {"k": "not valid!"}}}, 422, "Invalid", "metadata.labels"),
    "long label": ({"metadata": {"name": "a", "labels": {"k": "v" * 64}}}, 422, "Invalid", "63 characters"),
    "label key": ({"metadata": {"name": "a", "labels": {"k k": "v"}}}, 422, "Invalid", "metadata.labels"),
    "label no text": ({"metadata": {"name": "a", "labels": {"k": 1}}}, 400, "BadRequest", "labels"),
    "annotations": ({"metadata": {"name": "a", "annotations": {"k": "x" * 262_145}}}, 422, "Invalid", "Too long"),
    "other namespace": ({"metadata": {"name": "a", "namespace": "else"}}, 400, "BadRequest", "does not match"),
    "no containers": ({"spec": {"containers": []}}, 422, "Invalid", "spec.containers: Required value"),
    "no image": (
        {"spec": {"containers": [{"name": "base"}]}},
        422,
        "Invalid",
        "spec.containers[0].image: Required value",
    ),
    "container name": ({"spec": {"containers": [{"image": "i"}]}}, 422, "Invalid", "spec.containers[0].name: Required"),
    "twice": (
        {"spec": {"containers": [{"name": "a", "image": "i"}, {"name": "a", "image": "i"}]}},
        422,
        "Invalid",
        'spec.containers[1].name: Duplicate value: "a"',
    ),
    "mount": (
        {"spec": {"containers": [{"name": "a", "image": "i", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]}},
        422,
        "Invalid",
        "spec.containers[0].volumeMounts[0].name: Not found",
    ),
    "policy": (
        {"spec": {"containers": [{"name": "a", "image": "i"}], "restartPolicy": "Maybe"}},
        422,
        "Invalid",
        'spec.restartPolicy: Unsupported value: "Maybe"',
    ),
    "deadline": (
        {"spec": {"containers": [{"name": "a", "image": "i"}], "activeDeadlineSeconds": 0}},
        422,
        "Invalid",
        "activeDeadlineSeconds",
    ),
    "env number": (
        {"spec": {"containers": [{"name": "a", "image": "i", "env": [{"name": "N", "value": 1}]}]}},
        400,
        "BadRequest",
        "env",
    ),
    "quantity": (
        {"spec": {"containers": [{"name": "a", "image": "i", "resources": {"limits": {"cpu": "lots"}}}]}},
        400,
        "BadRequest",
        "quantities",
    ),
    "command text": (
        {"spec": {"containers": [{"name": "a", "image": "i", "command": "ls"}]}},
        400,
        "BadRequest",
        "command",
    ),
    "kind": ({"kind": "Job"}, 400, "BadRequest", "cannot be handled as a Pod"),
    "spec a list": ({"spec": []}, 422, "Invalid", "spec.containers"),
    "metadata text": ({"metadata": "a"}, 400, "BadRequest", "metadata"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_invalid_pod(simulated: NamespaceApi, case: str) -> None:
    change, code, reason, text = REFUSED[case]
    status = status_of(simulated.request("POST", "", {**pod("refused"), **change}), code, reason)
    assert text in status["message"]
    if code == 422:
        assert status["details"]["causes"][0]["field"]
        assert status["details"]["kind"] == "Pod"


def test_a_refusal_names_all_causes(simulated: NamespaceApi) -> None:
    body = {**pod("Bad"), "spec": {"containers": [{"name": "a"}], "restartPolicy": "x"}}
    status = status_of(simulated.request("POST", "", body), 422, "Invalid")
    fields = {cause["field"] for cause in status["details"]["causes"]}
    assert fields == {"metadata.name", "spec.containers[0].image", "spec.restartPolicy"}


def test_created_pod_has_the_defaults_of_a_real_server(simulated: NamespaceApi) -> None:
    body = held("p", {"a": "b"})
    body["spec"] = {"containers": [{"name": "base", "image": "any"}]}
    made = simulated.create(body)
    meta, spec = made["metadata"], made["spec"]
    assert meta["namespace"] == simulated.namespace
    assert meta["labels"] == {"a": "b"}
    assert len(meta["uid"]) == 36
    assert meta["creationTimestamp"].endswith("Z")
    assert int(meta["resourceVersion"]) > 0
    assert (spec["restartPolicy"], spec["terminationGracePeriodSeconds"], spec["dnsPolicy"]) == (
        "Always",
        30,
        "ClusterFirst",
    )
    assert (spec["serviceAccountName"], spec["schedulerName"]) == ("default", "default-scheduler")
    assert spec["containers"][0]["imagePullPolicy"] == "Always"
    assert spec["containers"][0]["terminationMessagePath"] == "/dev/termination-log"
    assert made["status"] == {"phase": "Pending", "qosClass": "BestEffort"}


@pytest.mark.parametrize(
    ("image", "policy"), [("a", "Always"), ("a:latest", "Always"), ("r:5000/a", "Always"), ("a:1", "IfNotPresent")]
)
def test_image_pull_policy(simulated: NamespaceApi, image: str, policy: str) -> None:
    body = held()
    body["spec"]["containers"][0]["image"] = image
    assert simulated.create(body)["spec"]["containers"][0]["imagePullPolicy"] == policy


def test_server_owned_fields_are_ignored(simulated: NamespaceApi) -> None:
    body = held()
    body["metadata"].update(
        uid="mine", creationTimestamp="2020-01-01T00:00:00Z", deletionTimestamp="2020-01-01T00:00:00Z"
    )
    body["status"] = {"phase": "Succeeded"}
    made = simulated.create(body)
    assert made["metadata"]["uid"] != "mine"
    assert "deletionTimestamp" not in made["metadata"]
    assert made["status"]["phase"] == "Pending"


def test_second_pod_with_the_same_name_already_exists(simulated: NamespaceApi) -> None:
    simulated.create(held())
    status = status_of(simulated.request("POST", "", held()), 409, "AlreadyExists")
    assert status["details"] == {"name": "p", "kind": "pods"}
    assert status["message"] == 'pods "p" already exists'


def test_generated_names_differ(simulated: NamespaceApi) -> None:
    body = held()
    body["metadata"]["generateName"] = "run-"
    del body["metadata"]["name"]
    names = {simulated.create(body)["metadata"]["name"] for _ in range(3)}
    assert len(names) == 3
    assert all(name.startswith("run-") and len(name) == 9 for name in names)


def test_namespace_must_exist(simulated: NamespaceApi) -> None:
    status = status_of(simulated.request("POST", "/api/v1/namespaces/nowhere/pods", held()), 404, "NotFound")
    assert status["message"] == 'namespaces "nowhere" not found'


def test_missing_pod(simulated: NamespaceApi) -> None:
    for method in ("GET", "DELETE"):
        status = status_of(simulated.request(method, "/none"), 404, "NotFound")
        assert status["details"] == {"name": "none", "kind": "pods"}
    status_of(simulated.patch("none", {}), 404, "NotFound")


def test_dry_run_creates_nothing(simulated: NamespaceApi) -> None:
    before = simulated.version()
    assert simulated.create(held(), dryRun="All")["metadata"]["name"] == "p"
    assert simulated.names() == []
    assert simulated.version() == before
    status_of(simulated.request("POST", "", held(), params={"dryRun": "Some"}), 422, "Invalid")


@pytest.mark.parametrize("body", [b"{", b"[]", b'"text"', b"\xff\xfe", b"[" * 100_000], ids=range(5))
def test_malformed_body(simulated: NamespaceApi, body: bytes) -> None:
    status_of(simulated.request("POST", "", body), 400, "BadRequest")


def test_methods_paths_and_media_types(simulated: NamespaceApi) -> None:
    status_of(simulated.request("PUT", "", held()), 405, "MethodNotAllowed")
    status_of(simulated.request("POST", "/p", held()), 405, "MethodNotAllowed")
    status_of(simulated.request("GET", "/p/exec"), 404, "NotFound")
    status_of(simulated.request("GET", "/api/v1/services"), 404, "NotFound")
    status_of(simulated.request("GET", "/api/v2"), 404, "NotFound")
    status_of(
        simulated.request("POST", "", b"a: b", headers={"Content-Type": "application/x-yaml"}),
        415,
        "UnsupportedMediaType",
    )
    simulated.create(held())
    status_of(simulated.request("PATCH", "/p", {}), 415, "UnsupportedMediaType")
    status_of(simulated.request("GET", "/p", headers={"Accept": "application/xml"}), 406, "NotAcceptable")
    status_of(simulated.request("POST", "", held("big" * 2_000_000)), 413, "RequestEntityTooLarge")


def test_token_is_required(simulated: NamespaceApi) -> None:
    url, tls = simulated.cluster.url, simulated.cluster.tls
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {simulated.cluster.token}"}):
        answer = httpx.get(f"{url}/api/v1/pods", headers=headers, verify=tls)
        status_of(answer, 401, "Unauthorized")
        assert httpx.get(f"{url}/local-cluster/stats", headers=headers, verify=tls).status_code == 401
        assert httpx.get(f"{url}/readyz", headers=headers, verify=tls).text == "ok"


def test_discovery(simulated: NamespaceApi) -> None:
    call = simulated.cluster.call
    assert call("GET", "/version")["major"] == "1"
    assert call("GET", "/api")["versions"] == ["v1"]
    assert call("GET", "/apis")["groups"] == []
    names = {item["name"] for item in call("GET", "/api/v1")["resources"]}
    assert {"pods", "pods/log", "pods/status", "namespaces", "events", "nodes"} <= names
    assert call("GET", f"/api/v1/namespaces/{simulated.namespace}/events")["items"] == []
    assert [item["metadata"]["name"] for item in call("GET", "/api/v1/nodes")["items"]] == ["local-node"]


class TestPatch:
    """The three kinds of patches, on labels, annotations, lists and status."""

    def test_merge_patch_merges_and_null_removes(self, simulated: NamespaceApi) -> None:
        simulated.create(held("p", {"keep": "1", "drop": "1"}))
        changed = simulated.patch("p", {"metadata": {"labels": {"drop": None, "new": "2"}}}).json()
        assert changed["metadata"]["labels"] == {"keep": "1", "new": "2"}

    def test_strategic_merge_patch_merges_containers_by_name(self, simulated: NamespaceApi) -> None:
        simulated.create(held("p", {"keep": "1"}))
        body = {"metadata": {"labels": {"new": "2"}}, "spec": {"containers": [{"name": "base", "image": "other:2"}]}}
        changed = simulated.patch("p", body, "strategic-merge-patch").json()
        assert changed["metadata"]["labels"] == {"keep": "1", "new": "2"}
        assert [item["image"] for item in changed["spec"]["containers"]] == ["other:2"]

    def test_json_patch(self, simulated: NamespaceApi) -> None:
        simulated.create(held("p", {"a": "1"}))
        operations: list[Json] = [
            {"op": "test", "path": "/metadata/labels/a", "value": "1"},
            {"op": "add", "path": "/metadata/labels/x~1y", "value": "2"},
            {"op": "remove", "path": "/metadata/labels/a"},
        ]
        assert simulated.patch("p", operations, "json-patch").json()["metadata"]["labels"] == {"x/y": "2"}
        status_of(simulated.patch("p", operations, "json-patch"), 422, "Invalid")
        status_of(simulated.patch("p", {"no": "list"}, "json-patch"), 400, "BadRequest")

    def test_conflict_with_another_version(self, simulated: NamespaceApi) -> None:
        version = simulated.create(held())["metadata"]["resourceVersion"]
        simulated.patch("p", {"metadata": {"labels": {"a": "1"}}})
        stale = {"metadata": {"resourceVersion": version, "labels": {"a": "2"}}}
        status_of(simulated.patch("p", stale), 409, "Conflict")
        status_of(simulated.patch("p", {"metadata": {"uid": "another"}}), 422, "Invalid")
        assert simulated.get("p")["metadata"]["labels"] == {"a": "1"}

    def test_patch_without_a_change_makes_no_version(self, simulated: NamespaceApi) -> None:
        simulated.create(held("p", {"a": "1"}))
        simulated.wait_scheduled("p")
        before = simulated.get("p")["metadata"]["resourceVersion"]
        after = simulated.patch("p", {"metadata": {"labels": {"a": "1"}}}).json()["metadata"]["resourceVersion"]
        assert after == before

    @pytest.mark.parametrize(
        "spec",
        [{"restartPolicy": "Always"}, {"nodeName": "other"}, {"containers": [{"name": "new", "image": "i"}]}],
        ids=str,
    )
    def test_spec_is_immutable(self, simulated: NamespaceApi, spec: Json) -> None:
        simulated.create(held())
        simulated.wait_scheduled("p")
        status = status_of(simulated.patch("p", {"spec": spec}), 422, "Invalid")
        assert "pod updates may not change fields" in status["message"]

    def test_bad_label_in_a_patch(self, simulated: NamespaceApi) -> None:
        simulated.create(held())
        status_of(simulated.patch("p", {"metadata": {"labels": {"a": "no good"}}}), 422, "Invalid")
        status_of(simulated.patch("p", {"metadata": {"name": "q"}}), 400, "BadRequest")

    def test_status_is_changed_only_by_its_subresource(self, simulated: NamespaceApi) -> None:
        simulated.create(held())
        simulated.wait_scheduled("p")
        assert simulated.patch("p", {"status": {"phase": "Failed"}}).json()["status"]["phase"] == "Pending"
        changed = simulated.patch("p", {"status": {"phase": "Failed"}, "spec": {"nodeName": "x"}}, sub="/status").json()
        assert (changed["status"]["phase"], changed["spec"]["nodeName"]) == ("Failed", "local-node")

    def test_put_replaces_labels_and_keeps_the_status(self, simulated: NamespaceApi) -> None:
        simulated.create(held("p", {"old": "1"}))
        found = simulated.wait_scheduled("p")
        body = copy.deepcopy(found)
        body["metadata"]["labels"] = {"new": "1"}
        body["status"] = {}
        changed = simulated.request("PUT", "/p", body).json()
        assert changed["metadata"]["labels"] == {"new": "1"}
        assert changed["status"] == found["status"]
        status_of(simulated.request("PUT", "/p", body), 409, "Conflict")

    def test_put_status(self, simulated: NamespaceApi) -> None:
        simulated.create(held())
        body = simulated.wait_scheduled("p")
        body["status"]["phase"] = "Running"
        assert simulated.request("PUT", "/p/status", body).json()["status"]["phase"] == "Running"
        assert simulated.request("GET", "/p/status").json()["status"]["phase"] == "Running"


def test_partial_metadata(simulated: NamespaceApi) -> None:
    simulated.create(held("p", {"a": "1"}))
    accept = "application/json;as={};v=v1;g=meta.k8s.io,application/json"
    one = simulated.request("GET", "/p", headers={"Accept": accept.format("PartialObjectMetadata")}).json()
    assert (one["kind"], one["metadata"]["labels"]) == ("PartialObjectMetadata", {"a": "1"})
    assert "spec" not in one
    many = simulated.request("GET", "", headers={"Accept": accept.format("PartialObjectMetadataList")}).json()
    assert many["kind"] == "PartialObjectMetadataList"
    assert set(many["items"][0]) == {"kind", "apiVersion", "metadata"}
    with simulated.watch(headers={"Accept": accept.format("PartialObjectMetadata")}) as events:
        assert set(next(events)["object"]) == {"kind", "apiVersion", "metadata"}


def test_namespace_is_removed_with_its_last_pod(simulated: NamespaceApi) -> None:
    call = simulated.cluster.call
    call("POST", "/api/v1/namespaces", {"metadata": {"name": "doomed"}})
    doomed = NamespaceApi(simulated.cluster, "doomed")
    body = pod("p")
    body["metadata"]["annotations"] = {"local-cluster/hold-deletion": "true", "local-cluster/duration-s": "60"}
    doomed.create(body)
    doomed.wait_phase("p", "Running")
    assert call("DELETE", "/api/v1/namespaces/doomed")["status"]["phase"] == "Terminating"
    status = status_of(doomed.request("POST", "", pod("q")), 403, "Forbidden")
    assert status["details"]["causes"][0]["reason"] == "NamespaceTerminating"
    assert "deletionTimestamp" in doomed.get("p")["metadata"]
    doomed.cluster.vanish_pod("doomed", "p")
    status_of(doomed.request("GET", "/api/v1/namespaces/doomed"), 404, "NotFound")
