"""Pure functions: patches, expansion, phases, quality of service, representation."""

from __future__ import annotations

import re

import pytest

from podrelay_local_cluster.api.representation import Form, requested_form
from podrelay_local_cluster.http.request_info import RequestInfo, parse
from podrelay_local_cluster.kubelet import environment, pod_status
from podrelay_local_cluster.kubelet.pod_status import ContainerKind, ContainerStatus
from podrelay_local_cluster.objects import decoding, defaults, patching, quantity, schema
from podrelay_local_cluster.objects.errors import StatusError
from podrelay_local_cluster.objects.json_text import Json, to_json
from podrelay_local_cluster.objects.record import Record


@pytest.mark.parametrize(
    ("original", "patch", "result"),
    [
        ({"a": 1, "b": {"c": 2}}, {"b": {"c": None, "d": 3}}, {"a": 1, "b": {"d": 3}}),
        ({"a": [1, 2]}, {"a": [3]}, {"a": [3]}),
        ({"a": "x"}, {"a": {"b": None}}, {"a": {}}),
        ({}, {"a": None}, {}),
    ],
)
def test_merge_patch(original: Json, patch: Json, result: Json) -> None:
    before = to_json(original)
    assert patching.apply(patching.MERGE, original, patch) == result
    assert to_json(original) == before


@pytest.mark.parametrize(
    ("original", "patch", "result"),
    [
        ({"env": [{"name": "A", "x": 1}]}, {"env": [{"name": "B"}]}, {"env": [{"name": "A", "x": 1}, {"name": "B"}]}),
        ({"env": [{"name": "A", "value": "1"}]}, {"env": [{"name": "A", "$patch": "delete"}]}, {"env": []}),
        ({"env": [{"name": "A"}]}, {"env": [{"$patch": "replace"}, {"name": "B"}]}, {"env": [{"name": "B"}]}),
        ({"a": {"b": 1}}, {"a": {"$patch": "replace", "c": 2}}, {"a": {"c": 2}}),
        ({"a": {"b": 1}}, {"a": {"$patch": "delete"}}, {"a": {}}),
        ({"finalizers": ["a"]}, {"finalizers": ["b", "a"]}, {"finalizers": ["a", "b"]}),
        ({"finalizers": ["a", "b"]}, {"$deleteFromPrimitiveList/finalizers": ["a"]}, {"finalizers": ["b"]}),
        ({"args": ["a"]}, {"args": ["b"]}, {"args": ["b"]}),
        ({"conditions": [{"type": "Ready", "status": "True"}]}, {"conditions": [{"type": "Ready", "status": "False"}]},
         {"conditions": [{"type": "Ready", "status": "False"}]}),
        ({"env": [{"name": "A"}]}, {"$setElementOrder/env": [{"name": "A"}]}, {"env": [{"name": "A"}]}),
    ],
)  # fmt: skip
def test_strategic_merge_patch(original: Json, patch: Json, result: Json) -> None:
    assert patching.apply(patching.STRATEGIC, original, patch) == result


def test_strategic_merge_patch_without_the_merge_key() -> None:
    with pytest.raises(StatusError, match="merge key: name"):
        patching.apply(patching.STRATEGIC, {"env": [{"name": "A"}]}, {"env": [{"value": "1"}]})


@pytest.mark.parametrize(
    ("operations", "result"),
    [
        ([{"op": "add", "path": "/l/-", "value": 3}], {"l": [1, 2, 3], "m": {"a": 1}}),
        ([{"op": "add", "path": "/l/0", "value": 0}], {"l": [0, 1, 2], "m": {"a": 1}}),
        ([{"op": "replace", "path": "/m/a", "value": 2}], {"l": [1, 2], "m": {"a": 2}}),
        ([{"op": "move", "from": "/m/a", "path": "/b"}], {"l": [1, 2], "m": {}, "b": 1}),
        ([{"op": "copy", "from": "/l", "path": "/m/b"}], {"l": [1, 2], "m": {"a": 1, "b": [1, 2]}}),
        ([{"op": "remove", "path": "/l/1"}], {"l": [1], "m": {"a": 1}}),
        ([{"op": "add", "path": "", "value": {}}], {}),
    ],
)
def test_json_patch(operations: list[Json], result: Json) -> None:
    assert patching.json_patch({"l": [1, 2], "m": {"a": 1}}, operations) == result


