"""Is there a pod of this launch already, and is a pod that was found really of it? Used by the launcher."""

from __future__ import annotations

from typing import Any

from podrelay.protocol import identifiers
from podrelay.protocol.messages import CleanupRequest
from podrelay_workers.kube.client import PodClient
from podrelay_workers.kube.errors import NotFound, Refused

Json = dict[str, Any]

_MARK = (identifiers.LABEL_LAUNCH_ID, identifiers.LABEL_DEPLOYMENT, identifiers.LABEL_ATTEMPT)


async def find_own(pods: PodClient, pod: Json) -> Json | None:
    """The pod that an earlier request made of this very body, also where it is ending by now; None where there is none.

    :raises Refused: a stranger's pod has the name.
    """
    name, namespace = pod["metadata"]["name"], namespace_of(pod)
    try:
        found = await pods.get_pod(namespace, name)
    except NotFound:
        return None
    labels, ours = found["metadata"].get("labels") or {}, pod["metadata"]["labels"]
    if all(labels.get(label) == ours[label] for label in _MARK):
        return found
    raise Refused(f"a pod named {name} is in namespace {namespace} and is not of this launch", status=409)


def why_not_of(request: CleanupRequest, deployment: str, pod: Json) -> str:
    """Pure: why this pod, as the API server has it, is not the one of that clean-up; empty where it is."""
    labels = pod["metadata"].get("labels") or {}
    expected = (request.launch_id, deployment, str(identifiers.attempt_of_pod(request.pod, request.launch_id)))
    for label, value in zip(_MARK, expected, strict=True):
        if labels.get(label) != value:
            return f"its pod says another {label} of itself"
    subject = (pod["metadata"].get("annotations") or {}).get(identifiers.ANNOTATION_SUBJECT)
    if request.subject not in (None, subject):
        return f"its pod says another {identifiers.ANNOTATION_SUBJECT} of itself"
    return ""


def namespace_of(pod: Json) -> str:
    return str(pod["metadata"].get("namespace") or "default")
