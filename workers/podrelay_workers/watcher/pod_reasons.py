"""Pure: the reasons that Kubernetes gives for a pod's state, and what each means. Used by `pod_state` and `pod_lookups`.

A reason that is in no table here is an ordinary failure of the task (`application`).
"""

from __future__ import annotations

from dataclasses import replace
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
# The kubelet alternates between the two while it retries: one wait, not two.
_SAME_WAIT = {"ImagePullBackOff": "ErrImagePull"}
_PULL_QPS = "pull QPS exceeded"


def failure_class(reason: str, container_reason: str = "") -> FailureClass:
    """Who has to act on this failure: the platform (retry), the author of image or template, or the task's author."""
    if reason in INFRASTRUCTURE or reason.startswith("OutOf") or container_reason == "ContainerStatusUnknown":
        return "infrastructure"
    return "configuration" if reason in CONFIGURATION or container_reason in CONFIGURATION else "application"


def wait_of(reason: str) -> str:
    """The wait that this reason belongs to; two reasons of one wait share its grace period."""
    return _SAME_WAIT.get(reason, reason)


def is_pull_limit(reason: str, message: str) -> bool:
    """True for the kubelet's own limit on image pulls, which passes within seconds and is never fatal."""
    return reason == "ErrImagePull" and message == _PULL_QPS


def add_event_reason(report: PodReport, events: list[Any]) -> PodReport:
    """The report with the latest warning of the pod's Kubernetes events as its reason; the same object without a warning."""
    warning = latest_warning(events)
    if warning is None:
        return report
    return replace(report, reason=warning.reason or report.reason, message=warning.message or report.message)
