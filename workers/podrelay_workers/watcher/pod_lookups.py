"""Reads single pods in addition to the watch: does a pod still exist, which event explains its wait, how does its log end.

Used by `leader`. Requests run in background tasks, at most `LOOKUPS_MAX` at once.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from podrelay.protocol import identifiers
from podrelay.protocol.messages import Json, PodReport
from podrelay_workers.kube.client import PodClient
from podrelay_workers.kube.errors import ApiError, NotFound
from podrelay_workers.runtime.backoff import Backoff
from podrelay_workers.watcher.log_lines import readable_tail
from podrelay_workers.watcher.pod_reasons import POD_DELETED, POD_VANISHED, add_event_reason
from podrelay_workers.watcher.pod_table import PodEntry
from podrelay_workers.watcher.reflector import LONGEST_PAUSE_S

log = logging.getLogger(__name__)

LOOKUPS_MAX = 16
LOG_TAIL_S = 3.0  # a report waits no longer than this for the last lines of the log
# A line with an exception and its frames takes several kilobytes; it is shortened after it was read.
LOG_TAIL_BYTES = 64 << 10


class PodLookups:
    """Requests for single pods of one cluster."""

    def __init__(self, api: PodClient, log_lines: int) -> None:
        """:param log_lines: how many lines of a failed container's log go into its report; 0 for none."""
        self._api = api
        self._log_lines = log_lines
        self._slots = asyncio.Semaphore(LOOKUPS_MAX)

    async def find(self, entry: PodEntry) -> Json | None:
        """The pod of this name as it is now; None where the API server confirms that there is none. Retries until then.

        Instead of a warm pod of that name, which the ledger may have from anybody, the pod whose labels name the attempt.
        """
        retries = Backoff(first_s=0.5, most_s=10.0)
        while True:
            try:
                async with self._slots:
                    return await self._find(entry)
            except ApiError as error:
                if not retries.failures:
                    log.info(
                        "Cannot confirm that pod %s/%s is gone; will retry: %s", entry.namespace, entry.name, error
                    )
                await asyncio.sleep(min(retries.failed("", error.retry_after_s), LONGEST_PAUSE_S))

    async def _find(self, entry: PodEntry) -> Json | None:
        """:raises ApiError: unknown."""
        found = None
        with suppress(NotFound):
            found = await self._api.get_pod(entry.namespace, entry.name)
        if not identifiers.warm_id_of_pod(entry.name) or _is_of(entry, found):
            return found
        selector = ",".join(f"{name}={value}" for name, value in _labels_of(entry).items())
        page = await self._api.list_page(entry.namespace, labels=f"{selector},{identifiers.LABEL_REVOKED}!=True")
        return page.items[0] if page.items else None

    async def with_event_reason(self, entry: PodEntry, report: PodReport) -> PodReport:
        """The report with the reason that the pod's Kubernetes events give: a missing secret or volume shows only there.
        The same object where they give none, or cannot be read.
        """
        try:
            async with self._slots:
                events = await self._api.list_events(entry.namespace, name=entry.name, uid=entry.uid)
        except ApiError as error:
            log.debug("Cannot read the events of pod %s/%s: %s", entry.namespace, entry.name, error)
            return report
        return add_event_reason(report, events)

    def needs_log(self, report: PodReport) -> bool:
        """Does this report lack a log tail that `with_log_tail` could add?"""
        return bool(report.outcome == "failed" and self._log_lines and report.exit_code is not None)

    def with_log_notice(self, report: PodReport) -> PodReport:
        """The report, with a notice in place of the log tail if the log was deleted together with the pod."""
        if report.outcome == "failed" and self._log_lines and report.reason in (POD_DELETED, POD_VANISHED):
            return report.replaced(log_tail=("(log not available: the pod is gone)",))
        return report

    async def with_log_tail(self, report: PodReport) -> PodReport:
        """The report with the last lines of the log of the container that failed, or with one line that says why not."""
        try:
            lines = await asyncio.wait_for(self._log_tail(report), LOG_TAIL_S)
        except (ApiError, asyncio.TimeoutError) as error:
            lines = [f"(log not available: {error or f'no reply within {LOG_TAIL_S:g} s'})"]
        return report.replaced(log_tail=tuple(lines))

    async def _log_tail(self, report: PodReport) -> list[str]:
        async with self._slots:
            lines = await self._api.read_log_tail(
                report.namespace,
                report.pod,
                container=report.container,
                tail_lines=self._log_lines,
                limit_bytes=LOG_TAIL_BYTES,
            )
        return readable_tail(lines)


def _labels_of(entry: PodEntry) -> dict[str, str]:
    return {identifiers.LABEL_LAUNCH_ID: entry.launch_id, identifiers.LABEL_ATTEMPT: str(entry.attempt)}


def _is_of(entry: PodEntry, pod: Json | None) -> bool:
    """Do the labels of this pod name the attempt?"""
    labels = (pod or {}).get("metadata", {}).get("labels") or {}
    return all(labels.get(name) == value for name, value in _labels_of(entry).items())
