"""Decide by labels and annotations whether a pod belongs to a launch. Used by the job handlers and `pod_creation`."""

from __future__ import annotations

from podrelay.protocol import identifiers
from podrelay.protocol.messages import CleanupRequest, Json
from podrelay_workers.kube.client import PodClient
from podrelay_workers.kube.errors import NotFound, Refused

_OWNERSHIP_LABELS = (identifiers.LABEL_LAUNCH_ID, identifiers.LABEL_DEPLOYMENT, identifiers.LABEL_ATTEMPT)


async def find_own_pod(pods: PodClient, pod: Json) -> Json | None:
    """The pod that an earlier request created from this manifest, even if it is terminating; None if there is none.

    :raises Refused: a pod of that name belongs to something else.
    """
    name, namespace = pod["metadata"]["name"], namespace_of(pod)
    try:
        found = await pods.get_pod(namespace, name)
    except NotFound:
        return None
    if belongs_to(found, pod):
        return found
    raise Refused(f"pod {name} exists in namespace {namespace} and does not belong to this launch", status=409)


def belongs_to(found: Json, pod: Json) -> bool:
    """Pure: do the labels of this pod say that it is of the launch of that manifest?"""
    labels, ours = found["metadata"].get("labels") or {}, pod["metadata"]["labels"]
    return all(labels.get(label) == ours[label] for label in _OWNERSHIP_LABELS)


async def find_warm_pod(pods: PodClient, pod: Json) -> Json | None:
    """The warm pod of the launch of this manifest, whose name does not say so. None if there is none, or only one that was
    given up. The launch's own pod is not meant: the usual way finds it by name, and completes it.
    """
    ours = pod["metadata"]["labels"]
    selector = ",".join(f"{label}={ours[label]}" for label in _OWNERSHIP_LABELS)
    labels = f"{selector},{identifiers.LABEL_WARM},!{identifiers.LABEL_REVOKED}"
    page = await pods.list_page(namespace_of(pod), labels=labels, limit=1)
    return page.items[0] if page.items else None


def mismatch(request: CleanupRequest, attempt: int | None, deployment: str, pod: Json) -> str:
    """Pure: how this pod differs from the one that the clean-up is for; empty if it is that one."""
    labels = pod["metadata"].get("labels") or {}
    expected = (request.launch_id, deployment, str(attempt))
    for label, value in zip(_OWNERSHIP_LABELS, expected, strict=True):
        if labels.get(label) != value:
            return f"the pod has another value of label {label}"
    subject = (pod["metadata"].get("annotations") or {}).get(identifiers.ANNOTATION_SUBJECT)
    if request.subject not in (None, subject):
        return f"the pod has another value of annotation {identifiers.ANNOTATION_SUBJECT}"
    return ""


def namespace_of(pod: Json) -> str:
    """The namespace that a manifest names, else `default`."""
    return str(pod["metadata"].get("namespace") or "default")
