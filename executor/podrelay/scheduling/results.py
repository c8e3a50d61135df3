"""What pods came to: results are taken from the stream, decided on with the database, acknowledged, and reported to Airflow.

Owner of results that were read and could not be handled yet, and of the failures that were reported.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import Any

from airflow.providers.common.compat.sdk import Stats
from airflow.utils.state import TaskInstanceState

from podrelay import compat
from podrelay.protocol.lifecycle import METRIC
from podrelay.protocol.messages import PodReport
from podrelay.scheduling import heartbeat_budget
from podrelay.scheduling.airflow_db import coordinates, rows_by_key
from podrelay.scheduling.attempts import RequestBuilder
from podrelay.scheduling.context import Context
from podrelay.scheduling.decisions import WANTED, Decision, TaskRow, cleanup_for, decide, describe_failure, superseded
from podrelay.scheduling.launch_registry import Launch
from podrelay.store.launch_queue import Acknowledgement
from podrelay.teams import metric_tags

log = logging.getLogger(__name__)

# A reason why a task still waits is written to its event log at most once in this time.
TELL_AGAIN_S = 60.0


class ResultProcessor:
    """:raises RedisUnavailable, SQLAlchemyError: from all that handles results; they are kept and handled again."""

    def __init__(self, context: Context, attempts: RequestBuilder) -> None:
        self._executor = context.executor
        self._launches = context.launches
        self._queue = context.queue
        self._results = context.results
        self._attempts = attempts
        self._policy = self._executor.policy
        self._tags = metric_tags(self._executor.team_name)
        self._unhandled: deque[PodReport] = deque()
        # Key -> launch, state, info, when (monotonic). The scheduler loses an event when another one holds the task's row at
        # that moment.
        self._reported: dict[Any, tuple[Launch, str, str | None, float]] = {}

    def take(self) -> None:
        """Handle the next results of the stream, group by group while their share of the heartbeat lasts."""
        share, left = heartbeat_budget.TimeSlice(heartbeat_budget.RESULTS_S), self._executor.settings.result_batch_size
        while left > 0:
            most = min(heartbeat_budget.RESULTS_AT_ONCE, left)
            beat = self._executor.beat
            # Where Redis is far away, what was read before comes first: reading more might leave no room for it, each time.
            reads = not self._unhandled or (len(self._unhandled) < most and beat.is_redis_near)
            if reads:
                self._unhandled.extend(self._results.read(most - len(self._unhandled)))
            batch = list(islice(self._unhandled, most))
            if batch and not beat.has_room(1 if all(result.outcome == "succeeded" for result in batch) else 2):
                return  # they are the first of the next heartbeat
            self.handle(batch)
            for _ in batch:
                self._unhandled.popleft()
            left -= len(batch)
            if (reads and len(batch) < most) or share.over or not beat.has_room():
                return

    def keep(self, results: Sequence[PodReport]) -> None:
        """Handle these when results are taken next."""
        self._unhandled.extend(results)

    def handle(self, results: Sequence[PodReport]) -> None:
        """Act on results of our own launches; repeating it after a failure in the middle is safe."""
        ended: list[tuple[Launch, PodReport]] = []
        for result in results:
            launch = self._launches.get(result.launch_id)
            if launch is None or result.attempt != launch.attempt:
                continue
            if result.terminal:
                ended.append((launch, result))
            else:
                self.tell(launch, result)
        if not ended:
            return
        decided = self._decide(ended)
        again = self._attempts.next([(launch, decision) for launch, _, decision, _ in decided if decision.next_attempt])
        waited_s = self._queue.acknowledge(
            [
                self.acknowledgement(launch, result, d, over=launch.launch_id not in again)
                for launch, result, d, _ in decided
            ]
        )
        for seconds in waited_s:
            Stats.timing(METRIC + "acknowledged", seconds * 1000.0, tags=self._tags)
        self._offer_again(again)
        for launch, result, decision, row in decided:
            if decision.elsewhere and row is not None and row.host is not None:
                log.warning("Task %s runs in the pod of launch %s, attempt %d; launch %s is given up", launch.key,
                            row.host[0], row.host[1], launch.launch_id)  # fmt: skip
                self._launches.follow(launch, row.host, row.launch_id)
            if launch.launch_id not in again:
                self._finish(launch, result, decision)

    def acknowledgement(self, launch: Launch, result: PodReport, decision: Decision, *, over: bool) -> Acknowledgement:
        cleanup = None
        if decision.cleanup:
            cleanup = self._queue.cleanup(
                decision.cleanup, launch.launch_id, result.namespace, result.pod, result.uid,
                # What it waited for may come in the last moment.
                unless_started=decision.cleanup == "revoke",
            )  # fmt: skip
        return Acknowledgement(launch.launch_id, result.attempt, launch.subject, over=over, cleanup=cleanup)

    def forget_report(self, key: Any) -> None:
        """The task was handed over again or revoked: what was reported of it is no longer true."""
        self._reported.pop(key, None)

    def report_again(self, older_than_s: float) -> None:
        """An event is lost when another scheduler holds the row at that moment: report it until the row shows it."""
        now_s = time.monotonic()
        old = ((key, told) for key, told in self._reported.items() if now_s - told[3] > older_than_s)
        due = dict(islice(old, heartbeat_budget.COMPARED_AT_ONCE))
        rows = rows_by_key(told[0].task for told in due.values())
        for key, (launch, state, info, _) in due.items():
            row = launch.told_of(rows.get(coordinates(launch.task)))
            gone = superseded(launch.launch_id, launch.attempt, launch.task.try_number, row)
            del self._reported[key]
            if gone or row is None or row.state not in WANTED:
                continue
            self._reported[key] = (launch, state, info, now_s)
            if key not in self._executor.running and not compat.queued(self._executor, key):
                compat.record_event(self._executor, key, TaskInstanceState(state), info)

    def _decide(
        self, ended: Sequence[tuple[Launch, PodReport]]
    ) -> list[tuple[Launch, PodReport, Decision, TaskRow | None]]:
        rows = rows_by_key(launch.task for launch, _ in ended if launch.kind == "task")
        decided = []
        for launch, result in ended:
            row = None
            if launch.kind != "task":
                decision = self._decide_other(result)
            elif not self._launches.is_newest(launch):
                decision = Decision(cleanup=cleanup_for(result, self._policy))
            else:
                row = launch.told_of(rows.get(coordinates(launch.task)))
                decision = decide(result, launch.task.try_number, launch.relaunches, row, self._policy)
            decided.append((launch, result, decision, row))
        return decided

    def _decide_other(self, result: PodReport) -> Decision:
        """A callback or a connection test has no row of a task instance: its pod's end is all there is."""
        if result.outcome == "expired":
            return Decision(next_attempt="new_token")
        ended_well = result.outcome == "succeeded"
        event = ("success", None) if ended_well else ("failed", describe_failure(result))
        return Decision(event=event, cleanup=cleanup_for(result, self._policy))

    def _offer_again(self, again: dict[str, Launch]) -> None:
        self._queue.offer([(launch.request, launch.relaunches) for launch in again.values() if launch.request])
        for launch in again.values():
            self._launches.add(launch)
            log.info("Launch %s of %s goes into attempt %d", launch.launch_id, launch.key, launch.attempt + 1)

    def _finish(self, launch: Launch, result: PodReport, decision: Decision) -> None:
        newest = self._launches.is_newest(launch)
        self._launches.forget(launch)
        if not newest:
            return
        executor = self._executor
        executor.running.discard(launch.key)
        if result.outcome == "failed":
            self._log_failure(launch, result)
        # Another attempt that is not `again` was wanted and could not be made: the database no longer has it queued.
        if decision.next_attempt or decision.event is None:
            return
        state, info = decision.event
        if launch.kind == "task":
            compat.record_event(executor, launch.key, TaskInstanceState(state) if state else None, info)
            if state == TaskInstanceState.FAILED and result.outcome == "failed":
                self._reported[launch.key] = (launch, state, info, time.monotonic())
        elif state == "success":
            executor.success(launch.key, info)
        else:
            executor.fail(launch.key, info)

    def tell(self, launch: Launch, result: PodReport) -> None:
        """Why a task still waits, in its event log; that a callback runs, in the event buffer."""
        if result.outcome == "started" and launch.kind == "callback":
            self._executor.running_state(launch.key)
        elif result.outcome == "pending" and launch.kind == "task" and launch.tell(result.reason, TELL_AGAIN_S):
            extra = f"{result.reason}: {result.message}"
            # After its start it is told why nothing more happens: its node does not answer.
            event = "pod pending" if result.phase in ("", "Pending") else "pod not ended"
            self._executor.log_task_event(event=event, extra=extra, ti_key=launch.task)

    def _log_failure(self, launch: Launch, result: PodReport) -> None:
        log.warning("Task %s: %s", launch.key, describe_failure(result))
        if launch.kind == "task":
            tail = "".join(f"\n    {line}" for line in result.log_tail)
            extra = describe_failure(result) + (tail and f"\nLast log lines:{tail}")
            self._executor.log_task_event(event="pod failed", extra=extra, ti_key=launch.task)
