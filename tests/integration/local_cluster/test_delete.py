"""Deletion: grace, marks, preconditions, finalizers, collections."""

from __future__ import annotations

import itertools
import time
from datetime import timedelta

import pytest

from podrelay_local_cluster.objects import clock
from tests.harness.cluster_api import Json, NamespaceApi, held, pod, state, status_of

IGNORES_SIGTERM = ("sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done")
ENDS_ON_SIGTERM = ("sh", "-c", "trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done")


def wait_ready(api: NamespaceApi, name: str = "p") -> None:
    """Wait for the first line in the container's log."""
    api.wait_phase(name, "Running")
    with api.client.stream("GET", f"{api.path}/{name}/log", params={"follow": "true"}) as response:
        assert next(response.iter_lines()) == "ready"


def meta_of(event: Json) -> Json:
    return dict(event["object"]["metadata"])


def test_graceful_deletion(api: NamespaceApi) -> None:
    api.create(pod("p", *ENDS_ON_SIGTERM))
    wait_ready(api)
    version = api.version()
    answer = api.delete("p").json()
    assert answer["kind"] == "Pod"
    assert answer["metadata"]["deletionGracePeriodSeconds"] == 30
    assert answer["metadata"]["deletionTimestamp"] > answer["metadata"]["creationTimestamp"]
    with api.watch(resourceVersion=version) as events:
        marked, ended, released, gone = itertools.islice(events, 4)
    assert (marked["type"], marked["object"]["status"]["phase"]) == ("MODIFIED", "Running")
    assert "deletionTimestamp" in marked["object"]["metadata"]
    assert state(ended["object"])["terminated"]["exitCode"] == 3
    assert ended["object"]["status"]["phase"] == "Failed"
    # The kubelet confirms the end by a deletion without a grace period.
    assert (released["type"], meta_of(released)["deletionGracePeriodSeconds"]) == ("MODIFIED", 0)
    assert gone["type"] == "DELETED"
    assert int(gone["object"]["metadata"]["resourceVersion"]) > int(ended["object"]["metadata"]["resourceVersion"])
    status_of(api.request("GET", "/p"), 404, "NotFound")


def test_sigkill_after_the_grace_period(api: NamespaceApi) -> None:
    api.create(pod("p", *IGNORES_SIGTERM))
    wait_ready(api)
    version, begun = api.version(), time.monotonic()
    assert api.delete("p", {"gracePeriodSeconds": 1}).json()["metadata"]["deletionGracePeriodSeconds"] == 1
    last = api.wait_gone("p", version)
    assert time.monotonic() - begun >= 0.9
    assert state(last)["terminated"]["exitCode"] == 137


def test_grace_of_the_spec_and_shortening(api: NamespaceApi) -> None:
    api.create(pod("p", *IGNORES_SIGTERM, terminationGracePeriodSeconds=50))
    wait_ready(api)
    assert api.delete("p").json()["metadata"]["deletionGracePeriodSeconds"] == 50
    assert api.delete("p", gracePeriodSeconds="60").json()["metadata"]["deletionGracePeriodSeconds"] == 50
    version = api.version()
    assert api.delete("p", gracePeriodSeconds="1").json()["metadata"]["deletionGracePeriodSeconds"] == 1
    assert state(api.wait_gone("p", version))["terminated"]["exitCode"] == 137


def test_grace_zero_removes_at_once(api: NamespaceApi) -> None:
    api.create(pod("p", *IGNORES_SIGTERM))
    wait_ready(api)
    assert api.delete("p", {"gracePeriodSeconds": 0}).status_code == 200
    status_of(api.request("GET", "/p"), 404, "NotFound")


@pytest.mark.parametrize("options", [{}, {"gracePeriodSeconds": 0}])
def test_a_pod_that_is_removed_at_once_is_marked_first(simulated: NamespaceApi, options: dict[str, int]) -> None:
    """Two writes: every watch sees both, and the last state has its deletion timestamp."""
    version = simulated.create(pod("p", nodeSelector={} if options else {"disk": "ssd"}))["metadata"]["resourceVersion"]
    simulated.delete("p", options)
    with simulated.watch(resourceVersion=version) as events:
        marked = next(event for event in events if event["type"] == "DELETED" or "deletionTimestamp" in meta_of(event))
        gone = marked if marked["type"] == "DELETED" else next(events)
    assert (marked["type"], meta_of(marked)["deletionGracePeriodSeconds"]) == ("MODIFIED", 0)
    assert (gone["type"], meta_of(gone)["deletionTimestamp"]) == ("DELETED", meta_of(marked)["deletionTimestamp"])


