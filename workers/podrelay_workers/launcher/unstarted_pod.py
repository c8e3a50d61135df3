"""Whether a pod has started, and the deletion of one that has not. Used by the job handlers."""

from __future__ import annotations

from podrelay.protocol import identifiers
from podrelay.protocol.messages import Json
from podrelay_workers.kube.client import PodClient
from podrelay_workers.kube.errors import Conflict, NotFound
from podrelay_workers.launcher.pod_ownership import namespace_of

# How often a pending pod may change, while it is scheduled and its containers are created, before its deletion waits.
READS_MAX = 5


def has_started(pod: Json) -> bool:
    """Pure: does a container of this pod run, or has one ended? A pod that has ended counts, with any outcome."""
    status = pod.get("status") or {}
    if status.get("phase") in ("Running", "Succeeded", "Failed"):
        return True
    containers = status.get("containerStatuses")
    items = [item for item in containers if isinstance(item, dict)] if isinstance(containers, list) else []
    states = [state for item in items if isinstance(state := item.get("state"), dict)]
    return any(state.get(what) for state in states for what in ("running", "terminated"))


async def delete_unstarted(pods: PodClient, pod: Json) -> bool:
    """Delete a pod that its launcher gives up, unless one of its containers has started; whether it is gone or terminating.

    It is labelled as revoked first, so that no watcher reports its end. Each write names the resource version at which no
    container had started, so that the API server checks this in the same step.

    :raises Conflict: the pod changes faster than it can be deleted.
    :raises ApiError: the pod may exist.
    """
    namespace, name, uid = namespace_of(pod), pod["metadata"]["name"], pod["metadata"]["uid"]
    revoked = {"labels": {identifiers.LABEL_REVOKED: "True"}, "uid": uid}
    try:
        for _ in range(READS_MAX):
            if has_started(pod):
                return False
            try:
                version = pod["metadata"]["resourceVersion"]
                labelled = await pods.patch_pod(namespace, name, {"metadata": {**revoked, "resourceVersion": version}})
                await pods.delete_pod(namespace, name, uid=uid, version=labelled["metadata"]["resourceVersion"])
                return True
            except Conflict:  # it has changed since
                pod = await pods.get_pod(namespace, name)
                if pod["metadata"]["uid"] != uid:
                    return True
    except NotFound:
        return True
    raise Conflict("the pod changes faster than it can be deleted", status=409)
