"""Requests and pods that no client of Kubernetes sends: each is refused or fails itself, and the next one is served."""

from __future__ import annotations

import pytest

from tests.harness.cluster_api import Json, NamespaceApi, held, pod, status_of

ODD_QUERIES = (
    "?timeoutSeconds=" + "9" * 300, "?watch=true&resourceVersion=" + "1" * 5000, "?resourceVersion=" + "9" * 5000,
    "?limit=" + "1" * 5000, "?resourceVersion=%D9%A3", "?gracePeriodSeconds=x",
)  # fmt: skip


@pytest.mark.parametrize("query", ODD_QUERIES, ids=range(len(ODD_QUERIES)))
@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_an_odd_query_is_refused_and_breaks_nothing(simulated: NamespaceApi, method: str, query: str) -> None:
    assert simulated.request(method, simulated.path + query).status_code in (200, 400, 504)
    assert simulated.listing()["kind"] == "PodList"


ODD_BODIES = (
    (b"[" * 100_000, "application/json-patch+json"), (b'{"a":' * 100_000, "application/json"), (b"\xff", "application/json"),
    (b'{"metadata":' + b'{"a":' * 500 + b"1" + b"}" * 501, "application/json"), (b'{"x":NaN}', "application/json"),
    (b'{"x":1e999}', "application/json"), (b'[{"op":[]}]', "application/json-patch+json"),
    (b'[{"op":"remove","path":""}]', "application/json-patch+json"), (b'{"dryRun":true}', "application/json"),
    (b'[{"op":"copy","from":"/spec/x/y","path":"/a"}]', "application/json-patch+json"),
    (b'{"metadata":{"annotations":{"a":"\\ud800"}}}', "application/merge-patch+json"),
)  # fmt: skip


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize(("body", "kind"), ODD_BODIES, ids=range(len(ODD_BODIES)))
def test_an_odd_body_is_refused_and_breaks_nothing(
    simulated: NamespaceApi, method: str, body: bytes, kind: str
) -> None:
    simulated.create(held("odd"))
    path = simulated.path if method == "POST" else simulated.path + "/odd"
    response = simulated.request(method, path, body, headers={"Content-Type": kind})
    assert response.status_code < 500, response.text
    assert simulated.listing()["kind"] == "PodList"


@pytest.mark.parametrize("annotation", ["nan", "inf", "-1", "1e300", "x"])
def test_a_simulated_pod_with_an_odd_duration_fails_itself(simulated: NamespaceApi, annotation: str) -> None:
    body = pod("odd")
    body["metadata"]["annotations"] = {"local-cluster/duration-s": annotation}
    simulated.create(body)
    assert (
        simulated.wait_phase("odd", "Failed")["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"]
        == 128
    )


def test_a_grace_period_beyond_any_date_is_accepted(simulated: NamespaceApi) -> None:
    simulated.create(pod("p", terminationGracePeriodSeconds=2**62))
    simulated.wait_scheduled("p")
    deleted = simulated.delete("p").json()
    assert deleted["metadata"]["deletionGracePeriodSeconds"] == 10 * 365 * 86_400


ODD_FAULTS: tuple[Json, ...] = (
    {"seed": ["x"]}, {"rules": [{"status": "x"}]}, {"rules": [{"count": []}]}, {"images": [{"pattern": 7}]}, {"rules": 7},
    {"rules": [{"status": 99}]}, {"quota": {"x": None, "y": "1"}},
)  # fmt: skip


@pytest.mark.parametrize("body", ODD_FAULTS)
def test_faults_of_another_type_are_refused(simulated: NamespaceApi, body: Json) -> None:
    status_of(simulated.request("PUT", "/local-cluster/faults", body), 400, "BadRequest")
