"""The live log of a running task, read from its pod through the Kubernetes API.

Airflow's API server calls it on an executor object that was never started.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

from airflow.providers.cncf.kubernetes.kube_config import KubeConfig

from podrelay.pod_labels import LabelledPodGenerator
from podrelay.protocol import identifiers
from podrelay.protocol.messages import Json
from podrelay.teams import kube_client_of

if TYPE_CHECKING:
    from airflow.models.taskinstance import TaskInstance

log = logging.getLogger(__name__)

# Limit for the next byte in each attempt of the client, unless `kube_client_request_args` sets one. The client itself has no
# limit, and a half-open connection would block a thread of Airflow's API server.
READ_TIMEOUT_S = 10.0
FAILED = "Reading from k8s pod logs failed: {}"


def stream_task_log(
    ti: TaskInstance, try_number: int, kube_config: KubeConfig, team: str | None, lines: int
) -> tuple[list[str], list[Iterator[str]]]:
    """Messages for the reader, and the last `lines` lines of the pod's log. Never raises: a message reports the error.

    The pod is found by launch id, or else by the labels of the stock executor. Of several pods the newest is used: every
    attempt of a launch matches. A log that breaks off ends with a line that gives the reason.
    """
    messages: list[str] = []
    streams: list[Iterator[str]] = []
    try:
        client = kube_client_of(team)
        # The user's other arguments do not apply here: `_preload_content` would change the type of the response.
        limit = {"_request_timeout": kube_config.kube_client_request_args.get("_request_timeout") or READ_TIMEOUT_S}
        hostname = f" {ti.hostname}" if ti.hostname else ""
        messages.append(f"Attempting to fetch logs from pod{hostname} through kube API")
        pod = _newest_pod(client, ti, try_number, _namespace(ti, kube_config), limit)
        response = client.read_namespaced_pod_log(
            name=pod["metadata"]["name"],
            namespace=pod["metadata"]["namespace"],
            container=_container(pod),
            follow=False,
            tail_lines=lines,
            _preload_content=False,
            **limit,
        )
        chunks = iter(response)
        first = next(chunks, None)
        if first is not None:
            streams.append(_lines(chain([first], chunks)))
            messages.append("Found logs through kube API")
    except Exception as error:  # noqa: BLE001  the reader gets a message instead of an error page
        messages.append(FAILED.format(error))
    return messages, streams


def _newest_pod(client: Any, ti: TaskInstance, try_number: int, namespace: str, limit: Json) -> Json:
    for selector in _selectors(ti, try_number):
        response = client.list_namespaced_pod(namespace=namespace, label_selector=selector, **limit)
        pods = client.api_client.sanitize_for_serialization(response)["items"]
        if pods:
            return max(pods, key=lambda pod: (pod["metadata"].get("creationTimestamp") or "", _attempt(pod)))
    raise LookupError(f"no pod of this task in namespace {namespace}; the log appears here once it has been written")


def _selectors(ti: TaskInstance, try_number: int) -> Iterator[str]:
    launch_id = ti.external_executor_id
    if launch_id and ti.try_number == try_number and identifiers.is_launch_id(launch_id):
        yield f"{identifiers.LABEL_LAUNCH_ID}={launch_id}"
    yield LabelledPodGenerator.build_selector_for_k8s_executor_pod(
        dag_id=ti.dag_id,
        task_id=ti.task_id,
        try_number=try_number,
        map_index=ti.map_index,
        run_id=ti.run_id,
    )


def _namespace(ti: TaskInstance, kube_config: KubeConfig) -> str:
    override = (ti.executor_config or {}).get("pod_override")
    namespace = getattr(getattr(override, "metadata", None), "namespace", None)
    return str(namespace or kube_config.executor_namespace)


def _container(pod: Json) -> str:
    names = [container["name"] for container in pod["spec"]["containers"]]
    return "base" if "base" in names else names[0]


def _attempt(pod: Json) -> int:
    text = (pod["metadata"].get("labels") or {}).get(identifiers.LABEL_ATTEMPT, "0")
    return int(text) if text.isdigit() else 0


def _lines(chunks: Iterable[bytes]) -> Iterator[str]:
    from airflow.utils.log.logging_mixin import remove_escape_codes

    try:
        for chunk in chunks:
            yield remove_escape_codes(chunk.decode(errors="replace"))
    except Exception as error:  # noqa: BLE001  the reader keeps what was read so far
        yield FAILED.format(error)
