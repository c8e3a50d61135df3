"""What is handed to launchers for a launch: its first request, that of another attempt, and one made anew from the database.

Called by the executor when it hands over, by `endings` when a pod must be replaced, by `reconciliation` when nobody
remembers what was asked for.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from podrelay.protocol.messages import LaunchRequest
from podrelay.scheduling.airflow_db import rebuild_workloads
from podrelay.scheduling.context import Context
from podrelay.scheduling.decisions import Decision
from podrelay.scheduling.launch_registry import Launch
from podrelay.scheduling.request_builder import InvalidExecutorConfig, request_for, with_new_token

log = logging.getLogger(__name__)


class RequestBuilder:
    """Makes requests; offering them to Redis is the caller's."""

    def __init__(self, context: Context) -> None:
        self._executor = context.executor
        self._launches = context.launches

    def first(self, workload: Any, launch_id: str, executor_config: Any, queue: str | None) -> LaunchRequest:
        """:raises InvalidExecutorConfig: only this task can be blamed, and only it fails."""
        executor = self._executor
        return request_for(
            workload, launch_id, executor.scheduler_job_id or "", executor.kube_config, cluster=executor.cluster,
            team=executor.team_name, executor_config=executor_config, queue=queue,
            known_by_id=executor.supports_task_instance_uuid,
        )  # fmt: skip

    def next(self, wanted: Sequence[tuple[Launch, Decision]]) -> dict[str, Launch]:
        """The launches as they will be offered again, by id: next attempt, fresh token."""
        self.rebuild(launch for launch, _ in wanted if launch.workload is None)
        again = {}
        for launch, decision in wanted:
            if launch.request is None or launch.workload is None:
                continue
            request, workload = with_new_token(launch.request, launch.workload, self._executor.jwt_generator)
            attempt = launch.attempt + 1
            again[launch.launch_id] = replace(
                launch, attempt=attempt, request=replace(request, attempt=attempt), workload=workload,
                relaunches=launch.relaunches + (decision.next_attempt == "relaunch"),
            )  # fmt: skip
        return again

    def rebuild(self, launches: Iterable[Launch]) -> None:
        """Fill in requests that only a dead scheduler knew, from the database: one query for all."""
        wanted = [launch for launch in launches if launch.kind == "task"]
        if not wanted:
            return
        made = rebuild_workloads([launch.subject for launch in wanted], self._executor.jwt_generator)
        for launch in wanted:
            workload, executor_config = made.get(launch.subject, (None, None))
            if workload is None:
                if executor_config is not None:
                    self._refuse(launch, executor_config)
                continue
            try:
                request = self.first(workload, launch.launch_id, executor_config, workload.ti.queue)
            except InvalidExecutorConfig as error:
                self._refuse(launch, error)
                continue
            launch.workload, launch.request = workload, replace(request, attempt=launch.attempt)

    def _refuse(self, launch: Launch, error: Exception) -> None:
        """The row of this launch holds an executor_config that can never become a pod."""
        log.error("Invalid executor_config for %s: %s", launch.key, error)
        self._launches.forget(launch)
        self._executor.fail(key=launch.key, info="Invalid executor_config passed")
