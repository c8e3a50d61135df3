"""Builds what a launcher receives: the request of a first attempt, of a later one, and one rebuilt from the database.

Used by the dispatcher when it hands over, by the result processor when a pod must be replaced, and by the reconciler when no
process remembers the request. Offering requests to Redis is left to the caller.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from airflow.providers.cncf.kubernetes.kube_config import KubeConfig
from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator

from podrelay import compat, event_log
from podrelay.protocol.messages import Json, LaunchRequest
from podrelay.protocol.sizes import REQUEST_MAX
from podrelay.scheduling.airflow_db import rebuild_workloads
from podrelay.scheduling.context import HeartbeatContext
from podrelay.scheduling.decisions import Decision
from podrelay.scheduling.launch_registry import Launch
from podrelay.teams import watched_namespaces

log = logging.getLogger(__name__)

# What Airflow's user interface shows for a task that fails because of its executor_config; the stock executor's words.
INVALID_EXECUTOR_CONFIG = "Invalid executor_config passed"
# Callbacks complete work that is already done, and a person waits for a connection test: Airflow puts both first.
_CALLBACK_PRIORITY = 1 << 30
# How long a launch whose token never expires may wait for its pod before it is encrypted anew.
VALID_WITHOUT_END_S = 900.0
# The fields of a request beside its arguments and its pod_override take less than so many bytes.
_OTHER_FIELDS = 16 << 10


class InvalidExecutorConfig(ValueError):
    """The stock executor would not accept this task's executor_config either."""


class OversizedLaunch(InvalidExecutorConfig):
    """The launch is larger than a pod can be."""


class RequestBuilder:
    """Builds requests with what this executor knows: its owner, cluster, team, options and token generator."""

    def __init__(self, context: HeartbeatContext) -> None:
        self._executor = context.executor
        self._tally = context.tally
        self._identity = context.identity
        self._kube_config = context.kube_config
        self._launches = context.launches

    def first_attempt(self, workload: Any, launch_id: str, executor_config: Any, queue: str | None) -> LaunchRequest:
        """:raises InvalidExecutorConfig: only this task is at fault, and only it fails."""
        identity = self._identity
        return request_for(
            workload, launch_id, identity.owner, self._kube_config, cluster=identity.cluster, team=identity.team,
            executor_config=executor_config, queue=queue, known_by_id=identity.known_by_id,
        )  # fmt: skip

    def next_attempts(self, wanted: Sequence[tuple[Launch, Decision]]) -> dict[str, Launch]:
        """The launches as they will be offered again, by id: next attempt, new token.

        A launch whose task is no longer queued in the database is left out.
        """
        self.rebuild(launch for launch, _ in wanted if launch.workload is None)
        again = {}
        for launch, decision in wanted:
            if launch.request is None or launch.workload is None:
                continue
            request, workload = with_new_token(launch.request, launch.workload, self._executor.jwt_generator)
            relaunched = decision.next_attempt == "relaunch"
            again[launch.launch_id] = launch.next_attempt(request, workload, relaunched=relaunched)
        return again

    def rebuild(self, launches: Iterable[Launch]) -> None:
        """Attach requests that only a dead scheduler knew, from the database: one query for all.

        A task whose executor_config can never become a pod fails, and its launch is forgotten.
        """
        wanted = [launch for launch in launches if launch.kind == "task"]
        if not wanted:
            return
        rebuilt = rebuild_workloads([launch.subject for launch in wanted], self._executor.jwt_generator)
        for launch in wanted:
            workload, executor_config = rebuilt.get(launch.subject, (None, None))
            if workload is None:
                if executor_config is not None:
                    self._fail(launch, executor_config)
                continue
            try:
                request = self.first_attempt(workload, launch.launch_id, executor_config, workload.ti.queue)
            except InvalidExecutorConfig as error:
                self._fail(launch, error)
                continue
            launch.attach_request(request.replaced(attempt=launch.attempt), workload)

    def _fail(self, launch: Launch, error: Exception) -> None:
        self._tally.note(logging.ERROR, INVALID_EXECUTOR_CONFIG, launch.key, str(error))
        extra = event_log.row_text(str(error), launch.launch_id, launch.attempt)
        self._executor.log_task_event(event=event_log.REFUSED, extra=extra, ti_key=launch.task)
        expected = self._launches.is_newest(launch) and launch.key in self._executor.running
        self._launches.forget(launch)
        if expected:
            self._executor.fail(launch.key, INVALID_EXECUTOR_CONFIG)


