"""What the executor believes, compared with the ledger and the database every few seconds, and mended where they differ.

Called by the executor's `sync`. Owner of when each comparison is due, and of the epoch: the life of Redis' data.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence

from airflow.utils.state import TaskInstanceState

from podrelay import compat
from podrelay.errors import MessageError
from podrelay.protocol.messages import PodReport
from podrelay.scheduling import heartbeat_budget
from podrelay.scheduling.airflow_db import rows_by_subject
from podrelay.scheduling.attempts import RequestBuilder
from podrelay.scheduling.context import Context
from podrelay.scheduling.decisions import WANTED, TaskRow, runs_elsewhere, superseded
from podrelay.scheduling.launch_registry import Launch
from podrelay.scheduling.orphans import OrphanCollector
from podrelay.scheduling.request_builder import watches
from podrelay.scheduling.results import ResultProcessor
from podrelay.scheduling.revocations import Revocations
from podrelay.store.ledger import Finding

log = logging.getLogger(__name__)

# A pod that nobody watches holds the slot of a task that is over for at most this long: its log is written by then.
UNTOLD_S = 120.0
NO_LAUNCHER = "no launcher is alive to create the pod; start one: airflow podrelay launcher"


class Reconciler:
    """:raises RedisUnavailable, SQLAlchemyError: from `turn`; what it had not mended is mended the next time."""

    def __init__(
        self,
        context: Context,
        attempts: RequestBuilder,
        endings: ResultProcessor,
        withdrawals: Revocations,
        sweep: OrphanCollector,
    ) -> None:
        self._executor = context.executor
        self._launches = context.launches
        self._queue = context.queue
        self._ledger = context.ledger
        self._results = context.results
        self._attempts = attempts
        self._endings = endings
        self._withdrawals = withdrawals
        self._sweep = sweep
        self._epoch = ""
        self._next_check_s = 0.0
        # Compared, and not asked yet whether they wait in vain.
        self._unasked: list[Launch] = []

    def due_now(self) -> None:
        """The next turn compares everything, whenever it was last compared."""
        self._next_check_s = 0.0
        self._launches.check_all_again()
        self._sweep.due_now()

    def turn(self) -> None:
        """Compare what is due, group by group while its share of the heartbeat lasts."""
        now = time.monotonic()
        if now >= self._next_check_s or not self._launches.round_is_over:
            if self._launches.round_is_over:
                self._next_check_s = now + self._executor.settings.reconcile_interval_s
                self._free_slots_without_launch()
                self._endings.report_again(self._executor.settings.reconcile_interval_s)
            share = heartbeat_budget.TimeSlice(heartbeat_budget.COMPARISON_S)
            while True:
                turn = self._launches.next_to_check(heartbeat_budget.COMPARED_AT_ONCE)
                self._check(turn)
                self._unasked += turn
                if self._launches.round_is_over or share.over or not self._executor.beat.has_room(2):
                    break

    def ask(self) -> None:
        """Tell those of the launches compared last that wait for a launcher while there is none."""
        unasked, self._unasked = self._unasked, []  # where this fails, the next comparison brings them again
        self._tell_who_waits_in_vain(unasked)

    def _check(self, turn: Sequence[Launch]) -> None:
        """Compare some launches with the ledger and the database, and mend what differs."""
        epoch, findings = self._ledger.survey([(launch.launch_id, launch.attempt) for launch in turn])
        if self._epoch and epoch != self._epoch:
            log.warning("Redis lost its data; launches are handed over again")
            self._results.rewind()
            self._launches.check_all_again()
        self._epoch = epoch
        rows = rows_by_subject([launch.subject for launch in turn if launch.kind == "task"])
        self._announce_again(turn, rows)
        found = self._take_found_results(findings)
        gone = {
            finding.launch_id: finding.what for finding in findings if finding.what in ("missing", "lost", "withdrawn")
        }
        offer = [
            launch
            for launch in turn
            if launch.launch_id not in found
            and self._launches.get(launch.launch_id) is launch
            and self._lacks_an_offer(launch, rows.get(launch.subject), gone.get(launch.launch_id, ""))
        ]
        self._attempts.rebuild(launch for launch in offer if launch.request is None)
        again = [(launch.request, launch.relaunches) for launch in offer if launch.request is not None]
        if again:
            log.warning("%d launches had no entry in Redis and are handed over again", len(again))
            self._queue.offer(again)

    def _tell_who_waits_in_vain(self, turn: Sequence[Launch]) -> None:
        tasks = [launch for launch in turn if launch.kind == "task" and not launch.withdrawn]
        by_id = {launch.launch_id: launch for launch in tasks}
        for launch_id in self._ledger.without_launcher(self._executor.cluster, list(by_id), time.time()):
            launch = by_id[launch_id]
            self._endings.tell(
                launch, PodReport(launch.launch_id, launch.attempt, "pending", "NoLauncher", NO_LAUNCHER)
            )

    def _lacks_an_offer(self, launch: Launch, row: TaskRow | None, gone: str) -> bool:
        """Is this launch wanted, and nowhere in Redis? One that is not wanted any more is withdrawn or dropped.

        :param gone: what the ledger lacks of it (`Finding.what`), empty where nothing is amiss.
        """
        row = launch.told_of(row)
        if not gone and self._ended_by_itself(launch, row):
            self._let_go_if_nobody_watches(launch)
            return False
        if launch.kind == "task" and self._unwanted(launch, row):
            outrun = not self._launches.is_newest(launch)
            self._withdrawals.note(launch.launch_id, launch.subject, "outrun" if outrun else "unwanted")
            if row is not None and row.host is not None and self._runs_elsewhere(launch, row):
                self._launches.follow(launch, row.host, row.launch_id)
            # One that is withdrawn already may have a pod that runs: its end is still to be told and cleaned up.
            if gone and gone != "withdrawn":
                self._launches.drop(launch, self._executor.running)
            return False
        if gone == "withdrawn" and not (row is not None and row.state in ("running", "restarting")):
            self._launches.drop(launch, self._executor.running)
            return False
        return bool(gone) and (launch.kind != "task" or (row is not None and row.state == "queued"))

    def _announce_again(self, turn: Sequence[Launch], rows: Mapping[str, TaskRow]) -> None:
        """Name launches until their rows do: an event is lost where another scheduler holds the row at that moment."""
        events = self._executor.event_buffer
        for launch in turn:
            row = rows.get(launch.subject)
            newest = launch.kind == "task" and self._launches.is_newest(launch) and launch.key not in events
            if row is not None and row.state in WANTED and launch.is_untold(row) and newest:
                compat.record_event(self._executor, launch.key, TaskInstanceState.QUEUED, launch.launch_id)

    def _ended_by_itself(self, launch: Launch, row: TaskRow | None) -> bool:
        """The task is over, and the watcher has not told of its pod yet: that pod may still be writing its log."""
        if launch.kind != "task" or launch.withdrawn or launch.foreign_id is not None or row is None:
            return False
        if not self._launches.is_newest(launch) or superseded(
            launch.launch_id, launch.attempt, launch.task.try_number, row
        ):
            return False
        # The start date alone does not say it: a task that resumes after a deferral keeps its first one.
        return (row.began or row.host == (launch.launch_id, launch.attempt)) and row.state not in WANTED

    def _let_go_if_nobody_watches(self, launch: Launch) -> None:
        """Where the watcher may not even ask for a pod, its end is never told: its slot is not kept for that."""
        if launch.request is None or watches(self._executor.kube_config, launch.request.namespace):
            return
        now = time.monotonic()
        launch.over_since_s = launch.over_since_s or now
        if now - launch.over_since_s < UNTOLD_S:
            return
        told = (
            f"The task is over, and the end of its pod in namespace {launch.request.namespace}, which is not watched, is "
            f"not known after {UNTOLD_S:g} s: its slot is freed, its pod stays. Let the watcher get pods there."
        )
        log.warning("%s: %s", launch.key, told)
        self._executor.log_task_event(event="pod not followed", extra=told, ti_key=launch.task)
        self._launches.drop(launch, self._executor.running)

    def _unwanted(self, launch: Launch, row: TaskRow | None) -> bool:
        if launch.withdrawn or not self._launches.is_newest(launch) or row is None:
            return True
        if launch.foreign_id is not None:
            return (row.launch_id or "") != launch.foreign_id or row.state not in ("running", "restarting")
        return superseded(launch.launch_id, launch.attempt, launch.task.try_number, row) or row.state not in WANTED

    def _runs_elsewhere(self, launch: Launch, row: TaskRow) -> bool:
        return (
            not launch.withdrawn
            and launch.foreign_id is None
            and self._launches.is_newest(launch)
            and runs_elsewhere(launch.launch_id, launch.attempt, launch.task.try_number, row)
        )

    def _take_found_results(self, findings: Sequence[Finding]) -> set[str]:
        """Results that the ledger has and the stream did not bring, and attempts that another process made.

        :return: the launches whose results are kept for the next heartbeat, as this one has no room for them.
        """
        results = []
        for finding in findings:
            launch = self._launches.get(finding.launch_id)
            if launch is None:
                continue
            if finding.what == "ahead":
                launch.attempt, launch.relaunches = finding.attempt, finding.relaunches
            if finding.sealed_result:
                try:
                    results.append(self._results.open(finding.sealed_result))
                except MessageError as error:
                    log.warning("The ledger's result of launch %s cannot be trusted: %s", finding.launch_id, error)
        if self._executor.beat.has_room(3):
            self._endings.handle(results)
            return set()
        self._endings.keep(results)
        return {result.launch_id for result in results}

    def _free_slots_without_launch(self) -> None:
        running = self._executor.running
        for key in [key for key in running if self._launches.of_key(key) is None]:
            log.warning("%s holds a slot without a launch; the slot is freed", key)
            running.discard(key)
