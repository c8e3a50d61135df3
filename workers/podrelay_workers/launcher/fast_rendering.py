"""Pure: the manifest of a launch from a template that was merged once, and what podrelay adds to every manifest.

For launches without pod_override where there is no pod_mutation_hook. `template_proof` compares its result with that of the
provider's construct_pod before it is used. Used by `pod_manifest` and `provider_rendering`.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import lru_cache

from podrelay.protocol import identifiers
from podrelay.protocol.identifiers import mended_label
from podrelay.protocol.messages import Json, LaunchRequest

# dag id, task id, run id, try number, map index: the arguments of construct_pod and the source of its labels.
Coordinates = tuple[str, str, "str | None", int, int]

_LABEL_MAX = 63
_HASH_LENGTH = 9
_UNSAFE = re.compile(r"^[^a-z0-9A-Z]*|[^a-zA-Z0-9_\-\.]|[^a-z0-9A-Z]*$")


@dataclass(frozen=True)
class PodFields:
    """What does not follow from a launch: the deployment, and the image of launches that request none."""

    deployment: str
    image: str | None = None

    def image_of(self, request: LaunchRequest) -> str | None:
        return request.image or self.image

    def labels(self, request: LaunchRequest) -> dict[str, str]:
        labels = {
            identifiers.LABEL_LAUNCH_ID: request.launch_id,
            identifiers.LABEL_DEPLOYMENT: self.deployment,
            identifiers.LABEL_CLUSTER: identifiers.cluster_label(request.cluster),
            identifiers.LABEL_ATTEMPT: str(request.attempt),
        }
        if request.known_by_id:
            labels[identifiers.LABEL_TASK_INSTANCE] = request.subject
        return labels


class Skeleton:
    """A pod that is complete but for the fields of its launch."""

    def __init__(self, pod: Json) -> None:
        self._pod = pod
        self._metadata = pod["metadata"]
        self._spec = pod["spec"]
        self._base, *self._sidecars = self._spec["containers"]

    def filled(self, request: LaunchRequest, fields: PodFields) -> Json:
        """The pod of this launch. Unchanged parts are shared by all pods and must not be modified."""
        dag_id, task_id, run_id, try_number, map_index = coordinates(request)
        metadata = dict(self._metadata)
        metadata["name"] = pod_name(request)
        if request.namespace:
            metadata["namespace"] = request.namespace
        metadata["labels"] = {**self._metadata["labels"], **_task_labels(request), **fields.labels(request)}
        annotations = {
            **self._metadata["annotations"],
            "dag_id": dag_id,
            "task_id": task_id,
            "try_number": str(try_number),
        }
        if map_index >= 0:
            annotations["map_index"] = str(map_index)
        if run_id:
            annotations["run_id"] = run_id
        metadata["annotations"] = {**annotations, **our_annotations(request)}
        container = {**self._base, "args": list(request.args)}
        image = fields.image_of(request)
        if image:
            container["image"] = image
        return {**self._pod, "metadata": metadata, "spec": {**self._spec, "containers": [container, *self._sidecars]}}


@dataclass(frozen=True)
class Proof:
    """What the provider says about one version of a template.

    `skeleton` is None if every pod of it is to be made by construct_pod. `refusal`, reason and message, if none can be made.
    """

    skeleton: Skeleton | None = None
    refusal: tuple[str, str] | None = None


def coordinates(request: LaunchRequest) -> Coordinates:
    """The coordinates of a task; a callback or a connection test has none and is named after its kind."""
    if request.key:
        dag_id, task_id, run_id, try_number, map_index = request.key
        return dag_id, task_id, run_id, try_number, map_index
    return request.kind, request.subject or request.launch_id, None, 1, -1


def pod_name(request: LaunchRequest) -> str:
    """The pod's name, which depends on the request alone, so that every launcher derives the same one (invariant I1,
    docs/architecture.md).
    """
    prefix = ((request.pod_override or {}).get("metadata") or {}).get("name")
    if not prefix:
        dag_id, task_id, *_ = coordinates(request)
        prefix = f"{dag_id}-{task_id}"
    return identifiers.pod_name(str(prefix), request.launch_id, request.attempt)


def our_annotations(request: LaunchRequest) -> dict[str, str]:
    annotations = {identifiers.ANNOTATION_SUBJECT: request.subject}
    if request.known_by_id:
        annotations[identifiers.ANNOTATION_TASK_INSTANCE] = request.subject
    return annotations


def _task_labels(request: LaunchRequest) -> dict[str, str]:
    """As `podrelay.pod_labels` makes them with the provider; those that are the same for every launch are in the skeleton."""
    dag_id, task_id, run_id, try_number, map_index = coordinates(request)
    labels = {
        "dag_id": _label(dag_id),
        "task_id": _label(task_id),
        "try_number": mended_label(str(try_number)),
        "airflow-worker": _label(str(request.owner)),
    }
    if map_index >= 0:
        labels["map_index"] = str(map_index)
    if run_id:
        labels["run_id"] = _label(run_id)
    return labels


@lru_cache(1024)  # a DAG's name, its run's and its scheduler's come with each of its tasks
def _label(text: str) -> str:
    """Any text as the value of a label: what Kubernetes forbids is left out, and a hash keeps similar texts distinct."""
    safe = _UNSAFE.sub("", text)
    if len(safe) > _LABEL_MAX or safe != text:
        digest = hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()[:_HASH_LENGTH]
        safe = f"{safe[: _LABEL_MAX - _HASH_LENGTH - 1]}-{digest}"
    return mended_label(safe)
