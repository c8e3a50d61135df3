"""Is there a pod of this launch already? One request; used by the launcher."""

from __future__ import annotations

from typing import Any

from podrelay import names
from podrelay_workers.api_errors import NotFound, Refused
from podrelay_workers.pods_api import PodsApi

Json = dict[str, Any]

_MARK = (names.LABEL_LAUNCH_ID, names.LABEL_DEPLOYMENT, names.LABEL_ATTEMPT)


async def find_own(pods: PodsApi, pod: Json) -> Json | None:
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


def namespace_of(pod: Json) -> str:
    return str(pod["metadata"].get("namespace") or "default")