def request_for(
    workload: Any,
    launch_id: str,
    owner: str,
    kube_config: KubeConfig,
    *,
    cluster: str,
    team: str | None,
    executor_config: Any = None,
    queue: str | None = None,
    attempt: int = 0,
    known_by_id: bool = False,
) -> LaunchRequest:
    """Everything that a launcher needs to create the pod. The workload's own JSON lacks the executor_config and the launch
    id, so both travel beside it.

    :raises InvalidExecutorConfig: only this task is at fault, and only it fails.
    """
    kind = compat.kind_of(workload)
    override, template = _pod_options(executor_config)
    extra = compat.coordinator_extra(queue)
    image = None
    if extra.get("worker_container_repository") and extra.get("worker_container_tag"):
        image = f"{extra['worker_container_repository']}:{extra['worker_container_tag']}"
    ti = getattr(workload, "ti", None)
    not_after_s, token_life_s = _validity(compat.token_times(workload.token))
    args = compat.args_of(workload)
    _require_size(override, args)
    namespace = ((override or {}).get("metadata") or {}).get("namespace") or kube_config.executor_namespace
    return LaunchRequest(
        launch_id=launch_id,
        attempt=attempt,
        kind=kind or "task",  # type: ignore[arg-type]
        subject=compat.subject_of(workload),
        key=(ti.dag_id, ti.task_id, ti.run_id, ti.try_number, ti.map_index) if ti is not None else (),
        owner=owner,
        args=args,
        cluster=cluster,
        team=team,
        namespace=namespace,
        pod_override=override,
        pod_template_file=extra.get("pod_template_file") or template,
        image=image,
        priority=ti.priority_weight if ti is not None else _CALLBACK_PRIORITY,
        not_after_s=not_after_s,
        token_life_s=token_life_s,
        known_by_id=known_by_id and kind == "task",
    )


def with_new_token(request: LaunchRequest, workload: Any, generator: Any) -> tuple[LaunchRequest, Any]:
    """The same request with a token that is valid from now on, and the workload that holds it."""
    renewed = compat.with_new_token(workload, generator)
    not_after_s, life_s = _validity(compat.token_times(renewed.token))
    args = compat.args_of(renewed)
    return request.replaced(args=args, not_after_s=not_after_s, token_life_s=life_s), renewed


def is_watched(kube_config: KubeConfig, namespace: str) -> bool:
    """Does the watcher follow the pods of this namespace? It reads those of other namespaces one by one."""
    watched = watched_namespaces(kube_config)
    return watched == (None,) or namespace in watched


def _validity(token_times_s: tuple[float, float]) -> tuple[float, float]:
    """Until when a launcher may create the pod, and the length of that time. A token that never expires would make a recorded
    launch always valid: it gets a limit of its own. After it the launcher asks for a new attempt, as for an expired token.
    """
    not_after_s, life_s = token_times_s
    return (not_after_s, life_s) if not_after_s else (time.time() + VALID_WITHOUT_END_S, VALID_WITHOUT_END_S)


def _require_size(override: Json | None, args: Sequence[str]) -> None:
    """:raises OversizedLaunch: Kubernetes could not store the pod, and launchers would refuse the request."""
    # JSON needs up to twelve bytes for a character; most launches are far from the limit, and this is all that they cost.
    length = sum(map(len, args))
    if length * 12 > REQUEST_MAX:
        length = len(json.dumps(list(args)))
    if override:
        length += len(json.dumps(override))
    if length > REQUEST_MAX - _OTHER_FIELDS:
        raise OversizedLaunch(
            f"the workload and the pod_override of its executor_config have {length} bytes; a pod of more than {REQUEST_MAX} "
            "cannot be stored by Kubernetes. Pass large values through files, Variables or object storage."
        )


def _pod_options(executor_config: Any) -> tuple[Json | None, str | None]:
    """pod_override as plain JSON, and pod_template_file."""
    if executor_config is None or executor_config == {}:
        return None, None
    try:
        pod = PodGenerator.from_obj(executor_config)
        override = PodGenerator.serialize_pod(pod) if pod is not None else None
        json.dumps(override, allow_nan=False)  # a pod object may hold values that JSON cannot represent
        template = executor_config.get("pod_template_file") if executor_config else None
    except Exception as error:  # noqa: BLE001  whatever a user put there fails this task and no other
        raise InvalidExecutorConfig(f"{type(error).__name__}: {error}") from error
    if template is not None and not isinstance(template, (str, Path)):
        raise InvalidExecutorConfig(f"pod_template_file is a {type(template).__name__}, not a path")
    if override is not None and not _is_pod(override):
        raise InvalidExecutorConfig("pod_override does not have the structure of a Kubernetes pod")
    return override, str(template) if template is not None else None


def _is_pod(override: Any) -> bool:
    return (
        isinstance(override, dict)
        and all(isinstance(override.get(part, {}), dict) for part in ("metadata", "spec"))
        and isinstance((override.get("metadata") or {}).get("namespace", ""), str)
    )
