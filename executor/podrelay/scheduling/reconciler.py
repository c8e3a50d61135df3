"""Compares the registry with the ledger and the database every few seconds, and repairs the differences.

Called by the executor's `sync`. Owner of when each comparison is due, and of the epoch: the life of Redis' data.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence

from airflow.utils.state import TaskInstanceState

from podrelay import compat, event_log
from podrelay.errors import MessageError, UnknownFormat
from podrelay.protocol import identifiers
from podrelay.protocol.identifiers import DEFAULT_CLUSTER
from podrelay.protocol.messages import PodReport
from podrelay.scheduling import heartbeat_budget
from podrelay.scheduling.airflow_db import rows_by_subject
from podrelay.scheduling.context import HeartbeatContext
from podrelay.scheduling.decisions import WANTED, TaskRow, runs_elsewhere, superseded
from podrelay.scheduling.launch_registry import RENEWED, Launch, LaunchState, renewed
from podrelay.scheduling.orphans import OrphanCollector
from podrelay.scheduling.request_builder import RequestBuilder, is_watched
from podrelay.scheduling.results import ResultProcessor
from podrelay.scheduling.revocations import Revocations
from podrelay.scheduling.task_events import REPEAT_REASON_AFTER_S, TaskEvents
from podrelay.scheduling.unreadable import OF_ANOTHER_FORMAT, WITHOUT_KEY, Unread, stand_in
from podrelay.store.ledger import Finding

log = logging.getLogger(__name__)

# A task that is over keeps its slot for at most this long if no watcher follows its pod: by then its log is written.
UNWATCHED_END_S = 120.0
KEY_MISMATCH = (
    "a launcher lacks the key with which this scheduler encrypts launches; give both the same [podrelay] fernet_key or "
    "[core] fernet_key (airflow podrelay check compares the keys)"
)
# What the ledger lacks, and what the log says about it.
_GONE = {
    "missing": "without an entry in Redis",
    "lost": "whose job in Redis is gone",
    "rejected": "whose job a launcher could not read",
    "withdrawn": "withdrawn in Redis",
}
# What a launcher cannot read (`Finding.what`): reason and message for the task.
_UNREADABLE = {
    "unreadable": ("KeyMismatch", KEY_MISMATCH),
    "unknown_format": (
        "UnknownFormat",
        "launchers run an older podrelay, which does not read the launches of this scheduler; upgrade the launchers",
    ),
}
# Why the end of a pod may never be reported.
_NOT_WATCHED = "namespace {} is not watched: slot freed, pod left in place. Allow the watcher to get pods there."
_OTHER_POD = "the ledger names another pod (Redis lost data, or was written to): slot freed, pod left in place."
NO_LAUNCHER = "no launcher is running to create the pod; start one with: airflow podrelay launcher{}"


class Reconciler:
    """:raises RedisUnavailable, SQLAlchemyError: from `run_once`; the next comparison repairs what this one did not."""

    def __init__(
        self,
        context: HeartbeatContext,
        requests: RequestBuilder,
        results: ResultProcessor,
        revocations: Revocations,
        orphans: OrphanCollector,
    ) -> None:
        self._executor = context.executor
        self._tally = context.tally
        self._cluster = context.identity.cluster
        of_team = "" if self._cluster == DEFAULT_CLUSTER else f" --team {self._cluster}"
        self._no_launcher = NO_LAUNCHER.format(of_team)
        self._owner = context.identity.owner
        self._interval_s = context.settings.reconcile_interval_s
        self._kube_config = context.kube_config
        self._budget = context.budget
        self._launches = context.launches
        self._queue = context.queue
        self._ledger = context.ledger
        self._stream = context.results
        self._requests = requests
        self._results = results
        self._events = TaskEvents(context)
        self._revocations = revocations
        self._orphans = orphans
        self._epoch = ""
        self._next_round_s = 0.0
        # Compared; whether they wait although no launcher is running has not been checked yet.
        self._launcher_unchecked: list[Launch] = []

    def schedule_now(self) -> None:
        """Compare everything from the next run on, and search for orphans, whenever the last time was."""
        self._next_round_s = 0.0
        self._launches.restart_round()
        self._orphans.schedule_now()

    def run_once(self) -> None:
        """Compare what is due, in batches while the time slice lasts."""
        now_s = time.monotonic()
        if now_s < self._next_round_s and self._launches.round_is_over:
            return
        if self._launches.round_is_over:
            self._next_round_s = now_s + self._interval_s
            self._free_slots_without_launch()
            self._results.failures.repeat(self._interval_s)
        time_slice = heartbeat_budget.TimeSlice(heartbeat_budget.COMPARISON_S)
        while True:
            batch = self._launches.next_to_check(heartbeat_budget.COMPARISON_BATCH)
            self._compare(batch)
            self._launcher_unchecked += batch
            if self._launches.round_is_over or time_slice.over or not self._budget.has_room(2):
                break

    def report_missing_launcher(self) -> None:
        """Notify tasks that wait for a launcher while none is running, among the launches compared since the last call."""
        # After a failure, the next round adds them again.
        unchecked, self._launcher_unchecked = self._launcher_unchecked, []
        by_id = {launch.launch_id: launch for launch in unchecked if launch.kind == "task" and not launch.is_withdrawn}
        for launch_id in self._ledger.without_launcher(self._cluster, list(by_id), time.time()):
            report = PodReport(launch_id, by_id[launch_id].attempt, "pending", "NoLauncher", self._no_launcher)
            self._events.report_progress(by_id[launch_id], report)

    def _compare(self, batch: Sequence[Launch]) -> None:
        """Compare some launches with the ledger and the database, and repair the differences."""
        epoch, findings = self._ledger.survey([(launch.launch_id, launch.attempt) for launch in batch])
        self._notice_epoch(epoch)
        rows = rows_by_subject([launch.subject for launch in batch if launch.kind == "task"])
        self._repeat_lost_ids(batch, rows)
        held = self._process_found_results(findings)
        gone = {finding.launch_id: finding.what for finding in findings if finding.what in _GONE}
        self._report_unreadable_launches(findings)
        self._offer(
            [
                launch
                for launch in batch
                if launch.launch_id not in held
                and self._launches.get(launch.launch_id) is launch
                and self._needs_offer(launch, rows.get(launch.subject), gone.get(launch.launch_id, ""))
            ],
            gone,
        )

    def _notice_epoch(self, epoch: str) -> None:
        if self._epoch and epoch != self._epoch:
            log.warning("Redis lost its data; handing over all launches again")
            self._stream.rewind()
            self._launches.restart_round()
        self._epoch = epoch

    def _offer(self, launches: Sequence[Launch], gone: Mapping[str, str]) -> None:
        self._requests.rebuild(launch for launch in launches if launch.request is None)
        offers = [
            (launch.request.replaced(repeated=True), launch.relaunches)
            for launch in launches
            if launch.request is not None
        ]
        if offers:
            whats = Counter(_GONE[gone[launch.launch_id]] for launch in launches if launch.request is not None)
            reasons = ", ".join(f"{count} {what}" for what, count in whats.items())
            log.warning("Handing over launches again: %s", reasons)
            self._queue.offer(offers)

    def _needs_offer(self, launch: Launch, row: TaskRow | None, gone: str) -> bool:
        """Is this launch wanted, and missing from Redis? One that is no longer wanted is withdrawn or released.

        :param gone: what the ledger lacks (`Finding.what`); empty if nothing is wrong.
        """
        if self._launches.is_newest(launch) and launch.belongs_to_another(self._owner, row):
            self._note(logging.INFO, "another scheduler has adopted it; slot freed", launch)
            self._launches.release(launch, self._executor.running)
            return False
        row = launch.as_known_to(row)
        if not gone and self._task_is_over(launch, row):
            if row is not None:
                self._release_if_not_followed(launch, row)
            return False
        if launch.kind == "task" and self._is_unwanted(launch, row):
            self._take_back(launch, row, gone)
            return False
        if gone == "withdrawn" and not (row is not None and row.state in ("running", "restarting")):
            self._release_withdrawn(launch, row)
            return False
        return bool(gone) and (launch.kind != "task" or (row is not None and row.state == "queued"))

    def _release_withdrawn(self, launch: Launch, row: TaskRow | None) -> None:
        """Somebody took it back. If its task still waits for it, that scheduler died before the database showed why, or the
        task was queued again under the same id.
        """
        if launch.kind == "task" and row is not None:
            self._launches.forget(launch)
            self._launches.add(renewed(launch, row.launch_id or ""))
            self._note(logging.WARNING, RENEWED, launch)
            return
        self._note(logging.WARNING, "launch taken back by another process; slot freed", launch)
        self._launches.release(launch, self._executor.running)

    def _take_back(self, launch: Launch, row: TaskRow | None, gone: str) -> None:
        newest = self._launches.is_newest(launch)
        self._revocations.request(launch.launch_id, launch.subject, "unwanted" if newest else "superseded")
        if row is not None and row.host is not None and self._runs_elsewhere(launch, row):
            self._launches.hold_slot_for(row.host, launch, row.launch_id)
        # One that is withdrawn already may have a running pod, whose end is still to be reported and cleaned up.
        if gone and gone != "withdrawn":
            self._launches.release(launch, self._executor.running)

    def _repeat_lost_ids(self, batch: Sequence[Launch], rows: Mapping[str, TaskRow]) -> None:
        """Send launch ids to the scheduler until the rows hold them. It loses an event if another scheduler holds the row."""
        executor = self._executor
        for launch in batch:
            row = rows.get(launch.subject)
            if (
                row is None
                or row.state not in WANTED
                or not launch.is_unknown_to(row)
                or self._is_queued_elsewhere(row)
            ):
                continue
            newest = launch.kind == "task" and self._launches.is_newest(launch)
            if newest and launch.key in executor.running and launch.key not in executor.event_buffer:
                compat.record_event(executor, launch.key, TaskInstanceState.QUEUED, launch.launch_id)

    def _task_is_over(self, launch: Launch, row: TaskRow | None) -> bool:
        """The task ended in the pod of this launch, whose end is not reported yet: it may still be writing its log."""
        if launch.kind != "task" or not launch.is_followed or row is None or row.state in WANTED:
            return False
        if not self._launches.is_newest(launch):
            return False
        if superseded(launch.launch_id, launch.attempt, launch.task.try_number, row):
            return False
        # The start date alone proves nothing: a task that resumes after a deferral keeps its first one.
        return row.began or row.host == (launch.launch_id, launch.attempt)

    def _release_if_not_followed(self, launch: Launch, row: TaskRow) -> None:
        """If the end of the pod may never be reported, free the slot: the watcher may not even get pods in this namespace, or
        the ledger names another pod than the warm one in which the task ran.
        """
        if launch.request is None:
            return
        namespace, pod = launch.request.namespace, row.pod if row.host == (launch.launch_id, launch.attempt) else ""
        watched = is_watched(self._kube_config, namespace)
        if watched and not identifiers.warm_id_of_pod(pod):
            return
        if launch.mark_task_over(time.monotonic()) < UNWATCHED_END_S:
            return
        if watched and not self._names_another_pod(launch, pod):
            return
        why = _OTHER_POD if watched else _NOT_WATCHED.format(namespace)
        text = f"The task is over, but no end of its pod was seen within {UNWATCHED_END_S:g} s, because {why}"
        self._note(logging.WARNING, "the task is over, and its pod is not followed; slot freed", launch)
        self._events.log_about_pod(launch, event_log.NOT_FOLLOWED, text, namespace, pod)
        self._launches.release(launch, self._executor.running)

    def _names_another_pod(self, launch: Launch, pod: str) -> bool:
        """Does the ledger name another pod of this launch than the one in the task's row? Looked up once a minute."""
        if not launch.should_report(_OTHER_POD, REPEAT_REASON_AFTER_S) or not self._budget.has_room():
            return False
        launch.mark_reported(_OTHER_POD)
        (entry,) = self._ledger.entries([launch.launch_id])
        return entry.get("pod", pod) != pod

    def _is_unwanted(self, launch: Launch, row: TaskRow | None) -> bool:
        if launch.is_withdrawn or not self._launches.is_newest(launch) or row is None:
            return True
        if launch.state is LaunchState.SLOT_ONLY:
            return (row.launch_id or "") != launch.foreign_id or row.state not in ("running", "restarting")
        if row.state == "queued" and self._is_queued_elsewhere(row):
            return True
        return row.state not in WANTED or superseded(launch.launch_id, launch.attempt, launch.task.try_number, row)

    def _is_queued_elsewhere(self, row: TaskRow) -> bool:
        """Did another scheduler queue the task, or none? Where Airflow tests a DAG without a scheduler, no row names one."""
        return self._owner.isdigit() and row.queued_by != int(self._owner)

    def _runs_elsewhere(self, launch: Launch, row: TaskRow) -> bool:
        return (
            launch.is_followed
            and self._launches.is_newest(launch)
            and runs_elsewhere(launch.launch_id, launch.attempt, launch.task.try_number, row)
        )

    def _process_found_results(self, findings: Sequence[Finding]) -> set[str]:
        """Process results that are in the ledger and did not arrive by the stream, and adopt attempts that another process
        made.

        :return: launches whose results wait for the next heartbeat, because this one has no budget for them.
        """
        reports: list[PodReport] = []
        unread: dict[Unread, list[str]] = {WITHOUT_KEY: [], OF_ANOTHER_FORMAT: []}
        for finding in findings:
            launch = self._launches.get(finding.launch_id)
            if launch is None:
                continue
            if finding.what == "ahead":
                launch.catch_up(finding.attempt, finding.relaunches)
            if finding.sealed_result:
                try:
                    reports.append(self._stream.open(finding.sealed_result))
                except MessageError as error:
                    why = OF_ANOTHER_FORMAT if isinstance(error, UnknownFormat) else WITHOUT_KEY
                    unread[why].append(finding.launch_id)
        for why, launch_ids in unread.items():
            self._process_unreadable(launch_ids, why)
        if self._budget.has_room(3):
            self._results.process(reports)
            return set()
        self._results.hold(reports)
        return {report.launch_id for report in reports}

    def _process_unreadable(self, launch_ids: Sequence[str], why: Unread) -> None:
        """Use what the ledger says unencrypted about the end of these launches. One readable report later replaces it."""
        if not launch_ids or not self._budget.has_room(3):
            return
        entries = zip(launch_ids, self._ledger.entries(launch_ids), strict=True)
        reports = [
            report for launch_id, entry in entries if (report := stand_in(launch_id, entry, why.notice)) is not None
        ]
        by_id = {report.launch_id: report for report in reports}
        for launch in self._results.process_unreadable(reports, why):
            if not launch.should_report(why.notice, REPEAT_REASON_AFTER_S):
                continue
            launch.mark_reported(why.notice)
            self._note(logging.WARNING, f"the pod has ended, but {why.notice}", launch)
            if launch.kind == "task":
                report = by_id[launch.launch_id]
                self._events.log_about_pod(launch, event_log.UNREADABLE, why.notice, report.namespace, report.pod)

    def _note(self, level: int, what: str, launch: Launch) -> None:
        self._tally.note(level, what, launch.key, f"launch {launch.launch_id}")

    def _report_unreadable_launches(self, findings: Sequence[Finding]) -> None:
        """Report the tasks that wait because a launcher lacks the key of this scheduler, or does not read its format."""
        for finding in findings:
            launch = self._launches.get(finding.launch_id)
            if finding.what in _UNREADABLE and launch is not None and launch.kind == "task":
                reason, message = _UNREADABLE[finding.what]
                self._events.report_progress(
                    launch, PodReport(launch.launch_id, launch.attempt, "pending", reason, message)
                )

    def _free_slots_without_launch(self) -> None:
        running = self._executor.running
        for key in [key for key in running if self._launches.of_key(key) is None]:
            self._tally.note(logging.WARNING, "no launch known; slot freed", key)
            running.discard(key)
