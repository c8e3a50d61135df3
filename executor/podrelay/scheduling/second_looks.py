"""Reports that are processed again later: the row of a pod that ended well may be about to change, and Redis may accept a
next attempt that it refused.

A pod ends well whatever became of its task, and the watcher reads no log of such a pod. So the first look at one whose row
still says running requests the last lines of its log: if the row does not change, the second look has them.

Used by the result processor.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from podrelay.protocol.messages import PodReport
from podrelay.scheduling.context import HeartbeatContext
from podrelay.scheduling.launch_registry import Launch

# A row that says running after its pod's end is read again after this time: the API server may be about to commit the state.
# So is a report whose next attempt Redis refused.
SECOND_LOOK_AFTER_S = 3.0


class SecondLooks:
    """Kept in memory: what is lost is found in the ledger by a comparison."""

    def __init__(self, context: HeartbeatContext) -> None:
        self._cluster = context.identity.cluster
        self._budget = context.budget
        self._results = context.results
        self._wants_logs = context.settings.failure_log_lines > 0
        # By launch id and attempt, in the order of the times (monotonic) when they are to be processed again.
        self._waiting: dict[tuple[str, int], tuple[float, PodReport]] = {}
        self._without_log: list[PodReport] = []

    def add(self, report: PodReport) -> None:
        """Process this report again, but later, so that the others need not wait."""
        due_s = time.monotonic() + SECOND_LOOK_AFTER_S
        self._waiting.setdefault((report.launch_id, report.attempt), (due_s, report))

    def pop_due(self) -> Iterator[PodReport]:
        now_s = time.monotonic()
        for key, (due_s, report) in list(self._waiting.items()):
            if due_s > now_s:
                return
            del self._waiting[key]
            yield report

    def is_early(self, launch: Launch, report: PodReport) -> bool:
        """Has the row had no time yet to show what became of the task? Then it is read again later."""
        now_s = time.monotonic()
        seen_s = launch.mark_end_seen(now_s)
        if seen_s == now_s:
            self.add(report)
            self._without_log.append(report)
        return now_s < seen_s + SECOND_LOOK_AFTER_S

    def request_logs(self) -> None:
        """Request the logs of the pods that were found since the last call, if this heartbeat has time for it.

        :raises RedisUnavailable: Redis failed; the failures will then be reported without log lines.
        """
        wanted, self._without_log = self._without_log, []
        if wanted and self._wants_logs and self._budget.has_room():
            self._results.request_logs(self._cluster, wanted)
