"""Managed fields in what clients get: from whom they come, and that they survive changes and restarts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes

from tests.harness.cluster_api import Json, NamespaceApi, held, pod
from tests.harness.local_cluster import LocalCluster

PARTIAL = {"Accept": "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"}


def managers(found: Json) -> list[str]:
    return [entry["manager"] for entry in found["metadata"]["managedFields"]]


def test_the_client_and_the_kubelet_have_an_entry(simulated: NamespaceApi) -> None:
    created = simulated.request("POST", "", pod(), headers={"User-Agent": "a-client/1.0 (linux)"}).json()
    assert managers(created) == ["a-client"]
    found = simulated.wait_phase("p", "Running")
    assert managers(found) == ["a-client", "kubelet"]
    assert managers(simulated.listing()["items"][0]) == ["a-client", "kubelet"]
    assert managers(simulated.request("GET", "/p", headers=PARTIAL).json()) == ["a-client", "kubelet"]


def test_a_client_may_name_its_manager(simulated: NamespaceApi) -> None:
    assert managers(simulated.create(held(), fieldManager="mine")) == ["mine"]


def test_no_client_changes_them(simulated: NamespaceApi) -> None:
    simulated.create(held("p", {"a": "b"}), fieldManager="mine")
    found = simulated.wait_scheduled("p")
    changed = {**found, "metadata": {**found["metadata"], "managedFields": [], "labels": {"a": "c"}}}
    answer = simulated.request("PUT", "/p", changed).json()
    assert answer["metadata"]["labels"] == {"a": "c"}
    assert answer["metadata"]["managedFields"] == found["metadata"]["managedFields"]
    patched = simulated.patch("p", {"metadata": {"labels": {"a": "d"}, "managedFields": None}}).json()
    assert patched["metadata"]["managedFields"] == found["metadata"]["managedFields"]


def test_they_survive_a_restart(tmp_path: Path) -> None:
    with LocalCluster(tmp_path / "files", data_dir=tmp_path / "data", runner="simulate") as cluster:
        api = NamespaceApi(cluster, "default")
        api.create(held(), fieldManager="mine")
        before = api.wait_scheduled("p")
        cluster.kill()
        cluster.start()
        assert NamespaceApi(cluster, "default").get("p") == before


def test_the_official_client_reads_them(simulated: NamespaceApi) -> None:
    configuration: Any = kubernetes.client.Configuration()
    kubernetes.config.load_kube_config(str(simulated.cluster.kubeconfig), client_configuration=configuration)
    client = kubernetes.client.CoreV1Api(kubernetes.client.ApiClient(configuration))
    client.create_namespaced_pod(simulated.namespace, pod())
    simulated.wait_phase("p", "Running")
    entries = client.read_namespaced_pod("p", simulated.namespace).metadata.managed_fields
    assert [entry.manager for entry in entries] == ["OpenAPI-Generator", "kubelet"]
    assert "f:containers" in entries[0].fields_v1["f:spec"]