@pytest.mark.parametrize(
    ("operation", "code"),
    [
        ({"op": "remove", "path": "/none"}, 422),
        ({"op": "replace", "path": "/none", "value": 1}, 422),
        ({"op": "add", "path": "/l/9", "value": 1}, 422),
        ({"op": "add", "path": "no-slash", "value": 1}, 422),
        ({"op": "add", "path": "/x"}, 422),
        ({"op": "test", "path": "/l/0", "value": 2}, 422),
        ({"op": "spoil", "path": "/l"}, 400),
        ({"op": "add", "path": 1}, 400),
        ({"op": "add", "path": "", "value": 1}, 400),
    ],
)
def test_failing_json_patch(operation: Json, code: int) -> None:
    with pytest.raises(StatusError) as caught:
        patching.json_patch({"l": [1, 2]}, [operation])
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("$(A)", "1"),
        ("x$(A)y$(A)", "x1y1"),
        ("$(NONE)", "$(NONE)"),
        ("$$(A)", "$(A)"),
        ("$$", "$"),
        ("$A $(", "$A $("),
        ("", ""),
    ],
)
def test_expansion(text: str, result: str) -> None:
    assert environment.expand(text, {"A": "1"}) == result


def states(*codes: int | str | None) -> list[ContainerStatus]:
    """Main containers: an exit code, "running", or None for waiting."""
    made = []
    for number, code in enumerate(codes):
        state = ContainerStatus(f"c{number}", "image", ContainerKind.MAIN)
        if code is not None:
            state.set_running("id")
        if isinstance(code, int):
            state.set_terminated(code)
        made.append(state)
    return made


@pytest.mark.parametrize(
    ("policy", "codes", "final", "phase"),
    [
        ("Never", (None,), False, "Pending"),
        ("Never", ("running", None), False, "Running"),
        ("Never", (0, "running"), False, "Running"),
        ("Never", (0, None), False, "Pending"),
        ("Never", (0, 0), False, "Succeeded"),
        ("Never", (0, 1), False, "Failed"),
        ("OnFailure", (0,), False, "Succeeded"),
        ("OnFailure", (1,), False, "Running"),
        ("OnFailure", (1,), True, "Failed"),
        ("Always", (0,), False, "Running"),
        ("Always", (0,), True, "Succeeded"),
        ("Always", (None,), True, "Failed"),
    ],
)
def test_phase(policy: str, codes: tuple[int | str | None, ...], final: bool, phase: str) -> None:
    assert pod_status.phase(policy, states(*codes), final) == phase


def test_transition_time_changes_only_with_the_status() -> None:
    old = {"type": "Ready", "status": "True", "lastTransitionTime": "then"}
    assert pod_status.condition(old, "Ready", {"status": "True", "reason": "new"})["lastTransitionTime"] == "then"
    assert pod_status.condition(old, "Ready", {"status": "False"})["lastTransitionTime"] != "then"


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ({}, "BestEffort"),
        ({"requests": {"cpu": "1"}}, "Burstable"),
        ({"limits": {"cpu": "1", "memory": "1Gi"}}, "Guaranteed"),
        ({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}, "Burstable"),
    ],
)
def test_quality_of_service(resources: Json, expected: str) -> None:
    assert defaults.qos_class({"containers": [{"resources": resources}]}) == expected


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("", Form.FULL),
        ("*/*", Form.FULL),
        ("application/json", Form.FULL),
        ("application/vnd.kubernetes.protobuf, application/json", Form.FULL),
        ("application/json;as=Table;v=v1;g=meta.k8s.io,application/json", Form.TABLE),
        ("application/json;as=Unknown,application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io", Form.PARTIAL),
    ],
)
def test_accept(accept: str, form: Form) -> None:
    assert requested_form(accept) is form


