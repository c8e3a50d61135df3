"""From the watcher's news to ledger and stream: batches, at most once per attempt, through outages of Redis.

What Redis does not take stays here, at most one entry per launch attempt, and is sent again. Used by the watcher.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import replace
from typing import Any

from airflow.providers.common.compat.sdk import Stats
from redis.exceptions import RedisError

from podrelay.errors import RedisUnavailable
from podrelay.protocol import identifiers, lifecycle
from podrelay.protocol.encryption import PayloadCipher
from podrelay.protocol.identifiers import DEFAULT_CLUSTER
from podrelay.protocol.redis_keys import RedisKeys
from podrelay.store.connection import unavailable
from podrelay_workers.runtime.backoff import Backoff
from podrelay_workers.runtime.scripts import AsyncScripts, Call
from podrelay_workers.watcher.leader_election import Term
from podrelay_workers.watcher.pod_table import PodEntry, Publication

log = logging.getLogger(__name__)

BATCH = 200  # about 10 ms of Redis' time
GATHER_S = 0.02  # news come in bursts: waiting this long makes one round trip of many
# Results that a lost Redis may have taken with it before any scheduler read them are said again.
KEPT_S = 30.0
LIVE_COUNT = 500  # about 2 ms of Redis' time


class NotLeader(Exception):  # noqa: N818 - not an error: another watcher leads, as it should be
    """Redis refused a publication because another watcher has taken the lead."""


class Outbox:
    """Holds what is to be said, and says it while its process leads. One for the life of the process."""

    def __init__(
        self,
        scripts: AsyncScripts,
        keys: RedisKeys,
        cipher: PayloadCipher,
        cluster: str,
        stream_length: int,
        metrics: bool = True,
    ) -> None:
        """:param metrics: tell how long launches took; costs a round trip to Redis for each batch of ends."""
        self._metrics = metrics
        self._scripts = scripts
        self._keys = keys
        self._cipher = cipher
        self._cluster = cluster
        self._tags = {"team_name": cluster} if cluster != DEFAULT_CLUSTER else {}
        self._stream_length = stream_length
        self._outbox: dict[tuple[str, int], Publication] = {}
        self._recent: deque[tuple[float, Publication]] = deque()
        self._filled = asyncio.Event()
        self.published = 0

    def __len__(self) -> int:
        return len(self._outbox)

    def put(self, news: Publication) -> None:
        """Queue news; only the furthest of an attempt is kept, with what all of it knew of the pod."""
        key = (news.launch_id, news.attempt)
        held = self._outbox.get(key)
        self._outbox[key] = _merged(held, news) if held is not None else news
        self._filled.set()

    def forget(self) -> None:
        """Another watcher leads: it finds out everything for itself."""
        self._outbox.clear()
        self._recent.clear()
        self._filled.clear()

    def say_again(self) -> None:
        """Redis lost its data: queue what it may have lost before anybody read it."""
        for _, news in self._recent:
            if (news.launch_id, news.attempt) not in self._outbox:
                self.put(news)
        self._recent.clear()

    async def forever(self, term: Term) -> None:
        """Publish whatever is queued, for this term.

        :raises NotLeader: another watcher leads.
        """
        waits = Backoff(first_s=0.1, most_s=2.0)
        while True:
            await self._filled.wait()
            await asyncio.sleep(GATHER_S)
            try:
                await self.flush(term)
            except RedisUnavailable as error:
                if not waits.failures:
                    log.warning("%d results wait for Redis: %s", len(self), error)
                await asyncio.sleep(waits.failed())
            else:
                if waits.failures:
                    log.info("Redis takes results again.")
                waits.worked()

    async def flush(self, term: Term) -> None:
        """Send all that is queued now.

        :raises RedisUnavailable: what was not confirmed stays queued; sending it twice does no harm.
        :raises NotLeader: nothing of this batch was written.
        """
        while self._outbox:
            batch = list(self._outbox.items())[:BATCH]
            calls, owners = self._calls(term, batch)
            answers = await self._scripts.run_many(calls)
            if -2 in answers:
                raise NotLeader
            self._sent(batch, zip(owners, answers, strict=True))
            await self._tell_lifecycles(owners, answers)
        self._filled.clear()

    def _sent(
        self, batch: list[tuple[tuple[str, int], Publication]], answers: Iterable[tuple[Publication | None, int]]
    ) -> None:
        now = time.monotonic()
        for key, news in batch:
            if self._outbox.get(key) is news:  # else something newer came meanwhile
                del self._outbox[key]
            if news.report is not None and news.report.terminal:
                self._recent.append((now, news))
        while self._recent and now - self._recent[0][0] > KEPT_S:
            self._recent.popleft()
        for owner, answer in answers:
            if owner is not None and owner.report is not None and answer == 1:
                self.published += 1
                _tell(owner)

    async def _tell_lifecycles(self, owners: Sequence[Publication | None], answers: Sequence[Any]) -> None:
        """How long each step of the launches took that have just ended, as timers. What Redis does not tell is left out."""
        over = [
            news.launch_id
            for news, answer in zip(owners, answers, strict=True)
            if answer == 1 and news is not None and news.report is not None and news.report.terminal
        ]
        if not over or not self._metrics:
            return
        pipeline = self._scripts.client.pipeline(transaction=False)
        for launch_id in over:
            pipeline.hmget(self._keys.launch(launch_id), lifecycle.FIELDS)
        try:
            found = await pipeline.execute()
        except (RedisError, OSError) as error:
            log.debug("No metrics of %d launches: %s", len(over), type(error).__name__)
            return
        for values in found:
            for step, seconds in lifecycle.durations_s(dict(zip(lifecycle.FIELDS, map(_text, values), strict=True))):
                Stats.timing(lifecycle.METRIC + step, seconds * 1000.0, tags=self._tags)

    def _calls(
        self, term: Term, batch: list[tuple[tuple[str, int], Publication]]
    ) -> tuple[list[Call], list[Publication | None]]:
        calls: list[Call] = []
        owners: list[Publication | None] = []
        watch, now_s = self._keys.watch(self._cluster), f"{time.time():.3f}"
        for _, news in batch:
            ledger = self._keys.launch(news.launch_id)
            if news.restore is not None:
                fields = [part for item in news.restore.items() for part in item]
                created_s = news.restore.get("t_created", "0")
                head: list[str | int | float] = [term.leader, term.fence, news.attempt, news.launch_id, created_s]
                calls.append(("restore", [ledger, watch, self._keys.live(self._cluster)], [*head, *fields]))
                owners.append(None)
            if news.report is not None:
                calls.append(self._publication(term, news, ledger, watch, now_s))
                owners.append(news)
        return calls, owners

    def _publication(self, term: Term, news: Publication, ledger: str, watch: str, now_s: str) -> Call:
        result = news.report
        assert result is not None
        # Empty ones too: why a pod waited is no news once it runs.
        said = {**news.fields, "reason": result.reason, "message": result.message}
        sealed = self._cipher.encrypt(result.encode())
        args: list[str | int | float] = [term.leader, term.fence, news.launch_id, news.attempt, result.outcome, sealed]
        args += [now_s, self._stream_length, *(part for item in said.items() for part in item)]
        return ("publish", [ledger, self._keys.results, self._keys.unacknowledged, watch], args)

    # --- the other direction: what the ledger believes ------------------------------------------------------------

    async def waits(self, rows: Sequence[PodEntry]) -> list[dict[str, str]]:
        """What the ledger knows of the present waits of some launches: attempt, wait and t_wait.

        :raises RedisUnavailable: Redis does not answer.
        """
        wanted = ("attempt", "wait", "t_wait")
        try:
            pipeline = self._scripts.client.pipeline(transaction=False)
            for row in rows:
                pipeline.hmget(self._keys.launch(row.launch_id), wanted)
            found = await pipeline.execute()
        except (RedisError, OSError) as error:
            raise unavailable(error) from error
        return [dict(zip(wanted, map(_text, values), strict=True)) for values in found]

    async def believed_live(self, before_s: float) -> AsyncGenerator[PodEntry, None]:
        """LaunchRegistry of this cluster that should have a pod, created before this time, a bounded batch at a time.

        :raises RedisUnavailable: Redis does not answer.
        """
        cursor, keys = "0", [self._keys.live(self._cluster)]
        while True:
            args: list[str | int | float] = [self._keys.launch_prefix, cursor, LIVE_COUNT, f"{before_s:.3f}"]
            cursor, *flat = map(_text, await self._scripts.run("live", keys, args))
            for launch_id, attempt, namespace, pod, uid in zip(*(flat[field::5] for field in range(5)), strict=True):
                # Whoever can write to Redis can write any name there: only one that proves itself is asked for.
                if attempt == str(identifiers.attempt_of_pod(pod, launch_id)):
                    yield PodEntry(namespace, pod, launch_id, int(attempt), uid)
                else:
                    await self._quarantine(launch_id, "the ledger names a pod that is not of this launch and attempt")
            if cursor == "0":
                return

    async def _quarantine(self, launch_id: str, why: str) -> None:
        """Say why a launch is not looked for any more, once: it leaves those that should have a pod.

        :raises RedisUnavailable: Redis does not answer.
        """
        log.warning("Quarantined launch %s: %s", launch_id, why)
        pipeline = self._scripts.client.pipeline()
        pipeline.zrem(self._keys.live(self._cluster), launch_id)
        pipeline.xadd(self._keys.quarantine, {"launch": launch_id, "why": why}, maxlen=10_000, approximate=True)
        try:
            await pipeline.execute()
        except (RedisError, OSError) as error:
            raise unavailable(error) from error


def _merged(held: Publication, news: Publication) -> Publication:
    """Both as one: a result that ends the attempt stays, and the newer one counts otherwise."""
    result = held.report if held.report is not None and held.report.terminal else news.report or held.report
    return replace(news, report=result, fields=held.fields | news.fields, restore=held.restore or news.restore)


def _tell(news: Publication) -> None:
    """One line per change of state. Pods that end well say it at debug level: there are many."""
    result = news.report
    assert result is not None
    level = logging.INFO if result.outcome in ("failed", "pending") else logging.DEBUG
    log.log(level, "launch %s attempt %d pod %s/%s: %s %s%s", news.launch_id, news.attempt, result.namespace, result.pod,
            result.outcome, result.reason, f" (exit code {result.exit_code})" if result.exit_code else "")  # fmt: skip


def _text(value: bytes | str | None) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value or ""
