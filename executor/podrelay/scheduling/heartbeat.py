"""The parts of a heartbeat: creates them, and runs those of `sync` within the budget. Used by the executor."""

from __future__ import annotations

import time
from collections import deque

from podrelay.errors import RedisRefused
from podrelay.scheduling.context import HeartbeatContext
from podrelay.scheduling.dispatch import Dispatcher
from podrelay.scheduling.key_check import KeyCheck
from podrelay.scheduling.orphans import OrphanCollector
from podrelay.scheduling.reconciler import Reconciler
from podrelay.scheduling.request_builder import RequestBuilder
from podrelay.scheduling.results import ResultProcessor
from podrelay.scheduling.revocations import Revocations


class Heartbeat:
    """One of each part. Each has one job; they share the context."""

    def __init__(self, context: HeartbeatContext) -> None:
        self._budget = context.budget
        self._tally = context.tally
        self._launches = context.launches
        requests = RequestBuilder(context)
        self.revocations = Revocations(context)
        self.results = ResultProcessor(context, requests)
        self.key_check = KeyCheck(context)
        orphans = OrphanCollector(context, self.results, self.revocations)
        self.reconciler = Reconciler(context, requests, self.results, self.revocations, orphans)
        self.dispatcher = Dispatcher(context, requests, self.results, self.revocations)
        self._first = self.revocations.send_pending
        # In the order in which they run. A part that does not fit is the first of the next heartbeat.
        self._parts = deque(
            (self._first, self._process_results, self._compare,
             self.reconciler.report_missing_launcher, orphans.run_once, self.key_check.run_once)
        )  # fmt: skip

    def run(self) -> None:
        """Run the parts in order, each once, while there is budget. What Redis refuses to one part stops no other.

        :raises RedisUnavailable, SQLAlchemyError: the parts keep what they did not finish, and the next run goes on with it.
        """
        try:
            self._run()
        finally:
            self._tally.flush()

    def _run(self) -> None:
        for _ in range(len(self._parts)):
            if not self._budget.has_room():
                return
            self._parts.rotate(-1)
            try:
                self._parts[-1]()
            except RedisRefused:  # the breaker has logged it
                continue
        self._parts.rotate(-self._parts.index(self._first))

    def _process_results(self) -> None:
        began_s = time.monotonic()
        try:
            self.results.process_stream()
        finally:
            self.dispatcher.results_s = time.monotonic() - began_s

    def _compare(self) -> None:
        """Launches that were handed over in this heartbeat need no comparison, and if there were no others before, the
        hand-over has used its time.
        """
        was_alone, self.dispatcher.was_alone = self.dispatcher.was_alone, False
        if not (was_alone and self._launches):
            self.reconciler.run_once()
