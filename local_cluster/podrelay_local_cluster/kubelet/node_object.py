"""Pure: the Node object of the one node, and the constants by which everything else refers to that node."""

from __future__ import annotations

import platform

from podrelay_local_cluster.objects import clock, metadata
from podrelay_local_cluster.objects.json_text import Json

NODE_NAME = "local-node"
ADDRESS = "127.0.0.1"

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
NODE_LABELS = {
    "kubernetes.io/hostname": NODE_NAME,
    "kubernetes.io/os": "linux",
    "kubernetes.io/arch": _ARCHITECTURES.get(platform.machine(), platform.machine()),
}
ROOM = {"cpu": "64", "memory": "256Gi", "ephemeral-storage": "1Ti", "pods": "100k"}
"""What the node claims to have. Nothing is measured or enforced; a pod that requests more is not scheduled."""


def node_object() -> Json:
    """The node as a registered kubelet reports it."""
    moment = clock.now_text()
    ready = {
        "type": "Ready",
        "status": "True",
        "reason": "KubeletReady",
        "message": "local cluster runs",
        "lastHeartbeatTime": moment,
        "lastTransitionTime": moment,
    }
    meta = metadata.for_new_object({"metadata": {"name": NODE_NAME, "labels": NODE_LABELS}}, "")
    info = {
        "architecture": NODE_LABELS["kubernetes.io/arch"],
        "operatingSystem": "linux",
        "osImage": platform.platform(terse=True),
        "kernelVersion": platform.release(),
        "containerRuntimeVersion": "local://1",
        "kubeletVersion": "v1.32.0",
        "machineID": "",
        "systemUUID": "",
        "bootID": "",
        "kubeProxyVersion": "",
    }
    addresses = [{"type": "InternalIP", "address": ADDRESS}, {"type": "Hostname", "address": NODE_NAME}]
    status = {"capacity": ROOM, "allocatable": ROOM, "conditions": [ready], "addresses": addresses, "nodeInfo": info}
    return {"apiVersion": "v1", "kind": "Node", "metadata": meta, "spec": {}, "status": status}
