"""Semantics that the API documentation defines and podrelay relies on, checked on a server."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from podrelay.protocol import identifiers
from podrelay_workers.kube.client import PodClient
from podrelay_workers.kube.errors import Conflict, NotFound, Overloaded, Silent, Unreachable, error_of_event
from tests.real_cluster.client import LABELS, ask, events, refusal
from tests.real_cluster.server import Json, Refusal, Server, ended, pod, running

WATCHED = f"{identifiers.LABEL_DEPLOYMENT}={{}},{identifiers.LABEL_CLUSTER}=default,{identifiers.LABEL_DONE}!=True"


def label_of(found: Json | None, label: str) -> str | None:
    assert found is not None
    return found["metadata"].get("labels", {}).get(label)


# --- lists and watches ------------------------------------------------------------------------------------------------
def test_pages_show_one_state_despite_changes(server: Server, seven: list[str]) -> None:
    """A watch from the version of any page then reports all changes."""
    new = f"{seven[0]}-new"

    reported: set[tuple[str, str | None]] = set()

    async def pages(api: PodClient) -> None:
        first = await api.list_page(server.namespace, labels=LABELS, limit=3)
        await asyncio.to_thread(change)
        second = await api.list_page(server.namespace, labels=LABELS, limit=3, continuation=first.continuation)
        third = await api.list_page(server.namespace, labels=LABELS, limit=3, continuation=second.continuation)
        assert third.continuation == ""
        assert first.version == second.version == third.version
        listed = [item["metadata"]["name"] for page in (first, second, third) for item in page.items]
        assert sorted(listed) == sorted(seven)
        stream = api.watch_stream(server.namespace, version=third.version, labels=LABELS, timeout_s=20)
        async for event in stream:  # a scheduler may also write events
            reported.add((event["type"], event["object"]["metadata"].get("name")))
            if ("ADDED", new) in reported:
                break
        await stream.aclose()

    def change() -> None:
        server.delete(sorted(seven)[-1])
        server.set_status(sorted(seven)[0], running())
        server.call("POST", server.pods_path, pod(new, labels={"podrelay.test/of": "seven"}))

    try:
        ask(pages)
    finally:
        server.delete(new)
    assert {("DELETED", sorted(seven)[-1]), ("MODIFIED", sorted(seven)[0]), ("ADDED", new)} <= reported


def test_a_list_is_as_new_as_the_last_write(server: Server, seven: list[str]) -> None:
    for number in range(20):
        server.patch(f"{server.pods_path}/{seven[0]}", {"metadata": {"annotations": {"n": str(number)}}})
        page = ask(lambda api: api.list_page(server.namespace, labels=LABELS))
        found = next(item for item in page.items if item["metadata"]["name"] == seven[0])
        assert found["metadata"]["annotations"]["n"] == str(number)


def test_a_namespace_that_does_not_exist_has_no_pods(server: Server) -> None:
    """Not an error: a list does not reveal a misspelt namespace."""
    page = ask(lambda api: api.list_page("podrelay-no-such-namespace"))
    assert (page.items, bool(page.version)) == ([], True)
    refusal(lambda api: api.get_pod("podrelay-no-such-namespace", "a"), NotFound)


def test_an_unknown_path_is_not_a_missing_pod(server: Server, seven: list[str]) -> None:
    """The response of a wrong address, of a gateway, or of an API server that is still starting."""
    path = f"{server.pods_path}/{seven[0]}/podrelay-none"
    refusal(lambda api: api._connection.request_object("GET", path), Unreachable)


def test_the_watchers_own_selector(server: Server, name: str) -> None:
    """With the longest deployment name. A pod without the label `done` is selected; the label removes it."""
    labels = {identifiers.LABEL_DEPLOYMENT: "d" * 63, identifiers.LABEL_CLUSTER: "default"}
    selector = WATCHED.format("d" * 63)
    server.call("POST", server.pods_path, pod(name, labels=labels))
    page = ask(lambda api: api.list_page(server.namespace, labels=selector))
    assert [item["metadata"]["name"] for item in page.items] == [name]

    async def watch(api: PodClient) -> Json:
        stream = api.watch_stream(server.namespace, version=page.version, labels=selector, timeout_s=20)
        await api.patch_pod(server.namespace, name, {"metadata": {"labels": {identifiers.LABEL_DONE: "True"}}})
        event = await anext(stream)
        await stream.aclose()
        return event

    left = ask(watch)
    assert (left["type"], left["object"]["metadata"].get("deletionTimestamp")) == ("DELETED", None)
    assert label_of(left["object"], identifiers.LABEL_DONE) is None, "the last state in which the pod was selected"


def test_a_future_version_brings_no_past_event(server: Server, seven: list[str]) -> None:
    """Silence or an error, depending on the server, but no past event and no bookmark of a past version."""
    version = int(ask(lambda api: api.list_page(server.namespace)).version)

    async def watch(api: PodClient) -> None:
        stream = api.watch_stream(server.namespace, version=str(version * 2), labels=LABELS, silence_s=3, timeout_s=20)
        server.set_status(seven[0], running())
        async for event in stream:
            assert event["type"] == "ERROR", event
            raise error_of_event(event["object"])

    with pytest.raises((Silent, Overloaded)):
        ask(watch)


def test_a_large_pod_arrives_complete(server: Server, name: str) -> None:
    """Responses of this size are compressed."""
    text = "line of text, " * 17_000
    begin = ask(lambda api: api.list_page(server.namespace, labels=LABELS)).version
    labels = {"podrelay.test/of": "seven"}
    server.call("POST", server.pods_path, pod(name, labels=labels, annotations={"a/b": text}))
    page = ask(lambda api: api.list_page(server.namespace, labels=LABELS))
    (event,) = ask(lambda api: events(api, server, begin, 1))
    for found in (page.items[0], event["object"], ask(lambda api: api.get_pod(server.namespace, name))):
        assert found["metadata"]["annotations"]["a/b"] == text


# --- patches ----------------------------------------------------------------------------------------------------------
def test_a_patch_sets_and_removes_a_label(server: Server, name: str) -> None:
    server.call("POST", server.pods_path, pod(name, labels={"kept": "1"}))
    for value, expected in (("True", "True"), (None, None)):
        body = {"metadata": {"labels": {identifiers.LABEL_REVOKED: value}}}
        answer = ask(lambda api, body=body: api.patch_pod(server.namespace, name, body))  # type: ignore[misc]
        assert (label_of(answer, identifiers.LABEL_REVOKED), label_of(answer, "kept")) == (expected, "1")
        ask(lambda api, body=body: api.patch_pod(server.namespace, name, body))  # type: ignore[misc]


def test_a_patch_may_name_uid_and_version(server: Server, name: str) -> None:
    made = server.call("POST", server.pods_path, pod(name))["metadata"]
    server.set_status(name, running())

    def body(**metadata: str) -> Json:
        return {"metadata": {"labels": {"a": "b"}, **metadata}}

    refusal(lambda api: api.patch_pod(server.namespace, name, body(resourceVersion=made["resourceVersion"])), Conflict)
    stranger = "00000000-0000-4000-8000-000000000000"
    refusal(lambda api: api.patch_pod(server.namespace, name, body(uid=stranger)), Conflict)
    assert label_of(server.get(name), "a") is None
    ask(lambda api: api.patch_pod(server.namespace, name, body(uid=made["uid"])))
    assert label_of(server.get(name), "a") == "b"


def test_a_terminating_pod_can_still_be_labelled(server: Server, name: str) -> None:
    server.call("POST", server.pods_path, pod(name, finalizers=["podrelay.test/stays"]))
    ask(lambda api: api.delete_pod(server.namespace, name))
    mark = {"metadata": {"labels": {identifiers.LABEL_DONE: "True"}}}
    assert label_of(ask(lambda api: api.patch_pod(server.namespace, name, mark)), identifiers.LABEL_DONE) == "True"


PATCHES = {
    "application/merge-patch+json": {"metadata": {"labels": {"a": "b"}}},
    "application/strategic-merge-patch+json": {"metadata": {"labels": {"a": "b"}}},
    "application/json-patch+json": [{"op": "add", "path": "/metadata/labels", "value": {"a": "b"}}],
}


@pytest.mark.parametrize("media_type", PATCHES)
def test_kinds_of_patches(server: Server, name: str, media_type: str) -> None:
    server.call("POST", server.pods_path, pod(name))
    found = server.call("PATCH", f"{server.pods_path}/{name}", PATCHES[media_type], media_type)
    assert label_of(found, "a") == "b"


def test_plain_json_is_not_a_patch(server: Server, name: str) -> None:
    server.call("POST", server.pods_path, pod(name))
    with pytest.raises(Refusal) as caught:
        server.call("PATCH", f"{server.pods_path}/{name}", {"metadata": {}})
    assert caught.value.code == 415


def test_status_is_written_by_its_subresource_only(server: Server, name: str) -> None:
    server.call("POST", server.pods_path, pod(name))
    server.patch(f"{server.pods_path}/{name}", {"status": {"phase": "Failed"}})
    assert (server.get(name) or {})["status"]["phase"] == "Pending"
    server.set_status(name, ended(3))
    assert (server.get(name) or {})["status"]["phase"] == "Failed"


# --- deletion ---------------------------------------------------------------------------------------------------------
def test_a_deletion_may_name_the_version(server: Server, name: str) -> None:
    """Revocation relies on it: the response to the label gives the version at which no container had started."""
    uid = server.call("POST", server.pods_path, pod(name))["metadata"]["uid"]
    mark = {"metadata": {"labels": {identifiers.LABEL_REVOKED: "True"}}}
    version = ask(lambda api: api.patch_pod(server.namespace, name, mark))["metadata"]["resourceVersion"]
    server.set_status(name, running())
    refusal(lambda api: api.delete_pod(server.namespace, name, uid=uid, version=version), Conflict)
    assert "deletionTimestamp" not in (server.get(name) or {})["metadata"]

    async def delete(api: PodClient) -> None:
        """Repeat, because a scheduler may write between two requests."""
        for _ in range(20):
            found = await api.patch_pod(server.namespace, name, mark)
            with contextlib.suppress(Conflict):
                await api.delete_pod(server.namespace, name, uid=uid, version=found["metadata"]["resourceVersion"])
                return

    ask(delete)
    assert server.get(name) is None


def test_a_deletion_returns_the_metadata_of_the_pod_or_a_status(server: Server, name: str) -> None:
    server.call("POST", server.pods_path, pod(name))
    assert ask(lambda api: api.delete_pod(server.namespace, name))["kind"] in ("PartialObjectMetadata", "Status")


# --- creation ---------------------------------------------------------------------------------------------------------
def test_an_unknown_field_is_not_refused(server: Server, name: str, caplog: pytest.LogCaptureFixture) -> None:
    """At most a warning, which the launcher logs: a template may be written for a newer Kubernetes."""
    body = pod(name)
    body["spec"] = body["spec"] | {"podrelayNone": True}
    with caplog.at_level("WARNING"):
        assert ask(lambda api: api.create_pod(server.namespace, body))["metadata"]["uid"]
    assert not [line for line in caplog.messages if "warns" in line and "podrelayNone" not in line]


def test_creating_a_terminating_pod_again_reports_that_it_exists(server: Server, name: str) -> None:
    """With the same reason as for a running pod: the launcher then reads the pod and finds it terminating."""
    server.call("POST", server.pods_path, pod(name, finalizers=["podrelay.test/stays"]))
    server.delete(name)
    with pytest.raises(Refusal) as caught:
        server.call("POST", server.pods_path, pod(name))
    assert (caught.value.code, caught.value.body["reason"]) == (409, "AlreadyExists")
