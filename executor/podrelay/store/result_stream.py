"""Reads pod reports from the results stream in bounded batches, with a cursor in memory. Used by the result processor.

Every scheduler reads every entry; there is no consumer group that could be lost. What a scheduler misses (it started
later, or the stream was trimmed or lost) is in the ledger, where reconciliation finds it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from podrelay.errors import DecryptionError, MessageError, RedisRefused, UnknownFormat
from podrelay.protocol.encryption import PayloadCipher
from podrelay.protocol.messages import PodReport
from podrelay.protocol.redis_keys import RedisKeys
from podrelay.protocol.redis_values import fields_of, text
from podrelay.protocol.starts import start_in
from podrelay.store.bounded_reads import read_stream
from podrelay.store.circuit_breaker import CircuitBreaker
from podrelay.store.log_requests import request_logs
from podrelay.store.quarantine import Quarantined, quarantine

log = logging.getLogger(__name__)

# Reports that cannot be decrypted, and entries that are no reports, are logged at most once in this time.
_REMIND_S = 60.0


class ReportedStart(NamedTuple):
    """A report, and what the entry of the stream says beside it, unencrypted, about how the pod began."""

    report: PodReport
    start: str


class ResultStream:
    """:raises RedisUnavailable: from `read` and `skip_to_end`; the position is then unchanged."""

    def __init__(self, breaker: CircuitBreaker, keys: RedisKeys, cipher: PayloadCipher) -> None:
        self._breaker = breaker
        self._keys = keys
        self._cipher = cipher
        self._cursor: str | None = None
        self._starts: list[ReportedStart] = []
        self._noted_s = self._rejected_s = self._format_noted_s = float("-inf")

    @property
    def cursor(self) -> str:
        """The id of the last entry that was read; empty before the first read."""
        return self._cursor or ""

    def skip_to_end(self) -> None:
        """Start after the present entries: a scheduler that starts reads older reports from the ledger."""
        self._cursor = text(self._breaker.run(read_stream(self._keys, self._keys.results, "$"))[0])

    def rewind(self) -> None:
        """Start at the first entry: the stream was lost, and the new one may have smaller ids."""
        self._cursor = "0-0"

    def read(self, most: int) -> list[PodReport]:
        """The next reports, at most `most`. An entry that cannot be trusted is quarantined and skipped; a report of another
        format is only skipped, as the ledger keeps it.
        """
        if self._cursor is None:
            self.skip_to_end()
        position, entries = self._breaker.run(read_stream(self._keys, self._keys.results, self._cursor or "0-0", most))
        reports, rejected, unreadable = [], [], 0
        for entry_id, flat in entries:
            fields = fields_of(flat)
            try:
                reports.append(self.open(fields["result"]))
                self._note_start(reports[-1], fields)
            except UnknownFormat as error:
                self._note_format(str(error))
            except DecryptionError:
                unreadable += 1  # perhaps of a process with another key: the ledger holds this report too
            except MessageError as error:
                rejected.append(Quarantined("stream_entry", text(entry_id), error.kind, str(error)))
            except KeyError:
                rejected.append(Quarantined("stream_entry", text(entry_id), "malformed", "an entry without a report"))
        self._quarantine(rejected)
        self._note_unreadable(unreadable, text(position))
        self._cursor = text(position)
        return reports

    def pop_starts(self) -> list[ReportedStart]:
        """How the pods began whose starts or ends `read` has found since the last call; empty while warm pods are off."""
        found, self._starts = self._starts, []
        return found

    def _note_start(self, report: PodReport, fields: Mapping[str, str]) -> None:
        start = start_in(fields.get("start"))
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
