"""What podrelay relies on in an API server: each request that it makes and each refusal that it distinguishes."""

from __future__ import annotations

import asyncio
import os

import pytest

from podrelay.cli.check import run_checks
from podrelay.protocol import identifiers
from podrelay.protocol.messages import LaunchRequest
from podrelay_workers.kube.client import PodClient
from podrelay_workers.kube.errors import (
    AlreadyExists,
    Conflict,
    Gone,
    NotFound,
    QuotaExceeded,
    Refused,
    error_of_event,
)
from podrelay_workers.launcher.error_policy import classify_error
from podrelay_workers.launcher.pod_manifest import ManifestRenderer
from tests.real_cluster.client import LABELS, ask, events, refusal
from tests.real_cluster.conftest import VARIABLE
from tests.real_cluster.server import Json, Server, ended, pod, running


# --- creation ---------------------------------------------------------------------------------------------------------
def test_a_pod_is_made_once(server: Server, name: str) -> None:
    made = ask(lambda api: api.create_pod(server.namespace, pod(name)))
    assert (made["metadata"]["name"], made["metadata"]["namespace"]) == (name, server.namespace)
    assert made["metadata"]["uid"]
    refusal(lambda api: api.create_pod(server.namespace, pod(name)), AlreadyExists)
    found = ask(lambda api: api.get_pod(server.namespace, name))
    assert found["metadata"]["uid"] == made["metadata"]["uid"]


def test_a_pod_that_is_being_deleted_still_has_its_name(server: Server, name: str) -> None:
    body = pod(name, finalizers=["podrelay.test/stays"])
    ask(lambda api: api.create_pod(server.namespace, body))
    ask(lambda api: api.delete_pod(server.namespace, name))
    refusal(lambda api: api.create_pod(server.namespace, pod(name)), AlreadyExists)


def test_a_namespace_that_does_not_exist(server: Server) -> None:
    error = refusal(lambda api: api.create_pod("podrelay-no-such-namespace", pod("a")), NotFound)
    assert "podrelay-no-such-namespace" in error.message
    assert classify_error(error, 0).scope == "never"


@pytest.mark.parametrize(
    "change",
    [
        {"metadata": {"name": "Upper_Case"}},
        {"metadata": {"name": "a" * 254}},
        {"metadata": {"name": "x", "labels": {"k": "v" * 64}}},
        {"metadata": {"name": "x", "labels": {"k": "not/a value"}}},
        {"metadata": {"name": "x", "annotations": {"k": "v" * 262_145}}},
        {"metadata": {"name": "x"}, "spec": {"containers": []}},
        {
            "metadata": {"name": "x"},
            "spec": {"restartPolicy": "Sometimes", "containers": [{"name": "b", "image": "i"}]},
        },
    ],
    ids=["name", "long name", "long label", "label", "annotations", "no container", "restart policy"],
)
def test_an_invalid_pod_is_refused_for_good(server: Server, change: Json) -> None:
    error = refusal(lambda api: api.create_pod(server.namespace, pod("x") | change), Refused)
    assert error.status == 422
    assert classify_error(error, 0).scope == "never"


def test_a_field_of_the_wrong_type_is_refused_for_good(server: Server) -> None:
    body = pod("x")
    body["spec"] = body["spec"] | {"containers": [{"name": "base", "image": "i", "args": [1]}]}
    error = refusal(lambda api: api.create_pod(server.namespace, body), Refused)
    assert error.status == 400


def test_a_service_account_that_does_not_exist(server: Server) -> None:
    body = pod("x")
    body["spec"] = body["spec"] | {"serviceAccountName": "podrelay-none"}
    error = refusal(lambda api: api.create_pod(server.namespace, body), Refused)
    early, late = classify_error(error, 99), classify_error(error, 0, refused_s=60.0)
    assert (error.status, early.scope, late.scope) == (403, "launch", "never")
    assert "podrelay-none" in error.message