def test_a_shortened_grace_period_starts_at_the_first_request(api: NamespaceApi) -> None:
    api.create(pod("p", *IGNORES_SIGTERM, terminationGracePeriodSeconds=50))
    wait_ready(api)
    first = api.delete("p").json()["metadata"]["deletionTimestamp"]
    time.sleep(1.1)
    second = api.delete("p", gracePeriodSeconds="40").json()["metadata"]["deletionTimestamp"]
    assert clock.parse(first) - clock.parse(second) == timedelta(seconds=10)


def test_finished_pod_is_removed_at_once(api: NamespaceApi) -> None:
    api.create(pod("p", "true"))
    api.wait_phase("p", "Succeeded")
    assert api.delete("p").json()["metadata"]["deletionGracePeriodSeconds"] == 0
    status_of(api.request("GET", "/p"), 404, "NotFound")


def test_unscheduled_pod_is_removed_at_once(api: NamespaceApi) -> None:
    api.create(pod("p", nodeSelector={"disk": "ssd"}))
    api.delete("p")
    status_of(api.request("GET", "/p"), 404, "NotFound")


@pytest.mark.parametrize("field", ["uid", "resourceVersion"])
def test_preconditions(simulated: NamespaceApi, field: str) -> None:
    simulated.create(held())
    found = simulated.wait_scheduled("p")
    status = status_of(simulated.delete("p", {"preconditions": {field: "other"}}), 409, "Conflict")
    assert "precondition" in status["message"]
    good = {"preconditions": {field: found["metadata"][field]}, "gracePeriodSeconds": 0}
    assert simulated.delete("p", good).status_code == 200


def test_dry_run_deletes_nothing(simulated: NamespaceApi) -> None:
    simulated.create(held())
    assert simulated.delete("p", dryRun="All").status_code == 200
    assert simulated.delete("p", {"dryRun": ["All"]}).status_code == 200
    assert "deletionTimestamp" not in simulated.get("p")["metadata"]


@pytest.mark.parametrize("body", [{"gracePeriodSeconds": "x"}, {"preconditions": ["x"]}, ["no"], b"{"], ids=str)
def test_invalid_options(simulated: NamespaceApi, body: object) -> None:
    simulated.create(held())
    status_of(simulated.delete("p", body), 400, "BadRequest")


def test_finalizers_keep_the_object(api: NamespaceApi) -> None:
    body = pod("p", *ENDS_ON_SIGTERM)
    body["metadata"]["finalizers"] = ["example.org/wait"]
    api.create(body)
    wait_ready(api)
    api.delete("p")
    api.wait("p", lambda found: found["metadata"].get("deletionGracePeriodSeconds") == 0)
    assert "deletionTimestamp" in api.get("p")["metadata"]
    version = api.version()
    api.patch("p", {"metadata": {"finalizers": None}})
    api.wait_gone("p", version)
    status_of(api.request("GET", "/p"), 404, "NotFound")


def test_collection(simulated: NamespaceApi) -> None:
    for name, app in (("a", "x"), ("b", "y"), ("c", "x")):
        simulated.create(held(name, {"app": app}))
    params = {"labelSelector": "app=x", "gracePeriodSeconds": "0"}
    deleted = simulated.request("DELETE", "", params=params).json()
    assert [item["metadata"]["name"] for item in deleted["items"]] == ["a", "c"]
    assert simulated.names() == ["b"]


def test_held_deletion_stays_terminating(simulated: NamespaceApi) -> None:
    body = pod("p")
    body["metadata"]["annotations"] = {"local-cluster/hold-deletion": "true", "local-cluster/duration-s": "60"}
    simulated.create(body)
    simulated.wait_phase("p", "Running")
    simulated.delete("p")
    assert simulated.get("p")["status"]["phase"] == "Running"
    simulated.delete("p", gracePeriodSeconds="0")
    status_of(simulated.request("GET", "/p"), 404, "NotFound")
