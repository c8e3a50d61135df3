"""Lists: selectors, chunks, versions."""

from __future__ import annotations

from typing import Any

import pytest

from tests.harness.cluster_api import NamespaceApi, held, status_of


@pytest.fixture
def three(simulated: NamespaceApi) -> NamespaceApi:
    """Held pods a, b and c."""
    simulated.create(held("a", {"app": "x", "tier": "web"}))
    simulated.create(held("b", {"app": "y", "tier": "web"}))
    simulated.create(held("c", {"app": "x"}))
    for name in "abc":
        simulated.wait_scheduled(name)
    return simulated


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        ("app=x", "ac"),
        ("app==x", "ac"),
        ("app!=x", "b"),
        ("tier!=web", "c"),
        ("tier", "ab"),
        ("!tier", "c"),
        ("app in (x,y)", "abc"),
        ("app in (y, z),tier", "b"),
        ("app notin (y)", "ac"),
        ("tier notin (web)", "c"),
        ("app=x,tier=web", "a"),
        ("app=x,!tier", "c"),
        ("other=", ""),
        ("", "abc"),
    ],
)
def test_label_selectors(three: NamespaceApi, selector: str, names: str) -> None:
    assert "".join(three.names(labelSelector=selector)) == names


@pytest.mark.parametrize("selector", ["=x", "a b", "a=b=c", "a in x", "app in (x", "a=no good", "k!", "a in (b!)"])
def test_invalid_label_selectors(three: NamespaceApi, selector: str) -> None:
    status_of(three.request("GET", "", params={"labelSelector": selector}), 400, "BadRequest")


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        ("metadata.name=b", "b"),
        ("metadata.name==b", "b"),
        ("metadata.name!=b", "ac"),
        ("status.phase=Pending", "abc"),
        ("status.phase!=Pending", ""),
        ("spec.nodeName=local-node,metadata.name!=a", "bc"),
        ("spec.restartPolicy=Always", ""),
        ("spec.restartPolicy=Never", "abc"),
    ],
)
def test_field_selectors(three: NamespaceApi, selector: str, names: str) -> None:
    assert "".join(three.names(fieldSelector=selector)) == names


@pytest.mark.parametrize("selector", ["spec.containers=x", "status.phase", "phase=Running"])
def test_invalid_field_selectors(three: NamespaceApi, selector: str) -> None:
    status_of(three.request("GET", "", params={"fieldSelector": selector}), 400, "BadRequest")


def test_all_namespaces(three: NamespaceApi) -> None:
    found = three.request("GET", "/api/v1/pods", params={"labelSelector": "tier"}).json()
    assert found["kind"] == "PodList"
    assert {item["metadata"]["namespace"] for item in found["items"]} == {three.namespace}
    status_of(three.request("GET", "/api/v1/pods/a"), 404, "NotFound")


def test_versions_increase_over_the_whole_cluster(simulated: NamespaceApi) -> None:
    seen = [simulated.version()]
    for name in "abc":
        seen.append(simulated.create(held(name))["metadata"]["resourceVersion"])
    simulated.delete("a", gracePeriodSeconds="0")
    seen.append(simulated.version())
    numbers = [int(version) for version in seen]
    assert numbers == sorted(set(numbers))
    assert all(isinstance(version, str) for version in seen)


class TestChunks:
    """`limit` and `continue`."""

    def test_chunks_show_the_state_at_the_first(self, three: NamespaceApi) -> None:
        first = three.listing(limit="1")
        assert [item["metadata"]["name"] for item in first["items"]] == ["a"]
        assert first["metadata"]["remainingItemCount"] == 2
        three.create(held("bb"))
        three.delete("c", gracePeriodSeconds="0")
        second = three.listing(limit="1", **{"continue": first["metadata"]["continue"]})
        third = three.listing(limit="5", **{"continue": second["metadata"]["continue"]})
        names = [item["metadata"]["name"] for chunk in (first, second, third) for item in chunk["items"]]
        assert names == ["a", "b", "c"]
        versions = {chunk["metadata"]["resourceVersion"] for chunk in (first, second, third)}
        assert len(versions) == 1
        assert "continue" not in third["metadata"]
        assert three.names() == ["a", "b", "bb"]

    def test_no_count_with_a_selector(self, three: NamespaceApi) -> None:
        first = three.listing(limit="1", labelSelector="app=x")
        assert "remainingItemCount" not in first["metadata"]
        token = {"continue": first["metadata"]["continue"]}
        assert three.names(limit="1", labelSelector="app=x", **token) == ["c"]

    def test_stale_token_is_expired_and_offers_the_rest(self, three: NamespaceApi) -> None:
        token = {"continue": three.listing(limit="1")["metadata"]["continue"]}
        three.cluster.compact()
        three.create(held("d"))
        status = status_of(three.request("GET", "", params={"limit": "1", **token}), 410, "Expired")
        fresh = {"continue": status["metadata"]["continue"]}
        assert three.names(**fresh) == ["b", "c", "d"]

    @pytest.mark.parametrize("token", ["x", "e30", "!!!"])
    def test_invalid_token(self, three: NamespaceApi, token: str) -> None:
        status_of(three.request("GET", "", params={"continue": token}), 400, "BadRequest")


@pytest.mark.parametrize(
    ("params", "code", "reason"),
    [
        ({"limit": "many"}, 400, "BadRequest"),
        ({"resourceVersion": "abc"}, 400, "BadRequest"),
        ({"resourceVersionMatch": "Exact"}, 422, "Invalid"),
        ({"resourceVersionMatch": "Exact", "resourceVersion": "0"}, 422, "Invalid"),
        ({"resourceVersionMatch": "Exact", "resourceVersion": "1"}, 410, "Expired"),
        ({"resourceVersion": "99999999999999999"}, 504, "Timeout"),
    ],
)
def test_invalid_parameters(simulated: NamespaceApi, params: dict[str, Any], code: int, reason: str) -> None:
    status = status_of(simulated.request("GET", "", params=params), code, reason)
    if code == 504:
        assert status["details"]["causes"][0]["reason"] == "ResourceVersionTooLarge"


def test_versions_in_a_list(three: NamespaceApi) -> None:
    version = three.version()
    assert three.names(resourceVersion="0") == ["a", "b", "c"]
    assert three.names(resourceVersion=version, resourceVersionMatch="NotOlderThan") == ["a", "b", "c"]
    assert three.names(resourceVersion=version, resourceVersionMatch="Exact") == ["a", "b", "c"]