def test_a_quota_that_is_used_up(server: Server) -> None:
    """A server may apply a new quota with a delay, so some pods may pass."""
    path = f"/api/v1/namespaces/{server.namespace}/resourcequotas"
    used = len(server.pods())  # other tests may have left some
    hard = {"pods": str(used + 1)}
    server.call("POST", path, {"metadata": {"name": "few"}, "spec": {"hard": hard}})
    counted = {"hard": hard, "used": {"pods": str(used)}}
    made: list[str] = []

    async def fill(api: PodClient) -> None:
        while len(made) < 50:
            await api.create_pod(server.namespace, pod(f"counted-{len(made)}"))
            made.append(f"counted-{len(made)}")
            await asyncio.sleep(0.1)

    try:
        server.patch(f"{path}/few/status", {"status": counted})  # in case no controller counts
        error = refusal(fill, QuotaExceeded)
        assert "few" in error.message
        assert classify_error(error, 0).scope == "namespace"
        # Admission precedes the name check: a second creation of an existing pod also fails by the quota.
        refusal(lambda api: api.create_pod(server.namespace, pod(made[0])), QuotaExceeded)
    finally:
        server.call("DELETE", f"{path}/few")
        for each in made:
            server.delete(each)


def test_the_longest_names_and_labels_that_podrelay_makes(server: Server) -> None:
    """Ids with a length and characters that neither names nor labels allow."""
    long = "Ünï.code_" * 27
    request = LaunchRequest(
        launch_id="0199aaaa-bbbb-7ccc-8ddd-eeeeeeeeeeee", attempt=12, kind="task", subject=long,
        key=(long[:250], long[:250], long[:250], 3, 1000), owner="1234567",
        args=("python", "-c", "x" * 100_000), namespace=server.namespace,
    )  # fmt: skip
    body = ManifestRenderer("d" * 40).render(request)
    made = ask(lambda api: api.create_pod(server.namespace, body))
    try:
        assert len(made["metadata"]["name"]) <= 63
        assert made["metadata"]["labels"][identifiers.LABEL_LAUNCH_ID] == request.launch_id
        assert made["metadata"]["annotations"]["dag_id"] == long[:250]
        kept = ask(lambda api: api.get_pod(server.namespace, made["metadata"]["name"]))
        assert kept["spec"]["containers"][0]["args"] == list(request.args)
    finally:
        server.delete(made["metadata"]["name"])


# --- lists and watches ------------------------------------------------------------------------------------------------
def test_a_list_in_pages(server: Server, seven: list[str]) -> None:
    async def pages(api: PodClient) -> list[list[Json]]:
        found, continuation = [], ""
        while True:
            page = await api.list_page(server.namespace, labels=LABELS, limit=3, continuation=continuation)
            assert page.version
            found.append(page.items)
            continuation = page.continuation
            if not continuation:
                return found

    found = ask(pages)
    assert [len(items) for items in found] == [3, 3, 1]
    assert {item["metadata"]["name"] for items in found for item in items} == set(seven)


def test_fields_select_too(server: Server, seven: list[str]) -> None:
    server.set_status(seven[0], {"phase": "Failed"})
    for fields, expected in (
        ("status.phase=Failed", {seven[0]}),
        ("status.phase!=Failed", set(seven[1:])),
        (f"metadata.name={seven[3]}", {seven[3]}),
        ("spec.nodeName=", set(seven)),
    ):
        page = ask(lambda api, fields=fields: api.list_page(server.namespace, labels=LABELS, fields=fields))  # type: ignore[misc]
        assert {item["metadata"]["name"] for item in page.items} == expected, fields


def test_a_watch_resumes_from_any_version_seen(server: Server, seven: list[str]) -> None:
    begin = ask(lambda api: api.list_page(server.namespace, labels=LABELS)).version
    server.set_status(seven[0], running())
    server.set_status(seven[0], ended(0))
    server.delete(seven[0])
    seen = ask(lambda api: events(api, server, begin, 4))
    # A deletion is two writes, even when no container has to end first.
    assert [event["type"] for event in seen] == ["MODIFIED", "MODIFIED", "MODIFIED", "DELETED"]
    assert seen[1]["object"]["status"]["phase"] == "Succeeded"
    assert seen[2]["object"]["metadata"]["deletionTimestamp"]
    middle = seen[2]["object"]["metadata"]["resourceVersion"]
    again = ask(lambda api: events(api, server, middle, 1))
    assert [event["object"]["metadata"]["uid"] for event in again] == [seen[3]["object"]["metadata"]["uid"]]
    assert again[0]["type"] == "DELETED"
    assert again[0]["object"]["metadata"]["deletionTimestamp"]


