"""Writes podrelay's rows into the event logs of tasks: how a pod began, why it waits, and why it failed.

Used by the result processor and the reconciler.
"""

from __future__ import annotations

import logging

from podrelay import event_log
from podrelay.protocol import identifiers
from podrelay.protocol.messages import PodReport
from podrelay.protocol.starts import start_text
from podrelay.scheduling.context import HeartbeatContext
from podrelay.scheduling.decisions import describe_failure
from podrelay.scheduling.launch_registry import Launch
from podrelay.store.result_stream import ReportedStart

log = logging.getLogger(__name__)

# The same reason for waiting is written to a task's event log at most once in this time.
REPEAT_REASON_AFTER_S = 60.0
_ONCE = float("inf")


class TaskEvents:
    """The scheduler saves the rows after the heartbeat."""

    def __init__(self, context: HeartbeatContext) -> None:
        self._executor = context.executor
        self._launches = context.launches

    def report_progress(self, launch: Launch, report: PodReport) -> None:
        """Write to a task's event log why its pod waits; notify the scheduler that a callback runs."""
        if report.outcome == "started" and launch.kind == "callback":
            if launch.key in self._executor.running:
                self._executor.running_state(launch.key)
        elif report.outcome == "pending" and launch.kind == "task":
            if not launch.should_report(report.reason, REPEAT_REASON_AFTER_S):
                return
            launch.mark_reported(report.reason)
            # After the start of a pod, it is reported as pending when its node no longer responds.
            event = event_log.PENDING if report.phase in ("", "Pending") else event_log.NOT_ENDED
            self.log(launch, event, f"{report.reason}: {report.message}", report)

    def log_start(self, started: ReportedStart) -> None:
        """One row for each attempt: whether its pod was warm, and why not."""
        report = started.report
        launch = self._launches.get(report.launch_id)
        if launch is None or launch.kind != "task" or report.attempt != launch.attempt:
            return
        once = f"start of attempt {report.attempt}"
        if launch.should_report(once, _ONCE):
            launch.mark_reported(once)
            self.log(launch, event_log.STARTED, start_text(started.start), report)

    def log_failure(self, launch: Launch, report: PodReport, event: str = event_log.FAILED) -> None:
        """Why its pod failed."""
        reason = describe_failure(report)
        log.debug("Task %s: %s", launch.key, reason)
        if launch.kind == "task":
            self.log(launch, event, reason, report)

    def log(self, launch: Launch, event: str, text: str, report: PodReport) -> None:
        """A row about the pod of this report."""
        extra = event_log.row_text(
            text, launch.launch_id, report.attempt, namespace=report.namespace, pod=report.pod, tail=report.log_tail
        )
        self._executor.log_task_event(event=event, extra=extra, ti_key=launch.task)

    def log_about_pod(self, launch: Launch, event: str, text: str, namespace: str, pod: str) -> None:
        """A row about the pod of a launch about which there is no report.

        :param pod: its name; empty where only the end of it is known, which identifies a pod that was not warm.
        """
        pod = pod or f"*{identifiers.pod_suffix(launch.launch_id, launch.attempt)}"
        extra = event_log.row_text(text, launch.launch_id, launch.attempt, namespace=namespace, pod=pod)
        self._executor.log_task_event(event=event, extra=extra, ti_key=launch.task)
