"""What the API server says of a warm pod: why it is not ready, whether it is idle or ending. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from podrelay.protocol import identifiers
from podrelay.protocol.mailbox import EXIT_UNUSED
from podrelay.protocol.messages import Json, WarmPod
from podrelay_workers.launcher.workload_secret import base_container_index

# Later pods of the shape will not start either; this one was lost by no fault of its own; it may yet become ready.
Kind = Literal["refused", "lost", "waiting"]

# A container that runs this long without a word to Redis will not say one.
SILENT_S = 60.0
_REFUSED = frozenset(
    {
        "ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError",
        "RegistryUnavailable", "CreateContainerConfigError", "CreateContainerError", "StartError", "ContainerCannotRun",
        "RunContainerError", "SignatureValidationFailed",
    }
)  # fmt: skip
# An unused pod of a launch that ended so long ago was reported, and replaced.
UNUSED_S = 600.0
_SIGNALLED = 128
_TEXT_MAX = 300
_REACHES_REDIS = "does it reach Redis? [podrelay] redis_url of the pod's template or image decides"
_HAS_PODRELAY = "is podrelay installed in the image, in the launcher's release?"


def trouble_of(pod: Json | None, age_s: float) -> tuple[Kind, str]:
    """What is wrong with a pod that is not ready, and what to do about it; None: the pod is gone.

    :param age_s: since it was created.
    """
    if pod is None:
        return "lost", "it is gone"
    status = pod.get("status") or {}
    container = _base_status(pod, status)
    state = container.get("state") or {}
    ended, waits = state.get("terminated"), state.get("waiting") or {}
    if isinstance(ended, dict):
        return _of_end(ended)
    if pod["metadata"].get("deletionTimestamp") or status.get("phase") in ("Succeeded", "Failed"):
        return "lost", str(status.get("reason") or "it was deleted")[:_TEXT_MAX]
    if waits.get("reason") in _REFUSED:
        return "refused", f"{waits['reason']}: {waits.get('message') or 'no message'}"[:_TEXT_MAX]
    if state.get("running") and age_s > SILENT_S:
        return "refused", f"it has run for {age_s:.0f} s without a sign of life; {_REACHES_REDIS}"
    return "waiting", str(waits.get("reason") or status.get("phase") or "")[:_TEXT_MAX]


def has_ended(pod: Json) -> bool:
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def is_unused(pod: Json, now_s: float) -> bool:
    """Is this warm pod idle, or has it ended long ago without having got a workload? A launch that had it has another
    pod by now.

    :param now_s: wall clock.
    """
    if identifiers.LABEL_IDLE in (pod["metadata"].get("labels") or {}):
        return True
    ended = (_base_status(pod, pod.get("status") or {}).get("state") or {}).get("terminated") or {}
    if ended.get("exitCode") != EXIT_UNUSED:
        return False
    try:
        at = datetime.fromisoformat(str(ended.get("finishedAt")).replace("Z", "+00:00"))
        return now_s - at.timestamp() > UNUSED_S
    except ValueError:
        return False


def _of_end(ended: Json) -> tuple[Kind, str]:
    code, reason = ended.get("exitCode"), str(ended.get("reason") or "")
    if not isinstance(code, int) or code >= _SIGNALLED or code == EXIT_UNUSED:
        hint = f"; {_REACHES_REDIS}" if code == EXIT_UNUSED else ""
        return "lost", f"exit code {code} ({reason}){hint}"
    text = f"exit code {code} ({reason})" if reason else f"exit code {code}"
    said = str(ended.get("message") or "").strip()
    if said:
        text = f"{text}: {said[-_TEXT_MAX:]}"
    return "refused", f"{text}; {_HAS_PODRELAY}"


def _base_status(pod: Json, status: Json) -> Json:
    """The status of the task's container; of an init container where one has failed."""
    for item in _statuses(status, "initContainerStatuses"):
        if _has_failed(item.get("state") or {}):
            return item
    containers = (pod.get("spec") or {}).get("containers") or [{}]
    name = containers[base_container_index(containers)].get("name")
    return next((item for item in _statuses(status, "containerStatuses") if item.get("name") == name), {})


def _statuses(status: Json, field: str) -> list[Json]:
    found = status.get(field)
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def _has_failed(state: Json) -> bool:
    ended, waits = state.get("terminated"), state.get("waiting") or {}
    return waits.get("reason") in _REFUSED or (isinstance(ended, dict) and ended.get("exitCode") not in (0, None))


def is_idle(pod: Json, warm: WarmPod) -> bool:
    """Does Kubernetes show this pod as idle, of this shape?"""
    labels = pod["metadata"].get("labels") or {}
    return labels.get(identifiers.LABEL_IDLE) == warm.shape and identifiers.LABEL_LAUNCH_ID not in labels


def is_ending(pod: Json) -> bool:
    """Has it ended, or is it being deleted or evicted? Then it takes no workload any more."""
    return has_ended(pod) or bool(pod["metadata"].get("deletionTimestamp"))
