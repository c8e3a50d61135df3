"""Processes pod reports: reads them from the stream, decides with the database, acknowledges them, and emits events to
Airflow.

Called by the executor's `sync`; the reconciler and the orphan collector hand in reports that they find in the ledger. Owner
of the reports that were read and not processed yet.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any, NamedTuple

from airflow.providers.common.compat.sdk import Stats
from airflow.utils.state import TaskInstanceState

from podrelay import compat, event_log
from podrelay.errors import RedisRefused
from podrelay.metrics_table import LIFECYCLE
from podrelay.protocol.messages import CleanupAction, PodReport
from podrelay.scheduling import heartbeat_budget
from podrelay.scheduling.airflow_db import coordinates, rows_of_tasks
from podrelay.scheduling.context import HeartbeatContext
from podrelay.scheduling.decisions import (
    Decision,
    TaskRow,
    cleanup_for,
    contradicts_row,
    decide,
    describe_failure,
    ended_without_state,
    without_state,
)
from podrelay.scheduling.launch_registry import Launch
from podrelay.scheduling.request_builder import RequestBuilder
from podrelay.scheduling.second_looks import SecondLooks
from podrelay.scheduling.task_events import REPEAT_REASON_AFTER_S, TaskEvents
from podrelay.scheduling.unreadable import Unread
from podrelay.scheduling.unseen_failures import UnseenFailures
from podrelay.store.launch_queue import Acknowledgement
from podrelay.teams import metric_tags

log = logging.getLogger(__name__)

# How often a scheduler without launches reads the stream: what is there for others would delay reports about its next launch.
PASS_OVER_EVERY_S = 1.0

_DENIED = "a report without the pod of a running task"
_BESIDE = "ignoring the end of a pod: the task runs in another one of the same launch"


class _Decided(NamedTuple):
    launch: Launch
    report: PodReport
    decision: Decision
    row: TaskRow | None
    # False for a stand-in, whose pod the ledger names.
    readable: bool = True


class ResultProcessor:
    """:raises RedisUnavailable, SQLAlchemyError: from all methods that process reports; they are kept and processed again."""

    def __init__(self, context: HeartbeatContext, requests: RequestBuilder) -> None:
        self._executor = context.executor
        self._tally = context.tally
        self._owner = context.identity.owner
        self._settings = context.settings
        self._policy = context.policy
        self._budget = context.budget
        self._launches = context.launches
        self._queue = context.queue
        self._results = context.results
        self._requests = requests
        self._tags = metric_tags(context.identity.team)
        self._unprocessed: deque[PodReport] = deque()
        self._pace = heartbeat_budget.Pace()
        self._second_looks = SecondLooks(context)
        self._events = TaskEvents(context)
        self.failures = UnseenFailures(context)

    def process_stream(self) -> None:
        """Process the next reports of the stream, in batches that fit into what is left of the heartbeat; at least one."""
        with suppress(RedisRefused):  # the breaker has logged it
            self.confirm()
        self._unprocessed.extend(self._second_looks.pop_due())
        left, has_more = self._settings.result_batch_size, self._is_to_be_read()
        while left > 0:
            began_s, trips = time.monotonic(), self._budget.trips
            waiting = len(self._unprocessed) + self._results.fetched
            # With a distant Redis, reports that were read before come first: reading could use up the budget each time.
            if has_more and (not waiting or (waiting < heartbeat_budget.RESULT_BATCH and self._budget.is_redis_near)):
                has_more = self._results.fetch(self._launches.ids, self._may_matter)
            unopened = self._results.fetched
            batch = self._next_batch(min(left, self._fitting(1)))
            batch = batch[: self._fitting(_trips_for(batch))]
            if batch and not self._budget.has_room(_trips_for(batch)):
                return  # the next heartbeat begins with this batch
            self.process(batch)
            for _ in batch:
                self._unprocessed.popleft()
            taken = max(len(batch), unopened - self._results.fetched)  # what cannot be read costs time as well
            if taken >= heartbeat_budget.RESULT_BATCH:
                self._pace.note(taken, self._budget.work_s(began_s, trips))
            left -= taken
            over = not has_more and not self._unprocessed and not self._results.fetched
            if over or self._budget.left_s(heartbeat_budget.RESULTS_S) <= 0 or not self._budget.has_room():
                return

    def request_next(self) -> None:
        """Send for the reports that `process_stream` will begin with, so that Redis works while the heartbeat does. A distant
        Redis is left to `process_stream`, which may have to leave reading to another heartbeat.
        """
        waiting = len(self._unprocessed) + self._results.fetched
        if waiting < heartbeat_budget.RESULT_BATCH and self._budget.is_redis_near and self._is_to_be_read():
            self._results.request()

    def _is_to_be_read(self) -> bool:
        """May the stream have a report for this scheduler, or is it time to pass over those for others?"""
        return len(self._launches) > 0 or time.monotonic() >= self._results.read_s + PASS_OVER_EVERY_S

    def withdraw_request(self) -> None:
        """At the end of the heartbeat: nothing of it is left on its way."""
        self._results.withdraw_request()

    def _fitting(self, trips: int) -> int:
        """How many reports may be processed next, with so many round trips."""
        seconds = self._budget.left_s(heartbeat_budget.RESULTS_S, trips)
        return self._pace.fitting(seconds, heartbeat_budget.RESULT_BATCH, heartbeat_budget.RESULT_BATCH_MOST)

    def _next_batch(self, most: int) -> list[PodReport]:
        """The reports to be processed next. They are not removed."""
        if len(self._unprocessed) < most:
            self._unprocessed.extend(self._results.open_next(most - len(self._unprocessed)))
            for started in self._results.pop_starts():
                self._events.log_start(started)
        return list(islice(self._unprocessed, most))

    def _may_matter(self, launch_id: str, outcome: str, says_how_it_began: bool) -> bool:
        """Does a report call for anything, by what is unencrypted? The next comparison finds one that a forgery hides."""
        launch = self._launches.get(launch_id)
        return launch is not None and (outcome != "started" or launch.kind != "task" or says_how_it_began)

    def hold(self, reports: Sequence[PodReport]) -> None:
        """Process these reports the next time, instead of now."""
        self._unprocessed.extend(reports)

    def process(self, reports: Sequence[PodReport]) -> None:
        """Act on reports about launches of this executor. Repeating it after a failure halfway is safe."""
        # By launch: the stream and a comparison with the ledger may both bring the report of its end.
        ended: dict[str, tuple[Launch, PodReport]] = {}
        for report in reports:
            launch = self._launches.get(report.launch_id)
            if launch is None or report.attempt != launch.attempt:
                continue
            if report.outcome == "log":
                launch.log_tail = report.log_tail
            elif report.terminal:
                ended[launch.launch_id] = (launch, report)
            else:
                self._events.report_progress(launch, report)
        decided = self._decide(list(ended.values())) if ended else []
        if decided:
            self._close(decided)
        self._second_looks.request_logs()

    def process_unreadable(self, reports: Sequence[PodReport], why: Unread) -> list[Launch]:
        """Act on stand-ins for reports that cannot be read, as far as they suffice.

        :return: the launches that they cannot end: the task runs, or there is no row that confirms the end.
        """
        found = [(self._launches.get(report.launch_id), report) for report in reports]
        ended = [
            (launch, report) for launch, report in found if launch is not None and report.attempt == launch.attempt
        ]
        possible, left = [], []
        for item in self._decide(ended, readable=False) if ended else ():
            decision = None
            if item.launch.kind == "task":
                decision = why.limit(item.decision, item.report, item.launch.task.try_number, item.row)
            if decision is None:
                left.append(item.launch)
            else:
                possible.append(item._replace(decision=decision))
        if possible:
            self._close(possible)
        return left

    def acknowledgement(
        self,
        launch_id: str,
        subject: str,
        report: PodReport,
        cleanup: CleanupAction | None,
        *,
        over: bool = True,
        readable: bool = True,
    ) -> Acknowledgement:
        """Closes this attempt in the ledger and orders what becomes of its pod.

        :param over: whether the launch is over, and no further attempt follows.
        :param readable: False for a stand-in.
        """
        request = None
        if cleanup:
            request = self._queue.cleanup(
                cleanup, launch_id, report.namespace, report.pod, report.uid,
                # A pod that was reported as pending may start at the last moment.
                unless_started=cleanup == "revoke", attempt=report.attempt if readable else None,
            )  # fmt: skip
        return Acknowledgement(launch_id, report.attempt, subject, over=over, cleanup=request)

    def _decide(self, ended: Sequence[tuple[Launch, PodReport]], *, readable: bool = True) -> list[_Decided]:
        rows = rows_of_tasks((launch.subject, launch.task) for launch, _ in ended if launch.kind == "task")
        decided = [self._decide_one(launch, report, rows, readable) for launch, report in ended]
        return [one for one in decided if one is not None]

    def _decide_one(
        self, launch: Launch, report: PodReport, rows: Mapping[Any, TaskRow], readable: bool
    ) -> _Decided | None:
        """None where nothing is to be done, or nothing yet.

        :param readable: False for a stand-in, which is no proof that the pod of a running task has ended.
        """
        if launch.kind != "task":
            return _Decided(launch, report, self._decide_without_row(report), None, readable)
        if not self._launches.is_newest(launch):
            decision = Decision(cleanup=cleanup_for(report, self._policy))
            return _Decided(launch, report, decision, None, readable)
        row = rows.get(coordinates(launch.task))
        if launch.belongs_to_another(self._owner, row):
            self._launches.release(launch, self._executor.running)
            return None
        row = launch.as_known_to(row)
        if contradicts_row(report, row):
            if launch.should_report(_DENIED, REPEAT_REASON_AFTER_S):
                launch.mark_reported(_DENIED)
                self._tally.note(
                    logging.WARNING, "ignoring a report that its launch has no pod: the task runs in that pod",
                    launch.key, f"launch {launch.launch_id}",
                )  # fmt: skip
            return None
        if readable and ended_without_state(report, launch.task.try_number, row):
            if self._second_looks.is_early(launch, report):
                return None
            report = without_state(report, launch.log_tail)
        decision = decide(report, launch.task.try_number, launch.relaunches, row, self._policy)
        if decision.beside and not launch.should_report(_BESIDE, REPEAT_REASON_AFTER_S):
            return None
        return _Decided(launch, report, decision, row, readable)

    def _decide_without_row(self, report: PodReport) -> Decision:
        """A callback or a connection test has no task instance: only the end of its pod counts."""
        if report.outcome == "expired":
            return Decision(next_attempt="new_token")
        event = ("success", None) if report.outcome == "succeeded" else ("failed", describe_failure(report))
        return Decision(event=event, cleanup=cleanup_for(report, self._policy))

    def _close(self, decided: Sequence[_Decided]) -> None:
        """Acknowledge, then offer next attempts, then emit events."""
        next_attempts = self._requests.next_attempts(
            [(d.launch, d.decision) for d in decided if d.decision.next_attempt]
        )
        acknowledgements = [
            self.acknowledgement(
                d.launch.launch_id, d.launch.subject, d.report, d.decision.cleanup,
                over=not d.decision.beside and d.launch.launch_id not in next_attempts, readable=d.readable,
            )
            for d in decided
        ]  # fmt: skip
        if next_attempts:  # the acknowledgement of an attempt comes before the offer of the next one
            self._note_waits(self._queue.acknowledge(acknowledgements))
        else:
            self._note_waits(self._queue.acknowledge_soon(acknowledgements))
        refused = self._offer(next_attempts)
        for one in decided:
            if one.launch.launch_id in refused:
                self._second_looks.add(one.report)
        for launch, report, decision, row, _ in decided:
            if decision.elsewhere and row is not None and row.host is not None:
                self._tally.note(
                    logging.WARNING, "launch superseded: the task runs in the pod of another launch or attempt",
                    launch.key, f"launch {launch.launch_id}; runs in launch {row.host[0]}, attempt {row.host[1]}",
                )  # fmt: skip
                self._launches.hold_slot_for(row.host, launch, row.launch_id)
            if decision.beside:
                launch.mark_reported(_BESIDE)
                self._tally.note(logging.WARNING, _BESIDE, launch.key, f"launch {launch.launch_id}, pod {report.pod}")
            elif launch.launch_id not in next_attempts:
                self._finish(launch, report, decision)
            elif decision.next_attempt in ("relaunch", "unused") and launch.launch_id not in refused:
                self._events.log_failure(launch, report, event_log.REPLACED)

    def confirm(self) -> None:
        """See to it that Redis has run the acknowledgements of earlier heartbeats. Costs a round trip only if it has not.

        :raises RedisUnavailable: they are sent again by the next call.
        """
        self._note_waits(self._queue.confirm())

    def _note_waits(self, waits_s: Sequence[float]) -> None:
        for seconds in waits_s:
            Stats.timing(LIFECYCLE.stats.format(step="acknowledged"), seconds * 1000.0, tags=self._tags)

    def _offer(self, next_attempts: dict[str, Launch]) -> set[str]:
        """Returns the launches whose next attempt Redis refused. The end of the others must not wait for them."""
        try:
            self._queue.offer(
                [(launch.request, launch.relaunches) for launch in next_attempts.values() if launch.request]
            )
        except RedisRefused as error:
            log.debug("%d next attempts wait: %s", len(next_attempts), error)
            return set(next_attempts)
        for launch in next_attempts.values():
            self._launches.add(launch)
            log.debug("Launch %s of %s: attempt %d handed over", launch.launch_id, launch.key, launch.attempt)
        return set()

    def _finish(self, launch: Launch, report: PodReport, decision: Decision) -> None:
        newest = self._launches.is_newest(launch)
        self._launches.forget(launch)
        if not newest:
            return
        # Airflow may have taken the slot back, or failed the task: then it expects no event, as from other executors.
        expected = launch.key in self._executor.running
        self._executor.running.discard(launch.key)
        if report.outcome == "failed":
            self._events.log_failure(launch, report)
        # A next attempt that was wanted and could not be built: the database no longer has the task in state queued.
        if expected and decision.event is not None and not decision.next_attempt:
            self._emit(launch, report, *decision.event)

    def _emit(self, launch: Launch, report: PodReport, state: str | None, info: str | None) -> None:
        if launch.kind == "task":
            compat.record_event(self._executor, launch.key, TaskInstanceState(state) if state else None, info)
            if state == TaskInstanceState.FAILED and report.outcome == "failed":
                self.failures.add(launch, state, info)
        elif state == "success":
            self._executor.success(launch.key, info)
        else:
            self._executor.fail(launch.key, info)


def _trips_for(batch: Sequence[PodReport]) -> int:
    """Round trips that processing may take: with failed pods, one to acknowledge and one to offer their next attempts."""
    return 0 if all(report.outcome == "succeeded" for report in batch) else 2
