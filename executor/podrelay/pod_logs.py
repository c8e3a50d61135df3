"""Live logs of a running pod, read from Kubernetes by the API server through an executor that was never started."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

from airflow.providers.cncf.kubernetes.kube_config import KubeConfig
from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator

from podrelay.protocol import identifiers
from podrelay.teams import kube_client_of

if TYPE_CHECKING:
    from airflow.models.taskinstance import TaskInstance

log = logging.getLogger(__name__)

# How long the reader waits for the next byte, in each try of the client, where `kube_client_request_args` says nothing: the
# client has no limit of its own, and a connection that is half open would hold a thread of the API server.
ANSWER_S = 10.0
FAILED = "Reading from k8s pod logs failed: {}"


def stream_task_log(
    ti: TaskInstance, try_number: int, kube_config: KubeConfig, team: str | None, lines: int
) -> tuple[list[str], list[Iterator[str]]]:
    """Messages for the reader, and the last `lines` lines of the task's pod. Never raises: a message says what failed.

    The pod is found by launch id, else by the labels that the stock executor gives; of several the newest counts, for
    a launch whose first pod died keeps that one's labels. A log that breaks off ends with a line that says why.
    """
    messages: list[str] = []
    streams: list[Iterator[str]] = []
    try:
        client = kube_client_of(team)
        # Other arguments of the user are for other requests: `_preload_content` would change what comes back.
        limit = {"_request_timeout": kube_config.kube_client_request_args.get("_request_timeout") or ANSWER_S}
        hostname = f" {ti.hostname}" if ti.hostname else ""
        messages.append(f"Attempting to fetch logs from pod{hostname} through kube API")
        pod = _newest_pod(client, ti, try_number, _namespace(ti, kube_config), limit)
        answer = client.read_namespaced_pod_log(
            name=pod["metadata"]["name"],
            namespace=pod["metadata"]["namespace"],
            container=_container(pod),
            follow=False,
            tail_lines=lines,
            _preload_content=False,
            **limit,
        )
        chunks = iter(answer)
        first = next(chunks, None)
        if first is not None:
            streams.append(_lines(chain([first], chunks)))
            messages.append("Found logs through kube API")
    except Exception as error:  # noqa: BLE001  the reader of a log gets a message, whatever went wrong
        messages.append(FAILED.format(error))
    return messages, streams


def _newest_pod(
    client: Any, ti: TaskInstance, try_number: int, namespace: str, limit: dict[str, Any]
) -> dict[str, Any]:
    for selector in _selectors(ti, try_number):
        answer = client.list_namespaced_pod(namespace=namespace, label_selector=selector, **limit)
        pods = client.api_client.sanitize_for_serialization(answer)["items"]
        if pods:
            return max(pods, key=lambda pod: (pod["metadata"].get("creationTimestamp") or "", _attempt(pod)))
    raise LookupError(f"no pod of this task in namespace {namespace}; its log appears here when it has been written")


def _selectors(ti: TaskInstance, try_number: int) -> Iterator[str]:
    launch_id = ti.external_executor_id
    if launch_id and ti.try_number == try_number and identifiers.is_launch_id(launch_id):
        yield f"{identifiers.LABEL_LAUNCH_ID}={launch_id}"
    yield PodGenerator.build_selector_for_k8s_executor_pod(
        dag_id=ti.dag_id,
        task_id=ti.task_id,
        try_number=try_number,
        map_index=ti.map_index,
        run_id=ti.run_id,
    )


def _namespace(ti: TaskInstance, kube_config: KubeConfig) -> str:
    override = (ti.executor_config or {}).get("pod_override")
    asked = getattr(getattr(override, "metadata", None), "namespace", None)
    return str(asked or kube_config.executor_namespace)


def _container(pod: dict[str, Any]) -> str:
    found = [container["name"] for container in pod["spec"]["containers"]]
    return "base" if "base" in found else found[0]


def _attempt(pod: dict[str, Any]) -> int:
    text = (pod["metadata"].get("labels") or {}).get(identifiers.LABEL_ATTEMPT, "0")
    return int(text) if text.isdigit() else 0


def _lines(chunks: Iterable[bytes]) -> Iterator[str]:
    from airflow.utils.log.logging_mixin import remove_escape_codes

    try:
        for chunk in chunks:
            yield remove_escape_codes(chunk.decode(errors="replace"))
    except Exception as error:  # noqa: BLE001  what came so far is shown
        yield FAILED.format(error)