def test_a_pod_that_leaves_the_selector_is_reported_as_deleted(server: Server, seven: list[str]) -> None:
    """The watcher may select by label, so a changed label must be visible."""
    begin = ask(lambda api: api.list_page(server.namespace, labels=LABELS)).version
    server.patch(f"{server.pods_path}/{seven[1]}", {"metadata": {"labels": {"podrelay.test/of": None}}})
    (event,) = ask(lambda api: events(api, server, begin, 1))
    assert (event["type"], event["object"]["metadata"]["name"]) == ("DELETED", seven[1])


def test_an_old_version_is_gone(server: Server, seven: list[str]) -> None:
    """In the stream or as its response, depending on the server; podrelay treats both alike."""

    async def watch(api: PodClient) -> None:
        found = await events(api, server, "1", 1)
        if found[0]["type"] != "ERROR" and VARIABLE in os.environ:
            pytest.skip("this server is too young to have dropped any version")
        assert found[0]["type"] == "ERROR"
        raise error_of_event(found[0]["object"])

    refusal(watch, Gone)


def test_an_invalid_continuation_is_refused(server: Server) -> None:
    error = refusal(lambda api: api.list_page(server.namespace, continuation="bm9uc2Vuc2U"), Refused)
    assert error.status == 400


# --- clean-up ---------------------------------------------------------------------------------------------------------
def test_a_deletion_spares_another_pod_of_that_name(server: Server, name: str) -> None:
    made = ask(lambda api: api.create_pod(server.namespace, pod(name)))
    uid = made["metadata"]["uid"]
    refusal(
        lambda api: api.delete_pod(server.namespace, name, uid=uid[:-1] + ("0" if uid[-1] != "0" else "1")), Conflict
    )
    assert server.get(name) is not None
    ask(lambda api: api.delete_pod(server.namespace, name, uid=uid))
    assert server.get(name) is None, "an unscheduled pod is removed at once"
    refusal(lambda api: api.delete_pod(server.namespace, name, uid=uid), NotFound)


def test_a_pod_with_a_finalizer_is_only_marked(server: Server, name: str) -> None:
    made = ask(lambda api: api.create_pod(server.namespace, pod(name, finalizers=["podrelay.test/stays"])))
    for _ in range(2):
        ask(lambda api: api.delete_pod(server.namespace, name, uid=made["metadata"]["uid"]))
    found = server.get(name)
    assert found is not None
    assert found["metadata"]["deletionTimestamp"]
    server.patch(f"{server.pods_path}/{name}", {"metadata": {"finalizers": None}})
    assert server.get(name) is None


def test_delete_options(server: Server, name: str) -> None:
    ask(lambda api: api.create_pod(server.namespace, pod(name)))
    ask(lambda api: api.delete_pod(server.namespace, name, options={"dry_run": ["All"]}))
    assert server.get(name) is not None
    options = {"grace_period_seconds": 0, "propagation_policy": "Background"}
    ask(lambda api: api.delete_pod(server.namespace, name, options=options))
    assert server.get(name) is None


def test_a_label_is_set_on_this_pod_only(server: Server, name: str) -> None:
    made = ask(lambda api: api.create_pod(server.namespace, pod(name, labels={"kept": "1"})))
    uid, label = made["metadata"]["uid"], {identifiers.LABEL_DONE: "True"}
    patched = ask(
        lambda api: api.patch_pod(server.namespace, name, {"metadata": {"uid": uid, "labels": label}}),
    )
    assert patched["metadata"]["labels"] == {"kept": "1", **label}
    other = uid[:-1] + ("0" if uid[-1] != "0" else "1")
    change = {"metadata": {"uid": other, "labels": {identifiers.LABEL_REVOKED: "True"}}}
    refusal(lambda api: api.patch_pod(server.namespace, name, change), Conflict)
    found = server.get(name)
    assert found is not None
    assert found["metadata"]["labels"] == {"kept": "1", **label}
    server.delete(name)
    refusal(lambda api: api.patch_pod(server.namespace, name, {"metadata": {"labels": label}}), NotFound)


