"""The clients people use: kubectl, the official Python client, and kubernetes_asyncio."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes
import kubernetes_asyncio
import pytest

from tests.harness.cluster_api import NamespaceApi, held, pod, state


class Kubectl:
    """The real kubectl with the cluster's kubeconfig."""

    def __init__(self, api: NamespaceApi, cache: Path) -> None:
        self.command = [
            "kubectl",
            "--kubeconfig",
            str(api.cluster.kubeconfig),
            "--cache-dir",
            str(cache),
            "-n",
            api.namespace,
        ]

    def __call__(self, *args: str, stdin: str | None = None) -> str:
        done = subprocess.run(
            [*self.command, *args], input=stdin, capture_output=True, text=True, timeout=30, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def kubectl(api: NamespaceApi, tmp_path: Path) -> Kubectl:
    if shutil.which("kubectl") is None:
        message = "no kubectl on the PATH"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return Kubectl(api, tmp_path)


def test_kubectl(kubectl: Kubectl, api: NamespaceApi) -> None:
    body = pod("p", "sh", "-c", "echo hello; sleep 60")
    assert kubectl("create", "-f", "-", stdin=json.dumps(body)) == "pod/p created\n"
    kubectl("wait", "--for=condition=Ready", "pod/p", "--timeout=20s")
    header, row = kubectl("get", "pods").splitlines()
    assert header.split() == ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]
    assert row.split()[:4] == ["p", "1/1", "Running", "0"]
    assert kubectl("logs", "p") == "hello\n"
    assert kubectl("logs", "p", "--timestamps").endswith("Z hello\n")
    described = kubectl("describe", "pod", "p")
    assert re.search(r"^Status: +Running$", described, re.MULTILINE)
    assert re.search(r"^Events: +<none>$", described, re.MULTILINE)
    assert kubectl("label", "pod", "p", "a=b") == "pod/p labeled\n"
    assert kubectl("get", "pods", "-l", "a=b", "-o", "name") == "pod/p\n"
    assert kubectl("annotate", "pod", "p", "c=d") == "pod/p annotated\n"
    assert kubectl("patch", "pod", "p", "-p", '{"metadata":{"labels":{"a":null}}}') == "pod/p patched\n"
    assert api.get("p")["metadata"].get("labels", {}) == {}
    assert 'pod "p" deleted' in kubectl("delete", "pod", "p", "--grace-period=1")
    assert api.names() == []


