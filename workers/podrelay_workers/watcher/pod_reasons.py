"""Pure: the reasons that Kubernetes gives for a pod's state, and what each means. Used by `pod_state` and `pod_lookups`.

A reason that is in no table here is an ordinary failure of the task (`application`).
"""

from __future__ import annotations

import re
from typing import Any

from podrelay.protocol.messages import FailureClass, PodReport
from podrelay_workers.watcher.pod_view import latest_warning

# Reasons that podrelay gives where Kubernetes has none.
POD_DELETED = "PodDeleted"
POD_VANISHED = "PodVanished"
NODE_NOT_RESPONDING = "NodeNotResponding"
UNSCHEDULABLE = "Unschedulable"

# An end that Kubernetes itself brought about: another try may well succeed.
INFRASTRUCTURE = frozenset(
    {
        "Evicted", "Preempted", "Preempting", "Shutdown", "NodeShutdown", "Terminated", "NodeLost", "NodeAffinity",
        "UnexpectedAdmissionError", "OutOfcpu", "OutOfmemory", "OutOfpods", "OutOfephemeral-storage", "ProviderFailed",
        "ContainerStatusUnknown", POD_DELETED, POD_VANISHED, "DisruptionTarget", "PreemptionByScheduler",
        "DeletionByTaintManager", "EvictionByEvictionAPI", "DeletionByPodGC", "TerminationByKubelet",
        # A kubelet's refusals of a pod that fits another node, or this one later; OutOf<any resource> beside them.
        "NodeName", "NodePorts", "TaintToleration", "TopologyAffinityError", "InvalidNodeInfo", "UnknownReason",
        "UnexpectedPredicateFailureType", "VolumeAttachmentLimitExceeded",
    }
)  # fmt: skip
# What the pod asks for does not exist or cannot be run: only a change of image, template or secret helps.
CONFIGURATION = frozenset(
    {
        "ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError",
        "RegistryUnavailable", "CreateContainerConfigError", "CreateContainerError", "StartError",
        "ContainerCannotRun", "RunContainerError", "CreatePodSandboxError", UNSCHEDULABLE, "SysctlForbidden", "AppArmor",
        "PodOSNotSupported", "PodOSSelectorNodeLabelDoesNotMatch", "PodFeatureUnsupported", "PodLevelResourcesNotSupported",
        "SupplementalGroupsPolicyNotSupported", "InitContainerRestartPolicyForbidden", "SignatureValidationFailed",
        "PreCreateHookError", "PreStartHookError",
    }
)  # fmt: skip
# A container with one of these never ran, although its state is "terminated".
NEVER_RAN = frozenset({"StartError", "ContainerCannotRun", "RunContainerError"})
# Normal steps of a start: reported only when they take long.
STARTING = frozenset({"ContainerCreating", "PodInitializing"})
BACK_OFF = "ImagePullBackOff"
# Kubernetes 1.32 and later: `Back-off pulling image "x": ErrImagePull: not found`.
_REPEATED = re.compile(r'Back-off pulling image "(?:[^"\\]|\\.)*": (\w{1,100})(?:: |$)')
# Causes that pass by themselves, in the words of kubelet, container runtimes, registries and Go's network library.
_PASSING = re.compile(
    r"pull QPS exceeded|too ?many ?requests|\b429\b(?= \w)|\bstatus(?: ?code)?:? *(?:429|5\d\d)\b"
    r"|\b5\d\d (?:internal server error|bad gateway|service (?:temporarily )?unavailable|gateway time-?out)"
    r"|\bcode = (?:unavailable|deadlineexceeded|aborted|canceled)\b|deadline exceeded|(?:context|request) canceled"
    r"|(?:i/o|handshake) timeout|timeout exceeded|timed out|awaiting headers|connection (?:refused|reset|timed out)"
    r"|no route to host|(?:network|host) is (?:unreachable|down)|broken pipe|\bEOF\b|closed network connection"
    r"|temporary failure in name resolution|server misbehaving|registry is (?:temporarily )?unavailable",
    re.IGNORECASE,
)
# Names of images and addresses, which may hold any of these words.
_NAMES = re.compile(r'"[^"]*"|\bhttps?://\S+')


def failure_class(reason: str, container_reason: str = "") -> FailureClass:
    """Who has to act on this failure: the platform (retry), the author of image or template, or the task's author."""
    if reason in INFRASTRUCTURE or reason.startswith("OutOf") or container_reason == "ContainerStatusUnknown":
        return "infrastructure"
    return "configuration" if reason in CONFIGURATION or container_reason in CONFIGURATION else "application"


def repeated_error(message: str) -> str:
    """The error that a back-off repeats, by its message; empty where it names none."""
    match = _REPEATED.match(message)
    return match[1] if match else ""


def is_passing(message: str) -> bool:
    """Does this message give a cause that passes by itself: a limit on pulls, a registry that fails, a timeout, the network?
    It is never fatal, however long it lasts.
    """
    return _PASSING.search(_NAMES.sub("", message)) is not None


def add_event_reason(report: PodReport, events: list[Any]) -> PodReport:
    """The report with the latest warning of the pod's Kubernetes events as its reason; the same object without a warning."""
    warning = latest_warning(events)
    if warning is None:
        return report
    return report.replaced(reason=warning.reason or report.reason, message=warning.message or report.message)
