"""The hand-over: workloads become requests, requests are offered to Redis, and offered launches are registered.

Called by the executor when Airflow hands workloads over.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import timedelta
from itertools import islice

from airflow.providers.common.compat.sdk import Stats
from airflow.utils.state import TaskInstanceState

from podrelay import compat, event_log
from podrelay.errors import RedisRefused
from podrelay.metrics_table import BATCH_DURATION, BATCH_SIZE
from podrelay.protocol import identifiers
from podrelay.protocol.messages import LaunchRequest
from podrelay.scheduling import heartbeat_budget
from podrelay.scheduling.context import HeartbeatContext
from podrelay.scheduling.launch_registry import RENEWED, Launch, LaunchState, renewed
from podrelay.scheduling.queued_check import QueuedCheck, WorkItem
from podrelay.scheduling.request_builder import (
    INVALID_EXECUTOR_CONFIG,
    InvalidExecutorConfig,
    RequestBuilder,
    is_watched,
)
from podrelay.scheduling.results import ResultProcessor
from podrelay.scheduling.revocations import Revocations
from podrelay.store.launch_queue import Answer

log = logging.getLogger(__name__)


class Dispatcher:
    """Hands over what fits into the time slice, in order and at least one; the rest stays in Airflow's queue."""

    def __init__(
        self, context: HeartbeatContext, requests: RequestBuilder, results: ResultProcessor, revocations: Revocations
    ) -> None:
        self._executor = context.executor
        self._tally = context.tally
        self._kube_config = context.kube_config
        self._budget = context.budget
        self._launches = context.launches
        self._queue = context.queue
        self._requests = requests
        self._results = results
        self._revocations = revocations
        self._check = QueuedCheck(context)
        self._pace = heartbeat_budget.Pace()
        # How long results took when they were last processed.
        self.results_s = 0.0
        # Were there no launches before the last hand-over?
        self.was_alone = False

    def hand_over(self, items: Iterable[WorkItem]) -> None:
        """Offer workloads in one round trip and register those that Redis has taken; the others stay in Airflow's queue.

        :raises RedisUnavailable: nothing was registered.
        :raises SQLAlchemyError: what was offered before is registered.
        """
        began_s = time.monotonic()
        # A task may be queued again under the id of a launch that is about to be closed.
        with suppress(RedisRefused):
            self._results.confirm()
        # With a distant Redis `sync` sends them, and a task with a pending withdrawal waits for that.
        if self._budget.is_redis_near:
            self._revocations.send_pending()
        self.was_alone = not self._launches
        built: list[Launch] = []
        failures: list[Exception] = []
        replies = self._queue.offer_as_made(self._build(items, built, failures))
        if built:
            self._register_all(built, replies, began_s)
        for failure in failures:
            raise failure

    def _register_all(self, built: Sequence[Launch], replies: Sequence[Answer], began_s: float) -> None:
        # The stock executor creates pods in this time; here it is a round trip to Redis.
        Stats.timing(BATCH_DURATION.stats, timedelta(seconds=time.monotonic() - began_s))
        Stats.gauge(BATCH_SIZE.stats, len(built))
        for offered, reply in zip(built, replies, strict=True):
            launch = offered
            if reply == "refused":
                continue
            if reply in ("withdrawn", "acknowledged"):
                launch = renewed(offered, offered.launch_id)
                self._tally.note(logging.WARNING, RENEWED, launch.key, f"launch {offered.launch_id}")
            self._register(launch)
            self._warn_of_namespace(launch)
            log.debug("Launch %s of %s: %s", launch.launch_id, launch.key, reply)

    def _build(
        self, items: Iterable[WorkItem], built: list[Launch], failures: list[Exception]
    ) -> Iterator[tuple[LaunchRequest, int]]:
        """Requests of workloads, built one by one while the time slice lasts.

        :param built: gets their launches.
        :param failures: gets what ended it early. Redis may have the launches that were built before.
        """
        try:
            yield from self._build_fitting(items, built)
        except Exception as failure:  # noqa: BLE001  the caller raises it
            failures.append(failure)

    def _build_fitting(self, items: Iterable[WorkItem], built: list[Launch]) -> Iterator[tuple[LaunchRequest, int]]:
        """The slice begins after the first query, or a distant database would leave time for one launch in each heartbeat."""
        # While Redis has an older launch of the same task instance, its pod could be created beside that of the newer one.
        blocked = self._revocations.pending_subjects()
        free = (item for item in items if not blocked or compat.subject_of(item.workload) not in blocked)
        time_slice = None
        left_s = self._slice_s(0.0)
        while batch := list(islice(free, self._fitting(left_s))):
            began_s = time.monotonic()
            passed = self._check.passed(batch)
            time_slice = time_slice or heartbeat_budget.TimeSlice(self._slice_s(time.monotonic() - began_s))
            done, began_s = 0, time.monotonic()
            for item in passed:
                launch = self._launch_of(item)
                if launch is not None and launch.request is not None:
                    built.append(launch)
                    yield launch.request, 0
                done += 1
                if time_slice.over:
                    break
            if done >= heartbeat_budget.HAND_OVER_BATCH:
                self._pace.note(done, time.monotonic() - began_s)
            left_s = time_slice.left_s
            if left_s <= heartbeat_budget.LOOKUP_S:
                return

    def _slice_s(self, query_s: float) -> float:
        """With a distant Redis, round trips need the time that results leave."""
        if not self._budget.is_redis_near:
            return heartbeat_budget.HAND_OVER_S
        return heartbeat_budget.hand_over_slice_s(query_s, self.results_s, alone=self.was_alone)

    def _fitting(self, seconds: float) -> int:
        """How many workloads to look up in the database at once: those that the slice cuts off are looked up again."""
        most = heartbeat_budget.HAND_OVER_BATCH_MOST
        return self._pace.fitting(seconds, heartbeat_budget.HAND_OVER_BATCH, most)

    def _launch_of(self, item: WorkItem) -> Launch | None:
        """None for a workload that cannot be handed over: it has failed, or stays queued."""
        key, workload, queue, executor_config = item
        row_id = getattr(getattr(workload, "ti", None), "external_executor_id", None) or ""
        assigned = identifiers.is_assigned(row_id)
        launch_id = row_id if assigned else identifiers.new_launch_id()
        try:
            request = self._requests.first_attempt(workload, launch_id, executor_config, queue)
        except InvalidExecutorConfig as error:
            self._tally.note(logging.ERROR, INVALID_EXECUTOR_CONFIG, key, str(error))
            compat.forget_queued(self._executor, key)
            task = compat.task_of(workload)
            if task is not None:
                text = event_log.row_text(str(error), launch_id, 0)
                self._executor.log_task_event(event=event_log.REFUSED, extra=text, ti_key=task)
            self._executor.fail(key, INVALID_EXECUTOR_CONFIG)
            return None
        except Exception:  # one workload's fault must not block the workloads behind it
            log.exception("Cannot build a launch for %s; it stays queued", key)
            return None
        return Launch(
            launch_id, key, request.kind, request.subject,
            task=compat.task_of(workload), request=request, workload=workload, state=LaunchState.REQUESTED,
            former_row_id=None if assigned else row_id,
        )  # fmt: skip

    def _register(self, launch: Launch) -> None:
        """From now on the launch is running in Airflow's sense: it occupies a slot until its end is known."""
        before = self._launches.add(launch)
        if before is not None and not before.is_withdrawn:
            before.withdraw()
            self._revocations.request(before.launch_id, before.subject, "superseded")
        compat.forget_queued(self._executor, launch.key)
        self._results.failures.forget(launch.key)
        self._executor.running.add(launch.key)
        if launch.former_row_id is not None and launch.kind == "task":
            compat.record_event(self._executor, launch.key, TaskInstanceState.QUEUED, launch.launch_id)

    def _warn_of_namespace(self, launch: Launch) -> None:
        request = launch.request
        if request is None or launch.kind != "task" or is_watched(self._kube_config, request.namespace):
            return
        text = (
            f"Namespace {request.namespace} is not watched: the end of this task's pod is noticed late, and only if "
            "the watcher may get pods there. Set [kubernetes_executor] multi_namespace_mode = True and add the "
            "namespace to multi_namespace_mode_namespace_list, for scheduler, launchers and watcher."
        )
        extra = event_log.row_text(text, launch.launch_id, request.attempt)
        self._executor.log_task_event(event=event_log.NOT_WATCHED, extra=extra, ti_key=launch.task)
