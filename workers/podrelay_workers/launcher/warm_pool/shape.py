"""The shape of a pod: what launches may share. The idle pod of a shape, and the patch that gives it to a launch. Pure.

A shape is a hash over the rendered pod without what identifies its task. So templates, overrides, images and mutation hooks
need no rule here: whatever differs between two pods makes two shapes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

from podrelay import pod_command
from podrelay.protocol import identifiers
from podrelay.protocol.messages import Json, LaunchRequest, WarmShape
from podrelay_workers.launcher.workload_secret import base_container_index, without_volume

_DIGITS = 16
# What the stock executor and podrelay write about a task. The idle pod has none of it: `airflow kubernetes cleanup-pods`,
# adoption and the stock executor find tasks by these labels.
_OF_TASK = frozenset(
    {
        "dag_id", "task_id", "run_id", "try_number", "map_index", "execution_date", "logical_date", "airflow_version",
        "kubernetes_executor", identifiers.LABEL_WORKER, identifiers.LABEL_LAUNCH_ID, identifiers.LABEL_ATTEMPT,
        identifiers.LABEL_TASK_INSTANCE, identifiers.ANNOTATION_TASK_INSTANCE, identifiers.ANNOTATION_SUBJECT,
    }
)  # fmt: skip
# Set for each pod of ours, of whatever launch: no part of the shape.
_OF_DEPLOYMENT = frozenset({identifiers.LABEL_DEPLOYMENT, identifiers.LABEL_CLUSTER})
# A container that reads these of its own pod reads them when it starts, before the task is known.
_READS_ITS_LABELS = ("metadata.labels", "metadata.annotations")


def shape_of(request: LaunchRequest, pod: Json) -> WarmShape | None:
    """The shape of this launch's pod; None: only a new pod can run it.

    :param pod: as it would be created.
    """
    if request.kind != "task" or not pod_command.runs_task(request.args) or obstacle_of(request.args, pod):
        return None
    pod = without_volume(pod)
    skeleton = _skeleton(pod)
    whose = {"namespace": pod["metadata"].get("namespace") or "default", "cluster": request.cluster}
    text = json.dumps([skeleton, whose], sort_keys=True, separators=(",", ":"))
    shape = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS]
    return WarmShape(shape, skeleton, request.cluster)


def obstacle_of(args: Sequence[str], pod: Json) -> str:
    """What keeps a pod of this kind from running a task that it was not created for; empty if nothing does.

    :param args: of the launch, which the pod has as well unless a hook has replaced them.
    """
    spec = pod["spec"]
    if not pod_command.is_same(args, _base(spec).get("args") or ()):
        return "pod_mutation_hook replaces its arguments"
    if spec.get("restartPolicy") != "Never" or _base(spec).get("restartPolicy") not in (None, "Never"):
        return "its restartPolicy is not Never"
    if _base(spec).get("restartPolicyRules"):
        return "its restartPolicyRules may restart its container"
    if spec.get("activeDeadlineSeconds") is not None:
        return "its activeDeadlineSeconds would count the time before its task"
    if any(path.startswith(_READS_ITS_LABELS) for path in _field_paths(spec)):
        return "a container of it reads the labels or annotations of its pod (fieldRef), which come with the task"
    return ""


def _base(spec: Json) -> Json:
    containers = spec["containers"]
    found: Json = containers[base_container_index(containers)]
    return found


def _field_paths(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        path = value.get("fieldPath")
        if isinstance(path, str):
            yield path
        for part in value.values():
            yield from _field_paths(part)
    elif isinstance(value, list):
        for part in value:
            yield from _field_paths(part)


def _skeleton(pod: Json) -> Json:
    metadata = {name: value for name, value in pod["metadata"].items() if name != "name"}
    for part in ("labels", "annotations"):
        metadata[part] = _own(metadata.get(part) or {}, _OF_TASK | _OF_DEPLOYMENT)
    containers = list(pod["spec"]["containers"])
    at = base_container_index(containers)
    containers[at] = {name: value for name, value in containers[at].items() if name != "args"}
    return {**pod, "metadata": metadata, "spec": {**pod["spec"], "containers": containers}}


def _own(values: Json, foreign: frozenset[str]) -> Json:
    return {name: value for name, value in values.items() if name not in foreign}


# --- the idle pod -----------------------------------------------------------------------------------------------------
def idle_pod(shape: WarmShape, name: str, warm_id: str, args: Sequence[str], *, deployment: str) -> Json:
    """An idle pod of this shape. It has the labels of its template, and those by which podrelay finds it."""
    metadata, spec = shape.skeleton["metadata"], shape.skeleton["spec"]
    labels = {
        **metadata["labels"],
        identifiers.LABEL_DEPLOYMENT: deployment,
        identifiers.LABEL_CLUSTER: identifiers.cluster_label(shape.cluster),
        identifiers.LABEL_WARM: warm_id,
        identifiers.LABEL_IDLE: shape.shape,
    }
    # So that the map exists, which a JSON patch cannot create without replacing it.
    annotations = {**metadata["annotations"], identifiers.ANNOTATION_SUBJECT: ""}
    containers = list(spec["containers"])
    at = base_container_index(containers)
    containers[at] = {**containers[at], "args": list(args)}
    return {
        **shape.skeleton,
        "metadata": {**metadata, "name": name, "labels": labels, "annotations": annotations},
        "spec": {**spec, "containers": containers},
    }


# --- assignment -------------------------------------------------------------------------------------------------------
def assignment_patch(pod: Json, uid: str, shape: str) -> list[Json]:
    """The JSON patch that makes the idle pod with this uid the pod of a launch; refused unless it is that pod, and idle.

    It adds what the launch's own pod would have, and keeps what others added meanwhile.

    :param pod: the launch's pod, as it would be created.
    """
    metadata = without_volume(pod)["metadata"]
    idle = f"/metadata/labels/{_escaped(identifiers.LABEL_IDLE)}"
    patch: list[Json] = [
        {"op": "test", "path": "/metadata/uid", "value": uid},
        {"op": "test", "path": idle, "value": shape},
        {"op": "remove", "path": idle},
    ]
    for part in ("labels", "annotations"):
        for name, value in (metadata.get(part) or {}).items():
            patch.append({"op": "add", "path": f"/metadata/{part}/{_escaped(name)}", "value": value})
    return patch


def _escaped(name: str) -> str:
    """As RFC 6901 writes a key in a JSON pointer."""
    return name.replace("~", "~0").replace("/", "~1")
