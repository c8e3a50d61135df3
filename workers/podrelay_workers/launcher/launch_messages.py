"""The messages that a launcher makes about a launch: its report, and the order to revoke its pod. Pure; for `launch_job`."""

from __future__ import annotations

import time

from podrelay.protocol import identifiers
from podrelay.protocol.messages import CleanupRequest, FailureClass, Json, LaunchRequest, Outcome, PodReport
from podrelay_workers.launcher.leased_job import Disposition, QuotaNotice
from podrelay_workers.launcher.pod_ownership import namespace_of


def launch_report(
    request: LaunchRequest, outcome: Outcome, reason: str, message: str, failure_class: FailureClass = ""
) -> PodReport:
    """A report about a launch that has no pod."""
    return PodReport(
        request.launch_id, request.attempt, outcome, reason=reason, message=message, failure_class=failure_class,
        namespace=request.namespace, seen_at_s=time.time(), cluster=request.cluster,
    )  # fmt: skip


def revocation_of(request: LaunchRequest, pod: Json) -> CleanupRequest:
    """Revoke the pod that a request may have created after all."""
    return CleanupRequest(
        request.launch_id, "revoke", namespace_of(pod), pod["metadata"]["name"], cluster=request.cluster
    )


def quota_report(notice: QuotaNotice) -> PodReport:
    return PodReport(notice.launch_id, notice.attempt, "pending", reason=notice.reason, message=notice.message)


def discard_of(disposition: Disposition, cluster: str) -> tuple[CleanupRequest, int]:
    """The deletion of a pod whose launch is no longer wanted, unless it has started; and the attempt of the pod.

    :param disposition: `created`.
    """
    pod, namespace, uid = map(str, disposition.args[:3])
    launch_id, attempt = identifiers.parse_job_id(disposition.job.id) or ("", 0)
    request = CleanupRequest(
        launch_id, "revoke", namespace, pod, uid, cluster=cluster, unless_started=True, attempt=attempt
    )
    return request, attempt
