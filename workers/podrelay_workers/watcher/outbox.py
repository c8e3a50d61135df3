"""Publishes pod reports to ledger and stream: in batches, at most once per attempt, across outages of Redis.

A report that Redis did not confirm stays here, at most one per attempt and pod, and is sent again. Used by the watcher.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import replace

from podrelay.errors import MessageError, RedisUnavailable
from podrelay.protocol import identifiers
from podrelay.protocol.encryption import PayloadCipher
from podrelay.protocol.messages import PodReport
from podrelay.protocol.redis_keys import RedisKeys
from podrelay.protocol.redis_values import fields_of, rows, text
from podrelay.store import scripts
from podrelay.store.async_scripts import AsyncScripts
from podrelay.store.bounded_reads import read_entries
from podrelay.store.log_requests import take_log_requests
from podrelay.store.quarantine import Quarantined, quarantine
from podrelay.store.script_table import ScriptCall
from podrelay.store.scripts import Fence
from podrelay_workers.runtime.backoff import Backoff
from podrelay_workers.runtime.report_publisher import Outgoing, ReportPublisher
from podrelay_workers.watcher.leader_election import Term
from podrelay_workers.watcher.pod_table import PodEntry, Publication
from podrelay_workers.watcher.report_log import log_progress
from podrelay_workers.watcher.report_metrics import ReportMetrics

log = logging.getLogger(__name__)

BATCH = 200  # about 10 ms of Redis' time
# A report after a silence is published at once. The next publication is this much later: one round trip for many reports.
GATHER_S = 0.005
# A Redis that loses its data may lose results that no scheduler has read: the latest are published again.
KEPT_S = 30.0
# A report about a warm pod is published again this long after Redis could not say yet whether the pod is the launch's.
UNDECIDED_S = 1.0
LOG_REQUESTS = 20  # taken at once
LIVE_COUNT = 500  # about 2 ms of Redis' time
_WAIT_FIELDS = ("attempt", "wait", "t_wait")


class NotLeader(Exception):  # noqa: N818 - not an error: another watcher leads, as it should be
    """Redis rejected a publication because another watcher leads."""


class Outbox:
    """Queues reports, and publishes them while its process leads. One for the life of the process."""

    def __init__(
        self,
        runner: AsyncScripts,
        keys: RedisKeys,
        cipher: PayloadCipher,
        cluster: str,
        stream_length: int,
        metrics: ReportMetrics | None = None,
    ) -> None:
        self._metrics = metrics
        self._runner = runner
        self._keys = keys
        self._cipher = cipher
        self._cluster = cluster
        self._publisher = ReportPublisher(runner, keys, cipher, cluster, stream_length)
        self._outbox: dict[tuple[str, int, str], Publication] = {}
        self._recent: deque[tuple[float, Publication]] = deque()
        self._undecided: dict[tuple[str, int, str], Publication] = {}
        self._due_s = 0.0
        self._filled = asyncio.Event()
        self.published = 0

    def __len__(self) -> int:
        return len(self._outbox) + len(self._undecided)

    def put(self, publication: Publication) -> None:
        """Queue a report. A pod keeps only its most advanced one, with the ledger fields of all of them."""
        key = publication.key
        held = self._outbox.get(key)
        self._outbox[key] = _merged(held, publication) if held is not None else publication
        self._filled.set()

    def forget(self) -> None:
        """Drop everything: another watcher leads, and observes the pods itself."""
        self._outbox.clear()
        self._recent.clear()
        self._undecided.clear()
        self._filled.clear()

    def requeue_recent(self) -> None:
        """Redis lost its data: queue the results again that it may have lost unread."""
        for _, publication in self._recent:
            if publication.key not in self._outbox:
                self.put(publication)
        self._recent.clear()

    async def run(self, term: Term) -> None:
        """Publish what is queued, for this term, until cancelled.

        :raises NotLeader: another watcher leads.
        """
        waits = Backoff(first_s=0.1, most_s=2.0)
        while True:
            await self._wait_for_work()
            try:
                await self.flush(term)
            except RedisUnavailable:
                await asyncio.sleep(waits.failed())
            else:
                waits.worked()
                await asyncio.sleep(GATHER_S)

    async def _wait_for_work(self) -> None:
        """Wait until a report is queued, or those that Redis left undecided are due again."""
        if not self._undecided:
            await self._filled.wait()
            return
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._filled.wait(), max(0.0, self._due_s - time.monotonic()))
        if time.monotonic() >= self._due_s:
            undecided, self._undecided = self._undecided, {}
            for key, publication in undecided.items():
                newer = self._outbox.get(key)
                self._outbox[key] = publication if newer is None else _merged(publication, newer)

    async def flush(self, term: Term) -> None:
        """Publish everything that is queued now.

        :raises RedisUnavailable: unconfirmed reports stay queued; sending one twice is harmless.
        :raises NotLeader: nothing of this batch was written.
        """
        while self._outbox:
            batch = self._most_urgent()
            fence = Fence(term.leader, term.fence)
            await self._restore(fence, batch)
            now, reported = f"{time.time():.3f}", [item for _, item in batch if item.report is not None]
            sent = [Outgoing(item.report, now, item.fields, fence) for item in reported if item.report is not None]
            replies = await self._runner.run_many([self._publisher.call(outgoing) for outgoing in sent]) if sent else []
            answers = await self._publisher.settle(sent, replies)
            if -2 in answers:
                raise NotLeader
            self._sent(batch, zip(reported, answers, strict=True))
        self._filled.clear()

    async def _restore(self, fence: Fence, batch: Sequence[tuple[object, Publication]]) -> None:
        """Before the reports, in a round trip of its own: a Redis that has lost its scripts may run only the second of two
        calls, and an entry that exists is not restored.

        :raises NotLeader: nothing was written.
        """
        lost = [item for _, item in batch if item.restore is not None]
        calls = [self._restoration(fence, item, item.restore) for item in lost if item.restore is not None]
        if calls and -2 in await self._runner.run_many(calls):
            raise NotLeader

    def _most_urgent(self) -> list[tuple[tuple[str, int, str], Publication]]:
        """Those of launches that ended first: schedulers wait for them. Those of one launch keep their order."""
        ended = {key[0] for key, item in self._outbox.items() if item.report is not None and item.report.terminal}
        return sorted(self._outbox.items(), key=lambda item: item[0][0] not in ended)[:BATCH]

    def _sent(
        self, batch: list[tuple[tuple[str, int, str], Publication]], answers: Iterable[tuple[Publication, int]]
    ) -> None:
        now = time.monotonic()
        undecided: set[int] = set()
        for owner, answer in answers:
            if owner.report is not None and answer == 1:
                self.published += 1
                log_progress(owner.report)
                if self._metrics is not None:
                    self._metrics.published(owner.report)
            elif answer == -3:
                undecided.add(id(owner))
        for key, publication in batch:
            if self._outbox.get(key) is publication:  # else a newer report was queued meanwhile
                del self._outbox[key]
            if id(publication) in undecided:
                self._due_s = self._due_s if self._undecided else now + UNDECIDED_S
                self._undecided[key] = publication
            elif publication.report is not None and publication.report.terminal:
                self._recent.append((now, publication))
        while self._recent and now - self._recent[0][0] > KEPT_S:
            self._recent.popleft()

    def _restoration(self, fence: Fence, publication: Publication, fields: dict[str, str]) -> ScriptCall:
        return scripts.restore(
            self._keys,
            cluster=self._cluster,
            fence=fence,
            launch_id=publication.launch_id,
            attempt=publication.attempt,
            created=fields.get("t_created", f"{time.time():.3f}"),
            fields=fields,
        )

    async def log_requests(self) -> list[PodReport]:
        """Take the requests of executors for log tails: the reports of the pods. Whatever is not one is dropped.

        :raises RedisUnavailable: Redis failed.
        """
        call = take_log_requests(self._keys, cluster=self._cluster, most=LOG_REQUESTS)
        found = []
        for sealed in await self._runner.run(call):
            with contextlib.suppress(MessageError):  # nothing depends on it: the failure is reported without a log then
                found.append(PodReport.decode(self._cipher.requests.decrypt(sealed)))
        return found

    # --- reading the ledger -------------------------------------------------------------------------------------------
    async def waits(self, entries: Sequence[PodEntry]) -> list[dict[str, str]]:
        """The ledger's record of the present waits of some launches: attempt, wait and t_wait.

        :raises RedisUnavailable: Redis failed.
        """
        return await self._read([entry.launch_id for entry in entries], _WAIT_FIELDS)

    async def believed_live(self, before_s: float) -> AsyncGenerator[PodEntry, None]:
        """Launches of this cluster that should have a pod, created before this wall-clock time; read in bounded batches.

        :raises RedisUnavailable: Redis failed.
        """
        cursor = "0"
        while True:
            call = scripts.live(self._keys, cluster=self._cluster, cursor=cursor, count=LIVE_COUNT, before_s=before_s)
            cursor, *flat = map(text, await self._runner.run(call))
            for launch_id, attempt, namespace, pod, uid in rows(flat, 5):
                # Anybody with access to Redis can write any name there: only a name that proves its launch is used, or
                # that of a warm pod, whose labels count.
                is_warm = identifiers.warm_id_of_pod(pod) is not None
                proof = identifiers.pod_name("", launch_id, int(attempt)) if is_warm else pod
                if attempt == str(identifiers.attempt_of_pod(proof, launch_id)):
                    yield PodEntry(namespace, pod, launch_id, int(attempt), uid)
                else:
                    await self._quarantine(launch_id, "the ledger names a pod of another launch or attempt")
            if cursor == "0":
                return

    async def _read(self, launch_ids: Sequence[str], fields: Sequence[str]) -> list[dict[str, str]]:
        """These fields of some ledger entries, in one round trip; a missing field is empty text."""
        replies = await self._runner.run(read_entries(self._keys, launch_ids)) if launch_ids else []
        return [{name: entry.get(name, "") for name in fields} for entry in map(fields_of, replies)]

    async def _quarantine(self, launch_id: str, why: str) -> None:
        """Record, once, why a launch is no longer looked for, and remove it from the launches that should have a pod.

        :raises RedisUnavailable: Redis failed.
        """
        log.warning("Quarantined launch %s: %s", launch_id, why)
        await self._runner.run(quarantine(self._keys, [Quarantined("launch", launch_id, "foreign", why)]))
        await self._runner.call(lambda client: client.zrem(self._keys.live(self._cluster), launch_id))


def _merged(held: Publication, newer: Publication) -> Publication:
    """Merge the two: a final report stays, otherwise the newer one counts."""
    report = held.report if held.report is not None and held.report.terminal else newer.report or held.report
    return replace(newer, report=report, fields=held.fields | newer.fields, restore=held.restore or newer.restore)