@pytest.mark.parametrize(
    ("method", "path", "query", "expected"),
    [
        ("GET", "/api/v1/pods", {}, ("list", "pods", "", "", "")),
        ("GET", "/api/v1/pods", {"watch": "1"}, ("watch", "pods", "", "", "")),
        ("GET", "/api/v1/namespaces/n/pods", {"watch": "false"}, ("list", "pods", "n", "", "")),
        ("POST", "/api/v1/namespaces/n/pods", {}, ("create", "pods", "n", "", "")),
        ("GET", "/api/v1/namespaces/n/pods/p/log", {}, ("log", "pods", "n", "p", "log")),
        ("PATCH", "/api/v1/namespaces/n/pods/p/status", {}, ("patch", "pods", "n", "p", "status")),
        ("DELETE", "/api/v1/namespaces/n/pods", {}, ("deletecollection", "pods", "n", "", "")),
        ("DELETE", "/api/v1/namespaces/n", {}, ("delete", "namespaces", "", "n", "")),
        ("GET", "/api/v1/namespaces/pods", {}, ("get", "namespaces", "", "pods", "")),
    ],
)
def test_request_info(method: str, path: str, query: dict[str, str], expected: tuple[str, ...]) -> None:
    info = parse(method, path, query)
    assert isinstance(info, RequestInfo)
    assert (info.verb, info.resource, info.namespace, info.name, info.subresource) == expected


def test_bound_spec_is_not_encoded_again() -> None:
    spec = {"containers": [{"name": "base"}]}
    old = Record("pods", {"metadata": {"name": "p"}, "spec": spec}, 1)
    old.json()
    bound = {**old.obj, "spec": {**spec, "nodeName": "local-node"}}
    text = Record("pods", bound, 2, old).json()
    assert b'"spec":{"nodeName":"local-node","containers":[{"name":"base"}]}' in text


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (1, "1"), ("1", "1"), (0.5, "500m"), ("0.5", "500m"), ("1000m", "1"), ("1500m", "1500m"), (1000, "1k"), ("0", "0"),
        ("0m", "0"), ("1024Mi", "1Gi"), ("1.5Gi", "1536Mi"), ("0.5Ki", "512"), ("1000Ki", "1000Ki"), ("1e3", "1e3"),
        ("1e2", "100"), ("12e6", "12e6"), ("1000000k", "1G"), ("0.1m", "100u"), ("1n", "1n"), ("0.1n", "1n"),
        ("-2000", "-2k"),
        (".5", "500m"), ("5.", "5"), ("0.1Gi", "107374182400m"), (None, "0"), ("1E", "1E"),
    ],
)  # fmt: skip
def test_canonical_quantities(given: object, expected: str) -> None:
    assert quantity.canonical(given) == expected
    assert quantity.canonical(expected) == expected


@pytest.mark.parametrize("given", ["", "1 Gi", "1gi", "Gi", "1.5.1", "--1", "1e", True, [], {}, "1e9999999999", "nan"])
def test_what_is_no_quantity(given: object) -> None:
    assert not quantity.is_quantity(given)


def test_a_body_without_null_is_not_copied() -> None:
    body = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"command": ["x"], "env": [{"name": "n"}]}]}}
    assert decoding.decoded(body, schema.of_object("pods")) is body


def test_null_is_an_empty_value_where_a_type_says_so() -> None:
    decoded = decoding.decoded(
        {
            "metadata": {"labels": {"a": None}, "name": None},
            "spec": {"nodeSelector": {"n": None}, "containers": [None, {"args": [None], "env": [None], "image": None}]},
        },
        schema.of_object("pods"),
    )
    assert decoded["metadata"] == {"labels": {"a": ""}}
    assert decoded["spec"] == {"nodeSelector": {"n": ""}, "containers": [{}, {"args": [""], "env": [{}]}]}
    assert decoding.decoded({"data": {"k": None}}, schema.of_object("secrets")) == {"data": {"k": ""}}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"metadata": {"finalizers": [False]}}, "metadata.finalizers[0] must be a string"),
        ({"metadata": {"generateName": 1}}, "metadata.generateName must be a string"),
        (
            {"spec": {"containers": [{"env": [{"valueFrom": []}]}]}},
            "spec.containers[0].env[0].valueFrom must be an object",
        ),
        ({"spec": {"volumes": [{"name": []}]}}, "spec.volumes[0].name must be a string"),
        ({"spec": {"terminationGracePeriodSeconds": 10**400}}, "spec.terminationGracePeriodSeconds must be an integer"),
        ({"spec": {"hostNetwork": "yes"}}, "spec.hostNetwork must be a boolean"),
        ({"status": {"containerStatuses": {}}}, "status.containerStatuses must be a list"),
    ],
)
def test_another_type_is_refused_by_the_name_of_its_field(body: object, field: str) -> None:
    with pytest.raises(StatusError, match=re.escape(field)) as refused:
        decoding.decoded(body, schema.of_object("pods"))
    assert refused.value.code == 400