def test_kubectl_watch_and_apply(kubectl: Kubectl, api: NamespaceApi) -> None:
    body = json.dumps(held("p"))
    assert kubectl("apply", "-f", "-", stdin=body) == "pod/p created\n"
    api.wait_scheduled("p")
    command = [*kubectl.command, "get", "pods", "-w", "--no-headers"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watch:
        assert watch.stdout is not None
        assert watch.stdout.readline().split()[:3] == ["p", "0/1", "ContainerCreating"]
        api.cluster.end_pod(api.namespace, "p", exit_code=0)
        assert watch.stdout.readline().split()[:3] == ["p", "0/1", "Completed"]
        watch.terminate()
    assert kubectl("apply", "-f", "-", stdin=body) == "pod/p unchanged\n"
    assert "Active" in kubectl("get", "namespaces")
    assert "local-node" in kubectl("get", "nodes")
    assert "local-node" in kubectl("describe", "node", "local-node")
    assert json.loads(kubectl("version", "-o", "json"))["serverVersion"]["gitVersion"] == "v1.32.0"
    assert kubectl("get", "pods", "-A").splitlines()[0].split()[0] == "NAMESPACE"


@pytest.mark.parametrize("kind", ["Pod", "ConfigMap", "Secret", "ServiceAccount", "ResourceQuota", "Namespace"])
def test_kubectl_apply_validates_every_kind(kubectl: Kubectl, api: NamespaceApi, kind: str) -> None:
    body = {"apiVersion": "v1", "kind": kind, "metadata": {"name": f"{api.namespace}-applied"}}
    if kind == "Pod":
        body = held(f"{api.namespace}-applied")
    name = f"{kind.lower()}/{api.namespace}-applied"
    assert kubectl("apply", "-f", "-", stdin=json.dumps(body)) == f"{name} created\n"
    assert kubectl("apply", "-f", "-", stdin=json.dumps(body)) == f"{name} unchanged\n"
    assert name in kubectl("delete", "-f", "-", "--wait=false", stdin=json.dumps(body)).replace(' "', "/")


@pytest.mark.parametrize(
    ("spec", "reason", "text"),
    [
        ({"nodeSelector": {"disk": "none"}}, "FailedScheduling", "1 node(s) didn't match Pod's node affinity/selector"),
        ({"requests": {"cpu": 65}}, "FailedScheduling", "0/1 nodes are available: 1 Insufficient cpu."),
        ({"requests": {"memory": "1Ti", "cpu": "100m"}}, "FailedScheduling", "1 Insufficient memory"),
        ({"limits": {"example.com/gpu": "1"}}, "FailedScheduling", "1 Insufficient example.com/gpu"),
        ({"command": ["no-such-command"]}, "Failed", "no-such-command"),
        ({"envFrom": [{"secretRef": {"name": "absent"}}]}, "Failed", 'Error: secret "absent" not found'),
        (
            {"volumes": [{"name": "v", "secret": {"secretName": "absent"}}]},
            "FailedMount",
            'MountVolume.SetUp failed for volume "v"',
        ),
        ({"restartPolicy": "OnFailure", "command": ["false"]}, "BackOff", "Back-off restarting failed container base"),
    ],
)
def test_kubectl_shows_the_trouble_of_a_pod(
    kubectl: Kubectl, api: NamespaceApi, spec: dict[str, Any], reason: str, text: str
) -> None:
    body = pod("p", "sleep", "60")
    container = body["spec"]["containers"][0]
    container["resources"] = {key: spec.pop(key) for key in ("requests", "limits") if key in spec}
    container.update({key: spec.pop(key) for key in ("command", "envFrom") if key in spec})
    body["spec"].update(spec)
    api.create(body)
    kubectl("wait", "--for=create", f"--field-selector=reason={reason}", "events", "--all", "--timeout=20s")
    header, row = next_rows(kubectl, reason)
    assert header.split() == ["LAST", "SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"]
    assert row.split()[1:4] == ["Normal" if reason == "BackOff" else "Warning", reason, "pod/p"]
    assert text in row
    assert reason in kubectl("describe", "pod", "p").partition("Events:")[2]


def next_rows(kubectl: Kubectl, reason: str) -> tuple[str, str]:
    header, *rows = kubectl("get", "events", f"--field-selector=reason={reason}").splitlines()
    return header, rows[0]


def test_kubectl_shows_an_image_that_cannot_be_pulled(kubectl: Kubectl, api: NamespaceApi) -> None:
    api.cluster.faults(images=[{"pattern": "absent:*"}])
    body = pod("p", "true")
    body["spec"]["containers"][0]["image"] = "absent:1"
    api.create(body)
    api.wait("p", lambda found: state(found).get("waiting", {}).get("reason") == "ImagePullBackOff")
    shown = kubectl("get", "events", "--sort-by=.lastTimestamp")
    assert "LAST SEEN" in shown
    for text in ('Failed to pull image "absent:1"', "Error: ErrImagePull", 'Back-off pulling image "absent:1"'):
        assert shown.count(text) == 1, shown
    api.cluster.faults()
    api.wait_phase("p", "Succeeded")


def test_the_columns_of_other_objects(kubectl: Kubectl, api: NamespaceApi) -> None:
    quotas = f"/api/v1/namespaces/{api.namespace}/resourcequotas"
    assert api.request("POST", quotas, {"metadata": {"name": "q"}, "spec": {"hard": {"pods": 2}}}).status_code == 201
    status = {"status": {"hard": {"pods": "2"}, "used": {"pods": "0"}}}
    merge = {"Content-Type": "application/merge-patch+json"}
    assert api.request("PATCH", f"{quotas}/q/status", status, headers=merge).status_code == 200
    assert re.search(r"^q +pods: 0/2 ", kubectl("get", "quota"), re.MULTILINE)
    for kind in ("Secret", "ConfigMap"):
        body = {"apiVersion": "v1", "kind": kind, "metadata": {"name": kind[0].lower()}, "data": {"a": "YQ=="}}
        kubectl("apply", "-f", "-", stdin=json.dumps(body))
    assert re.search(r"^s +Opaque +1 ", kubectl("get", "secrets"), re.MULTILINE)
    assert re.search(r"^c +1 ", kubectl("get", "configmaps"), re.MULTILINE)


def test_official_client(api: NamespaceApi) -> None:
    client = kubernetes.config.new_client_from_config(str(api.cluster.kubeconfig))
    core = kubernetes.client.CoreV1Api(client)
    version = core.list_namespaced_pod(api.namespace).metadata.resource_version
    core.create_namespaced_pod(api.namespace, pod("p", "sh", "-c", "echo hi; exit 2"))
    watch = kubernetes.watch.Watch()
    phases = []
    for event in watch.stream(core.list_namespaced_pod, api.namespace, resource_version=version, timeout_seconds=20):
        phases.append((event["type"], event["object"].status.phase))
        if phases[-1][1] == "Failed":
            watch.stop()
    assert phases[0] == ("ADDED", "Pending")
    found = core.read_namespaced_pod("p", api.namespace)
    assert found.status.container_statuses[0].state.terminated.exit_code == 2
    # Version 36 of the client returns the repr of bytes when it decodes a log itself.
    assert core.read_namespaced_pod_log("p", api.namespace, _preload_content=False).data == b"hi\n"
    with pytest.raises(kubernetes.client.ApiException) as caught:
        core.create_namespaced_pod(api.namespace, pod("p", "true"))
    assert (caught.value.status, json.loads(caught.value.body)["reason"]) == (409, "AlreadyExists")
    core.patch_namespaced_pod("p", api.namespace, {"metadata": {"labels": {"a": "b"}}})
    options = kubernetes.client.V1DeleteOptions(preconditions=kubernetes.client.V1Preconditions(uid=found.metadata.uid))
    core.delete_namespaced_pod("p", api.namespace, body=options)
    assert core.list_namespaced_pod(api.namespace).items == []
    client.close()


def test_asyncio_client(api: NamespaceApi) -> None:
    async def run() -> int:
        configuration = kubernetes_asyncio.client.Configuration()
        await kubernetes_asyncio.config.load_kube_config(
            str(api.cluster.kubeconfig), client_configuration=configuration
        )
        async with kubernetes_asyncio.client.ApiClient(configuration) as client:
            core = kubernetes_asyncio.client.CoreV1Api(client)
            body: Any = pod("p", "sh", "-c", "exit 3")
            await core.create_namespaced_pod(api.namespace, body)
            watch = kubernetes_asyncio.watch.Watch()
            async with watch.stream(core.list_namespaced_pod, api.namespace, timeout_seconds=20) as events:
                async for event in events:
                    if event["object"].status.phase == "Failed":
                        break
            found = await core.read_namespaced_pod("p", api.namespace)
            return int(found.status.container_statuses[0].state.terminated.exit_code)

    assert asyncio.run(run()) == 3
    assert state(api.get("p"))["terminated"]["exitCode"] == 3
