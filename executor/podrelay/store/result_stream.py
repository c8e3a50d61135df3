"""Reads pod reports from the results stream in bounded batches, with a cursor in memory. Used by the result processor.

Every scheduler reads every entry; there is no consumer group that could be lost. What a scheduler misses (it started
later, or the stream was trimmed or lost) is in the ledger, where reconciliation finds it.

So what an entry says unencrypted may decide that its report is passed over, and nothing else: the ledger has the reports of
launches that this scheduler adopts or hands over later, and those that a forged entry hides.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Container, Sequence
from contextlib import suppress
from itertools import islice
from typing import NamedTuple

from podrelay.errors import DecryptionError, MessageError, RedisRefused, UnknownFormat
from podrelay.protocol.encryption import PayloadCipher
from podrelay.protocol.messages import PodReport
from podrelay.protocol.redis_keys import RedisKeys
from podrelay.protocol.redis_values import text
from podrelay.protocol.starts import start_in
from podrelay.store.bounded_reads import read_stream
from podrelay.store.circuit_breaker import CircuitBreaker, Posted
from podrelay.store.log_requests import request_logs
from podrelay.store.quarantine import Quarantined, quarantine
from podrelay.store.script_table import ScriptCall

log = logging.getLogger(__name__)

# Reports that cannot be decrypted, and entries that are no reports, are logged at most once in this time.
_REMIND_S = 60.0
# Entries read at once: others may have written most of them. Redis needs 2 ms for so many.
_READ_MOST = 500

# Launch id, outcome, and whether the entry says how the pod began.
Concerns = Callable[[str, str, bool], bool]


class ReportedStart(NamedTuple):
    """A report, and what the entry of the stream says beside it, unencrypted, about how the pod began."""

    report: PodReport
    start: str


class _Entry(NamedTuple):
    """An entry of the stream, as far as it is read; empty for what it lacks. Only `result` is encrypted."""

    id: bytes
    launch: bytes
    outcome: bytes
    start: bytes
    result: bytes


_FIELDS = _Entry._fields[1:]


class ResultStream:
    """:raises RedisUnavailable: from `fetch` and `skip_to_end`; the position is then unchanged."""

    def __init__(self, breaker: CircuitBreaker, keys: RedisKeys, cipher: PayloadCipher) -> None:
        self._breaker = breaker
        self._keys = keys
        self._cipher = cipher
        self._cursor: str | None = None
        self._requested: Posted | None = None
        # When it was last read to its end (monotonic).
        self.read_s = float("-inf")
        # Entries of other schedulers, and starts of pods that call for nothing, since the start.
        self.passed_over = 0
        self._fetched: deque[_Entry] = deque()
        self._starts: list[ReportedStart] = []
        self._noted_s = self._rejected_s = self._format_noted_s = float("-inf")

    @property
    def cursor(self) -> str:
        """The id of the last entry that was read; empty before the first read."""
        return self._cursor or ""

    def skip_to_end(self) -> None:
        """Start after the present entries: a scheduler that starts reads older reports from the ledger."""
        self.withdraw_request()
        self._cursor = text(self._breaker.run(read_stream(self._keys, self._keys.results, "$"))[0])

    def rewind(self) -> None:
        """Start at the first entry: the stream was lost, and the new one may have smaller ids."""
        self.withdraw_request()
        self._cursor = "0-0"

    def fetch(self, own: Container[str], concerns: Concerns) -> bool:
        """Read the next entries. Those that may concern this scheduler wait to be opened; the others cost it next to nothing.

        An entry without a launch id may concern everybody.

        :param own: the launches of this scheduler.
        :param concerns: does an entry of one of these call for anything, by what it says unencrypted?
        :return: whether the stream had more.
        """
        if self._cursor is None:
            self.skip_to_end()
        requested, self._requested = self._requested, None
        if requested is not None:
            ((position, flat),) = self._breaker.collect(requested)
        else:
            position, flat = self._breaker.run(self._next())
        count = len(flat) // len(_Entry._fields)
        if count < _READ_MOST:
            self.read_s = time.monotonic()
        if not flat:
            self._cursor = text(position)
            return False
        found = zip(*[iter(flat)] * len(_Entry._fields), strict=True)
        wanted = [
            _Entry(id, launch, outcome, start, result)
            for id, launch, outcome, start, result in found
            # In this order: for most entries, only the first two are asked.
            if not launch
            or ((name := launch.decode(errors="replace")) in own and concerns(name, text(outcome), bool(start)))
        ]
        self.passed_over += count - len(wanted)
        self._fetched.extend(wanted)
        self._cursor = text(position)
        return count >= _READ_MOST

    def request(self) -> None:
        """Send for the next entries: the next `fetch` reads them. Whoever calls this calls `withdraw_request`
        in the end, as perhaps no `fetch` follows.

        :raises RedisUnavailable: the position is unchanged.
        """
        if self._cursor is not None and self._requested is None:
            self._requested = self._breaker.post([self._next()])

    def withdraw_request(self) -> None:
        """Do without what was requested and not fetched."""
        if self._requested is not None:
            self._breaker.drop(self._requested)
            self._requested = None

    def _next(self) -> ScriptCall:
        return read_stream(self._keys, self._keys.results, self._cursor or "0-0", _READ_MOST, _FIELDS)

    @property
    def fetched(self) -> int:
        """How many entries wait to be opened."""
        return len(self._fetched)

    def open_next(self, most: int) -> list[PodReport]:
        """The reports in the next fetched entries, at most `most` of them. An entry that cannot be trusted is quarantined and
        skipped; a report of another format is only skipped, as the ledger keeps it.
        """
        entries = list(islice(self._fetched, most))
        reports, rejected, unreadable, last = [], [], 0, ""
        for entry in entries:
            if not entry.result:
                rejected.append(Quarantined("stream_entry", text(entry.id), "malformed", "an entry without a report"))
                continue
            try:
                report = self.open(entry.result)
            except UnknownFormat as error:
                self._note_format(str(error))
            except DecryptionError:
                # Perhaps of a process with another key: the ledger holds this report too.
                unreadable, last = unreadable + 1, text(entry.id)
            except MessageError as error:
                rejected.append(Quarantined("stream_entry", text(entry.id), error.kind, str(error)))
            else:
                reports.append(report)
                if entry.start:
                    self._note_start(report, text(entry.start))
        self._quarantine(rejected)
        self._note_unreadable(unreadable, last)
        for _ in entries:
            self._fetched.popleft()
        return reports

    def pop_starts(self) -> list[ReportedStart]:
        """How the pods began whose starts or ends were opened since the last call; empty while warm pods are off."""
        found, self._starts = self._starts, []
        return found

    def _note_start(self, report: PodReport, noted: str) -> None:
        start = start_in(noted)
        if start and report.outcome in ("started", "succeeded", "failed"):
            self._starts.append(ReportedStart(report, start))

    def open(self, sealed: bytes | str) -> PodReport:
        """Decrypt a report.

        :raises MessageError: forged or damaged; UnknownFormat: of another format.
        """
        return PodReport.decode(self._cipher.reports.decrypt(sealed))

    def request_logs(self, cluster: str, reports: Sequence[PodReport]) -> None:
        """Ask the leading watcher for the log tails of these pods. They come as reports with the outcome log, or not at all.

        :raises RedisUnavailable: Redis failed; the request may have been sent.
        """
        requests = [self._cipher.requests.encrypt(report.encode()) for report in reports]
        with suppress(RedisRefused):
            self._breaker.run(request_logs(self._keys, cluster=cluster, requests=requests))

    def _quarantine(self, rejected: Sequence[Quarantined]) -> None:
        """Record these entries, in one round trip."""
        if not rejected:
            return
        now_s = time.monotonic()
        if now_s - self._rejected_s >= _REMIND_S:
            self._rejected_s = now_s
            first = rejected[0]
            log.warning("Quarantined %d entries of the results stream, the first of them %s: %s",
                        len(rejected), first.name, first.reason)  # fmt: skip
        with suppress(RedisRefused):  # the entries behind these must not wait for it
            self._breaker.run(quarantine(self._keys, rejected))

    def _note_format(self, why: str) -> None:
        now_s = time.monotonic()
        if now_s - self._format_noted_s >= _REMIND_S:
            self._format_noted_s = now_s
            log.error("Left in the ledger, for a scheduler that reads it: %s", why)

    def _note_unreadable(self, count: int, last: str) -> None:
        """One entry for all of a batch: with a wrong key there may be thousands."""
        if count:
            reason = f"{count} reports up to this one are not encrypted with a key of this scheduler"
            with suppress(RedisRefused):
                self._breaker.run(quarantine(self._keys, [Quarantined("stream_entry", last, "undecryptable", reason)]))
            now_s = time.monotonic()
            if now_s - self._noted_s >= _REMIND_S:
                self._noted_s = now_s
                log.warning("%s; using the ledger's unencrypted fields", reason)
