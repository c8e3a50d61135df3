"""Secrets that pods own and mount: the garbage collector, immutability, limits, and volumes as files."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.harness.cluster_api import Json, NamespaceApi, held, pod, status_of
from tests.harness.local_cluster import LocalCluster


def path(api: NamespaceApi, name: str = "") -> str:
    return f"/api/v1/namespaces/{api.namespace}/secrets{name and '/'}{name}"


def owner(found: Json, **changes: Any) -> Json:
    metadata = found["metadata"]
    return {"apiVersion": "v1", "kind": "Pod", "name": metadata["name"], "uid": metadata["uid"], **changes}


def make(api: NamespaceApi, name: str = "s", owners: list[Json] | None = None, **fields: Any) -> httpx.Response:
    body = {"metadata": {"name": name, "ownerReferences": owners or []}, "stringData": {"k": "value"}, **fields}
    return api.request("POST", path(api), body)


def exists(api: NamespaceApi, name: str = "s") -> bool:
    return api.request("GET", path(api, name)).status_code == 200


def within(seconds: float, true: Callable[[], bool]) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def patched(api: NamespaceApi, change: Json) -> httpx.Response:
    return api.request("PATCH", path(api, "s"), change, headers={"Content-Type": "application/merge-patch+json"})


# --- garbage collection -----------------------------------------------------------------------------------------------
def test_a_secret_goes_with_the_pod_that_owns_it(api: NamespaceApi) -> None:
    first, second = api.create(held("a")), api.create(held("b"))
    assert make(api, "s", [owner(first)]).status_code == 201
    assert make(api, "both", [owner(first), owner(second)]).status_code == 201
    assert make(api, "free").status_code == 201
    time.sleep(0.1)
    assert exists(api, "s")
    api.delete("a", {"gracePeriodSeconds": 0})
    within(2.0, lambda: not exists(api))
    assert exists(api, "both")
    assert exists(api, "free")
    api.delete("b", {"gracePeriodSeconds": 0})
    within(2.0, lambda: not exists(api, "both"))
    assert exists(api, "free")


@pytest.mark.parametrize("wrong", [{"uid": "another"}, {"name": "gone"}])
def test_a_secret_with_a_wrong_owner_is_collected_at_once(api: NamespaceApi, wrong: dict[str, str]) -> None:
    found = api.create(held("a"))
    assert make(api, "s", [owner(found, **wrong)]).status_code == 201
    within(1.0, lambda: not exists(api))


def test_an_owner_of_an_unknown_kind_is_believed(api: NamespaceApi) -> None:
    deployment = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d", "uid": "u"}
    assert make(api, "s", [deployment]).status_code == 201
    time.sleep(0.1)
    assert exists(api)


@pytest.mark.parametrize("field", ["apiVersion", "kind", "name", "uid"])
def test_an_owner_without_a_field_is_refused(api: NamespaceApi, field: str) -> None:
    found = api.create(held("a"))
    answer = status_of(make(api, "s", [owner(found, **{field: ""})]), 422, "Invalid")
    assert f"metadata.ownerReferences.{field}" in answer["message"]


@pytest.mark.parametrize("owners", ["x", ["x"], [{"uid": 1}]])
def test_owners_of_a_wrong_type_are_refused(api: NamespaceApi, owners: Any) -> None:
    body = {"metadata": {"name": "s", "ownerReferences": owners}}
    status_of(api.request("POST", path(api), body), 400, "BadRequest")


def test_a_pod_that_goes_while_no_server_runs_leaves_no_secret(tmp_path: Path) -> None:
    cluster = LocalCluster(tmp_path, data_dir=tmp_path / "data")
    with cluster:
        api = NamespaceApi(cluster, "default")
        assert make(api, "s", [owner(api.create(held("a")))]).status_code == 201
        cluster.kill()
        cluster.start()
        api = NamespaceApi(cluster, "default")
        assert exists(api)
        api.delete("a", {"gracePeriodSeconds": 0})
        within(2.0, lambda: not exists(api))


# --- immutable, and limits --------------------------------------------------------------------------------------------
def test_an_immutable_secret_takes_an_owner_and_no_other_data(api: NamespaceApi) -> None:
    found = api.create(held("a"))
    assert make(api, immutable=True).status_code == 201
    assert patched(api, {"metadata": {"ownerReferences": [owner(found)]}}).status_code == 200
    for change in ({"stringData": {"k": "other"}}, {"immutable": False}):
        assert (
            "field is immutable when `immutable` is set" in status_of(patched(api, change), 422, "Invalid")["message"]
        )
    api.delete("a", {"gracePeriodSeconds": 0})
    within(2.0, lambda: not exists(api))


def test_a_secret_holds_a_mebibyte(api: NamespaceApi) -> None:
    most = 1024 * 1024
    for size, code in ((most, 201), (most + 1, 422)):
        data = {"k": base64.b64encode(b"x" * size).decode()}
        assert make(api, f"s{size}", data=data, stringData={}).status_code == code


# --- volumes ----------------------------------------------------------------------------------------------------------
def mounting(script: str, source: Json, **container: Any) -> Json:
    """A pod that runs a shell script with a volume at /etc/creds."""
    body = pod("p", "sh", "-c", script, volumes=[{"name": "v", **source}])
    body["spec"]["containers"][0] |= {"volumeMounts": [{"name": "v", "mountPath": "/etc/creds/"}], **container}
    return body


SECRET = {"secret": {"secretName": "s"}}


def test_a_mounted_secret_is_a_private_file(api: NamespaceApi) -> None:
    assert make(api).status_code == 201
    body = mounting("cat /etc/creds/k; stat -c ' %a' /etc/creds/k; cat $WHERE; pwd", SECRET, workingDir="/etc/creds")
    body["spec"]["containers"][0]["env"] = [{"name": "WHERE", "value": "/etc/creds/k"}]
    api.create(body)
    api.wait_phase("p", "Succeeded")
    first, second = api.log("p").splitlines()
    assert first == "value 600"
    value, folder = second.split("/", 1)
    assert value == "value"
    within(2.0, lambda: not Path(f"/{folder}").exists())


def test_a_pod_starts_soon_after_its_secret(api: NamespaceApi) -> None:
    took = []
    for number in range(5):
        body = mounting("cat /etc/creds/k", {"secret": {"secretName": f"s{number}"}})
        body["metadata"]["name"] = name = f"p{number}"
        api.create(body)
        began_s = time.monotonic()
        assert make(api, f"s{number}").status_code == 201
        api.wait_phase(name, "Succeeded")
        took.append(time.monotonic() - began_s)
        assert api.log(name) == "value\n"
    assert min(took) < 0.3, took


def test_config_maps_items_and_paths_that_only_begin_alike(api: NamespaceApi) -> None:
    body = {"metadata": {"name": "c"}, "data": {"a": "1", "b": "2"}, "binaryData": {"bin": "AAE="}}
    assert api.request("POST", f"/api/v1/namespaces/{api.namespace}/configmaps", body).status_code == 201
    items = [{"key": "b", "path": "sub/file"}]
    api.create(mounting("cat /etc/creds/*/file; echo /etc/credsX", {"configMap": {"name": "c", "items": items}}))
    api.wait_phase("p", "Succeeded")
    assert api.log("p") == "2/etc/credsX\n"


@pytest.mark.parametrize("escape", ["../../out", "/out", "a/../../out"])
def test_a_file_outside_its_volume_is_not_written(api: NamespaceApi, escape: str) -> None:
    assert make(api).status_code == 201
    api.create(mounting("true", {"secret": {"secretName": "s", "items": [{"key": "k", "path": escape}]}}))
    found = api.wait_phase("p", "Failed")
    assert "cannot hold a file" in json.dumps(found["status"])


def test_a_simulated_pod_writes_no_file(simulated: NamespaceApi) -> None:
    assert make(simulated).status_code == 201
    simulated.create(mounting("true", SECRET))
    simulated.wait_phase("p", "Running")
