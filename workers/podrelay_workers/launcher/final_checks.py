"""Looked up before a launch fails for good or gets a new token: does its pod exist after all? Does its namespace?

Used by `launch_job`.
"""

from __future__ import annotations

from podrelay.protocol.messages import Json, LaunchRequest
from podrelay_workers.kube.client import PodClient
from podrelay_workers.kube.errors import ApiError, NotFound, Refused
from podrelay_workers.kube.send_guard import SendBlocked, before_send
from podrelay_workers.launcher.error_policy import ErrorPolicy, may_settle
from podrelay_workers.launcher.leased_job import Disposition, Job, created_pod, wait
from podrelay_workers.launcher.leases import Leases
from podrelay_workers.launcher.pod_manifest import ManifestRenderer
from podrelay_workers.launcher.pod_ownership import find_own_pod, find_warm_pod
from podrelay_workers.launcher.pod_template import ManifestError
from podrelay_workers.launcher.unstarted_pod import delete_unstarted
from podrelay_workers.launcher.workload_secret import secret_name_of
from podrelay_workers.runtime.backoff import exponential_s

# The first and the longest wait of a launch that may not fail because nobody says whether its pod exists.
_FIRST_S, _MOST_S = 1.0, 15.0


class FinalChecks:
    """Looks at the API server before a launch is reported as failed or expired."""

    def __init__(self, pods: PodClient, manifests: ManifestRenderer, leases: Leases) -> None:
        self._pods = pods
        self._manifests = manifests
        self._leases = leases

    async def instead_of_failure(
        self, job: Job, request: LaunchRequest, reason: str, message: str, pod: Json | None = None
    ) -> Disposition | None:
        """What to do instead of failing this launch; None: it may fail, because its pod does not exist.

        A launch whose pod may exist never fails: it waits until the API server says whether the pod exists. A job that was
        not tried has a pod only if Redis lost its data since, so that one look is enough, whatever the answer. A warm pod has
        another name than the launch's own, and is found by its labels.

        A pod that mounts a Secret may wait for it in vain: it is deleted, unless it has started.
        """
        before_send.set(None)  # nothing is created any more
        try:
            manifest = pod or await self._manifest(request)
            found = await find_own_pod(self._pods, manifest)
            if found is None and job.warm:
                found = await find_warm_pod(self._pods, manifest)
        except ApiError as error:
            of_another = isinstance(error, Refused) and error.status == 409
            if of_another or not (job.tries or job.warm or _exists(pod)):
                return None
            seconds = exponential_s(job.tries + 1, _FIRST_S, _MOST_S)
            return wait(job, seconds, reason, f"{message}; whether its pod exists is unknown: {error}")
        if found is None:
            return None
        if secret_name_of(found) and not job.unwanted:
            return await self._instead_of_deletion(job, reason, message, found)
        return created_pod(job, found)

    async def _instead_of_deletion(self, job: Job, reason: str, message: str, pod: Json) -> Disposition | None:
        """None: the pod had not started, and was deleted."""
        before_send.set(lambda: self._check_lease(job))
        seconds = exponential_s(job.tries + 1, _FIRST_S, _MOST_S)
        try:
            return None if await delete_unstarted(self._pods, pod) else created_pod(job, pod)
        except SendBlocked:
            return wait(job, seconds, reason, message)
        except ApiError as error:
            return wait(job, seconds, reason, f"{message}; its pod cannot be deleted: {error}")
        finally:
            before_send.set(None)

    def _check_lease(self, job: Job) -> None:
        if not self._leases.certainly_holds(job):
            raise SendBlocked

    async def _manifest(self, request: LaunchRequest) -> Json:
        try:
            return await self._manifests.make(request)
        except ManifestError as error:
            return error.pod or self._manifests.identity(request)
        except Exception:  # noqa: BLE001 - a pod that cannot be rendered any more may exist all the same
            return self._manifests.identity(request)

    async def explain(self, error: ApiError, namespace: str, policy: ErrorPolicy) -> tuple[str, str]:
        """Reason and message of a final refusal, with what it does not say: that the namespace does not exist."""
        missing = f"namespace {namespace} does not exist"
        if isinstance(error, NotFound):
            return "NamespaceNotFound", f"{missing}: {policy.message}"
        if not may_settle(error) or policy.reason != "PodRefused":
            return policy.reason, policy.message
        before_send.set(None)
        try:
            await self._pods.get_namespace(namespace)
        except NotFound:
            return "NamespaceNotFound", f"{missing}: {policy.message}"
        except ApiError:
            unknown = f"either {missing}, or the launcher's user has no Role there that allows this"
            return policy.reason, f"{unknown}: {policy.message}"
        return policy.reason, policy.message


def _exists(pod: Json | None) -> bool:
    """Did the API server return this pod? A manifest has no uid."""
    return pod is not None and "uid" in pod["metadata"]
