"""The Secret that holds the workload of a pod, with `[podrelay] workload_in_secret`. Pure; used by the launcher.

The pod is created first, because the Secret names the pod's uid as its owner: Kubernetes then removes the Secret with the
pod, and at once if the pod is already gone. Until the Secret exists, no container of the pod starts. The Secret's name has a
random part, so that a Secret of this name can only be that of this pod, not of an earlier pod with the same name.
"""

from __future__ import annotations

import base64
import json
import re
import secrets
from collections.abc import Sequence

from podrelay import pod_command
from podrelay.protocol import identifiers
from podrelay.protocol.messages import Json, LaunchRequest
from podrelay_workers.launcher.pod_template import ManifestError

OPTION = "[podrelay] workload_in_secret"
# Where the workload is in the task's container.
FOLDER, FILE = "/var/run/secrets/podrelay", "workload.json"
VOLUME = "podrelay-workload"
_BASE = "base"
_RANDOM_BYTES = 4
_RANDOM = re.compile(r"[0-9a-f]{8}")
# The labels of the pod by which its Secret is found: kubectl get secrets --selector podrelay/deployment=default
_LABELS = (
    identifiers.LABEL_LAUNCH_ID,
    identifiers.LABEL_DEPLOYMENT,
    identifiers.LABEL_CLUSTER,
    identifiers.LABEL_ATTEMPT,
)


def without_workload(request: LaunchRequest) -> LaunchRequest:
    """The request as its pod is rendered: the arguments name the file instead.

    :raises ManifestError: this release does not know the command line.
    """
    if not request.args:
        return request
    args = pod_command.with_file(request.args, f"{FOLDER}/{FILE}")
    if args is None:
        raise ManifestError(
            "UnknownCommand",
            f"{OPTION} is on, and this launch has a command line of another release of podrelay: run schedulers and "
            "launchers of the same release.",
        )
    return request.replaced(args=args)


def with_volume(pod: Json) -> Json:
    """The pod with the volume of its workload, mounted into the task's container. The given pod is not modified."""
    metadata, spec = pod["metadata"], pod["spec"]
    name = f"{metadata['name']}-{secrets.token_hex(_RANDOM_BYTES)}"
    annotations = {**(metadata.get("annotations") or {}), identifiers.ANNOTATION_WORKLOAD_SECRET: name}
    volume = {"name": VOLUME, "secret": {"secretName": name}}
    mount = {"name": VOLUME, "mountPath": FOLDER, "readOnly": True}
    containers = list(spec["containers"])
    at = base_container_index(containers)
    containers[at] = {**containers[at], "volumeMounts": [*_others(containers[at], "volumeMounts"), mount]}
    spec = {**spec, "containers": containers, "volumes": [*_others(spec, "volumes"), volume]}
    return {**pod, "metadata": {**metadata, "annotations": annotations}, "spec": spec}


def without_volume(pod: Json) -> Json:
    """The pod before `with_volume`. The given pod is not modified."""
    metadata, spec = pod["metadata"], pod["spec"]
    annotations = metadata.get("annotations") or {}
    if identifiers.ANNOTATION_WORKLOAD_SECRET not in annotations:
        return pod
    annotations = {name: value for name, value in annotations.items() if name != identifiers.ANNOTATION_WORKLOAD_SECRET}
    containers = list(spec["containers"])
    at = base_container_index(containers)
    containers[at] = _without(containers[at], "volumeMounts")
    return {
        **pod,
        "metadata": {**metadata, "annotations": annotations},
        "spec": _without({**spec, "containers": containers}, "volumes"),
    }


def _without(part: Json, field: str) -> Json:
    kept = {name: value for name, value in part.items() if name != field}
    others = _others(part, field)
    return {**kept, field: others} if others else kept


def base_container_index(containers: Sequence[Json]) -> int:
    """Where the task's container is."""
    return next((index for index, container in enumerate(containers) if container.get("name") == _BASE), 0)


def _others(part: Json, field: str) -> list[Json]:
    """The user's own; a template that was copied from a pod holds ours as well."""
    return [item for item in part.get(field) or [] if item.get("name") != VOLUME]


def secret_name_of(pod: Json) -> str:
    """The name of the Secret that this pod of ours mounts its workload from; empty if its arguments hold the workload.

    Whoever may annotate a pod cannot name a Secret of something else here.
    """
    metadata = pod["metadata"]
    name = str((metadata.get("annotations") or {}).get(identifiers.ANNOTATION_WORKLOAD_SECRET) or "")
    prefix, _, random = name.rpartition("-")
    return name if prefix == metadata["name"] and _RANDOM.fullmatch(random) else ""


def secret_of(argument: str, pod: Json) -> Json:
    """The Secret of a pod.

    :param argument: what the file holds: the last argument that the pod would have without a Secret.
    :param pod: as the API server returned it.
    """
    metadata = pod["metadata"]
    labels = metadata.get("labels") or {}
    owner = {"apiVersion": "v1", "kind": "Pod", "name": metadata["name"], "uid": metadata["uid"]}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": secret_name_of(pod),
            "namespace": metadata["namespace"],
            "labels": {label: labels[label] for label in _LABELS if label in labels},
            "ownerReferences": [owner],
        },
        "type": "podrelay/workload",
        # No node has to watch it for changes.
        "immutable": True,
        "data": {FILE: encoded(argument)},
    }


def encoded(argument: str) -> str:
    """The argument as a Secret holds it."""
    return base64.b64encode(_in_ascii(argument).encode()).decode() if argument else ""


def _in_ascii(workload: str) -> str:
    """The same JSON in ASCII: Airflow reads the file in the encoding of the container's locale."""
    return workload if workload.isascii() else json.dumps(json.loads(workload))