# --- requests other than for pods --------------------------------------------------------------------------------------
def test_the_log_of_a_pod_that_no_node_has_is_empty(server: Server, name: str) -> None:
    """204 without a body, for every container of the pod; a container that it lacks is refused."""
    ask(lambda api: api.create_pod(server.namespace, pod(name)))
    assert ask(lambda api: api.read_log_tail(server.namespace, name, container="base")) == []
    for query in ("", "?container=base", "?container=base&previous=true", "?tailLines=1"):
        answer = server.request("GET", f"{server.pods_path}/{name}/log{query}")
        assert (answer.status, answer.data) == (204, b""), query
    refusal(lambda api: api.read_log_tail(server.namespace, name, container="none"), Refused)
    refusal(lambda api: api.read_log_tail(server.namespace, "podrelay-none", container="base"), NotFound)


def test_events_and_version(server: Server, name: str) -> None:
    made = ask(lambda api: api.create_pod(server.namespace, pod(name)))
    found = ask(lambda api: api.list_events(server.namespace, name=name, uid=made["metadata"]["uid"]))
    assert all(event["involvedObject"]["name"] == name for event in found)
    assert ask(lambda api: api.server_version())["gitVersion"].startswith("v")


def test_the_check_passes(server: Server) -> None:
    (check,) = [check for check in run_checks(None) if check.name == "Kubernetes"]
    assert check.ok, check.detail
    assert server.namespace in check.detail


# --- warm pods --------------------------------------------------------------------------------------------------------
def test_a_json_patch_applies_as_a_whole_or_not_at_all(server: Server, name: str) -> None:
    """As a launcher gives an idle pod to a launch: its tests are preconditions, and each failure is a 422."""
    body = pod(name)
    body["metadata"] |= {"labels": {"podrelay/idle": "x", "kept": "1"}, "annotations": {"kept": "1"}}
    made = ask(lambda api: api.create_pod(server.namespace, body))
    add = [
        {"op": "remove", "path": "/metadata/labels/podrelay~1idle"},
        {"op": "add", "path": "/metadata/labels/podrelay~1launch-id", "value": "l"},
        {"op": "add", "path": "/metadata/annotations/podrelay~1subject", "value": "s"},
    ]

    def operations(uid: str, idle: str) -> list[Json]:
        return [
            {"op": "test", "path": "/metadata/uid", "value": uid},
            {"op": "test", "path": "/metadata/labels/podrelay~1idle", "value": idle},
            *add,
        ]

    uid = made["metadata"]["uid"]
    of_another, of_another_shape = operations("another", "x"), operations(uid, "another")
    error = refusal(lambda api: api.test_and_patch_pod(server.namespace, name, of_another), Refused)
    assert error.status == 422
    error = refusal(lambda api: api.test_and_patch_pod(server.namespace, name, of_another_shape), Refused)
    assert error.status == 422
    assert ask(lambda api: api.get_pod(server.namespace, name))["metadata"]["labels"] == body["metadata"]["labels"]
    after = ask(lambda api: api.test_and_patch_pod(server.namespace, name, operations(uid, "x")))["metadata"]
    assert after["labels"] == {"podrelay/launch-id": "l", "kept": "1"}
    assert after["annotations"] == {"kept": "1", "podrelay/subject": "s"}
    again = operations(uid, "x")  # the answer to the first was lost
    assert refusal(lambda api: api.test_and_patch_pod(server.namespace, name, again), Refused).status == 422
    refusal(lambda api: api.test_and_patch_pod(server.namespace, f"{name}-none", again), NotFound)
