"""The manifest of a launch by the provider's PodGenerator.construct_pod: template, executor's fields, override, hook.

Correct by definition; takes milliseconds. Imports Airflow and the models of Kubernetes, so `pod_manifest` loads this module
by name, and only when a launch needs it.
"""

from __future__ import annotations

import copy
import logging
from typing import Any

import yaml
from airflow.providers.cncf.kubernetes.exceptions import PodMutationHookException, PodReconciliationError
from kubernetes.client import ApiClient, Configuration

from podrelay import pod_command
from podrelay.pod_labels import LabelledPodGenerator
from podrelay.protocol.messages import Json, LaunchRequest
from podrelay_workers.launcher.fast_rendering import PodFields, Skeleton, coordinates, our_annotations, pod_name
from podrelay_workers.launcher.pod_template import ManifestError, PodTemplates

log = logging.getLogger(__name__)

_sanitize = ApiClient(configuration=Configuration()).sanitize_for_serialization


def _task(dag_id: str, task_id: str, run_id: str, try_number: int, map_index: int, **more: Any) -> LaunchRequest:
    args = pod_command.with_argument("{}")
    return LaunchRequest(
        "y", 0, "task", subject="ti", key=(dag_id, task_id, run_id, try_number, map_index), args=args,
        **{"owner": "1", **more},
    )  # fmt: skip


# The launch that a template is merged with for fast rendering, and those that prove the result.
_EMPTY = LaunchRequest("x", 0, "task", subject="", key=("x", "x", "", 0, -1), owner="", args=("x",), namespace="")
_SAMPLES = (
    _task("dag", "task", "run", 1, 0),
    _task(
        "-d\u00e4g / " * 9,
        "t" * 250,
        "manual__2026-11-20T00:00:00+00:00",
        12,
        -1,
        owner="a b",
        namespace="x",
        image="y",
    ),
    LaunchRequest("y", 3, "callback", subject="0192-77", key=(), owner="17", args=("x",), namespace="x"),
)


def construct_manifest(document: Json, request: LaunchRequest, fields: PodFields) -> Json:
    """The pod of a launch, with podrelay's name, labels and annotations.

    :param document: the template.
    :raises ManifestError: there can be no pod; the message gives the reason.
    """
    body = _construct(document, request, fields)
    metadata = body.setdefault("metadata", {})
    # A hook cannot change the name and labels that keep a launch from having two pods (invariant I1,
    # docs/architecture.md).
    metadata["name"] = pod_name(request)
    metadata["labels"] = {**(metadata.get("labels") or {}), **fields.labels(request)}
    metadata["annotations"] = {**(metadata.get("annotations") or {}), **our_annotations(request)}
    return body


def _construct(document: Json, request: LaunchRequest, fields: PodFields) -> Json:
    dag_id, task_id, run_id, try_number, map_index = coordinates(request)
    try:
        # Deserialised for each pod, because a merged pod shares parts with its sources.
        base = LabelledPodGenerator.deserialize_model_dict(copy.deepcopy(document))
        override = request.pod_override and LabelledPodGenerator.deserialize_model_dict(
            copy.deepcopy(request.pod_override)
        )
        pod = LabelledPodGenerator.construct_pod(
            dag_id=dag_id,
            task_id=task_id,
            pod_id=pod_name(request),
            try_number=try_number,
            kube_image=fields.image_of(request),  # type: ignore[arg-type]
            date=None,
            args=list(request.args),
            pod_override_object=override or None,
            base_worker_pod=base,
            namespace=request.namespace,
            scheduler_job_id=request.owner,
            run_id=run_id,
            map_index=map_index,
            with_mutation_hook=True,
        )
        return _sanitize(pod)
    except PodMutationHookException as error:
        raise ManifestError("PodMutationHookException", f"pod_mutation_hook failed: {_cause(error)}") from error
    except PodReconciliationError as error:
        raise ManifestError(
            "PodReconciliationError", f"template and pod_override do not merge: {_cause(error)}"
        ) from error
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a template or an override may hold anything
        raise ManifestError("InvalidPod", f"template or pod_override is not a pod: {_cause(error)}") from error


def _cause(error: BaseException) -> str:
    cause = error.__cause__ or error
    return f"{type(cause).__name__}: {cause}" if str(cause) else type(cause).__name__


def prove(argument: Json) -> Json:
    """Merge a template for fast rendering, and compare the result with that of construct_pod. For `airflow_child.ask`.

    :param argument: `text` of the template's file, `deployment` and `image`.
    :return: `skeleton`, None where the two differ; or `reason` and `message` of a template that is no pod.
    """
    document, fields = yaml.safe_load(argument["text"]), PodFields(argument["deployment"], argument["image"])
    try:
        merged = _construct(document, _EMPTY, fields)
        skeleton = Skeleton(merged)
        same = all(skeleton.filled(one, fields) == construct_manifest(document, one, fields) for one in _SAMPLES)
    except ManifestError as error:
        return {"reason": error.reason, "message": str(error)}
    if not same:
        log.warning("Fast rendering disabled for a pod template: its result differs from that of construct_pod")
    return {"skeleton": merged if same else None}


def prove_file(argument: Json) -> Json:
    """`prove` the template in a file, and return its `text` as well.

    :param argument: as of `prove`, with the `path` instead of the text.
    :raises ManifestError: the file cannot be read.
    """
    text = PodTemplates(argument["path"]).get(None).text
    return {"text": text, **prove({**argument, "text": text})}
