"""The executor's side of the RQ queues: offers and withdraws launches, acknowledges results and orders clean-ups.

Used by the parts of a heartbeat. The jobs are RQ's own (JSON serializer), so rq-dashboard shows them and its buttons work.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal, NamedTuple

from podrelay.errors import RedisRefused
from podrelay.protocol import identifiers, jobs, redis_keys
from podrelay.protocol.encryption import PayloadCipher
from podrelay.protocol.json_text import encoded
from podrelay.protocol.messages import CleanupAction, CleanupRequest, LaunchRequest
from podrelay.protocol.redis_keys import RedisKeys
from podrelay.protocol.redis_values import chunks, text
from podrelay.store import scripts
from podrelay.store.circuit_breaker import CircuitBreaker, Posted
from podrelay.store.script_table import ScriptCall
from podrelay.store.scripts import AcknowledgedLaunch, OfferedLaunch

Answer = Literal["offered", "known", "finished", "acknowledged", "withdrawn", "refused"]

# Launches per script run, so that Redis stays responsive to others. All chunks of a heartbeat share one round trip.
_CHUNK = 64
# Attempts remembered as perhaps offered: more than a heartbeat offers.
_IN_DOUBT_MOST = 10_000


class Acknowledgement(NamedTuple):
    """What to write once a result is processed, or once a task is revoked (`revoked`).

    `over` is False where another attempt of the launch follows.
    """

    launch_id: str
    attempt: int
    subject: str
    over: bool = True
    cleanup: CleanupRequest | None = None
    revoked: bool = False


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """The ledger's entry of a launch at the time of its withdrawal; empty text for what was unknown."""

    state: str
    attempt: str
    pod: str
    namespace: str
    uid: str
    started: bool


class LaunchQueue:
    """:raises RedisUnavailable: from every method. All may be repeated: the scripts recognise what is already done."""

    def __init__(
        self,
        breaker: CircuitBreaker,
        keys: RedisKeys,
        cipher: PayloadCipher,
        cluster: str,
        ledger_ttl_s: float,
        delete_options: dict[str, Any] | None = None,
    ) -> None:
        self._breaker = breaker
        self._keys = keys
        self._cipher = cipher
        self._cluster = cluster
        # By priority level. Built once: an offer of many launches would spend time on it.
        self._queues = [keys.launch_queue(cluster, level) for level in range(redis_keys.PRIORITY_LEVELS)]
        self._ledger_ttl_s = ledger_ttl_s
        self._delete_options = delete_options or {}
        # Job ids that were offered and not confirmed, the oldest first: Redis may have taken them and lost them since.
        self._in_doubt: dict[str, None] = {}
        # Acknowledgements on their way, and those of which it is not known whether Redis has run them.
        self._posted: deque[Posted] = deque()
        self._unconfirmed: list[ScriptCall] = []

    def offer(self, launches: Iterable[tuple[LaunchRequest, int]]) -> list[Answer]:
        """Offer launches of one owner, each with its number of relaunches so far, in one round trip.

        :return: one answer per launch, in order. `known`: an earlier call did it.
        :raises RedisRefused: Redis refused at least one of them; offer all again.
        """
        answers, refusal, job_ids = self._offer(launches)
        if refusal is not None:
            self._doubt(job_id for job_id, answer in zip(job_ids, answers, strict=True) if answer != "refused")
            raise refusal
        return answers

    def offer_as_made(self, launches: Iterable[tuple[LaunchRequest, int]]) -> list[Answer]:
        """As `offer`, for launches that take time to make: Redis takes the first ones meanwhile, and keeps them if making a
        later one fails.

        :return: `refused` for a launch that is to be offered again.
        :raises RedisRefused: Redis refused all of them.
        """
        answers, refusal, _ = self._offer(launches)
        if refusal is not None and set(answers) == {"refused"}:
            raise refusal
        return answers

    def _offer(
        self, launches: Iterable[tuple[LaunchRequest, int]]
    ) -> tuple[list[Answer], RedisRefused | None, list[str]]:
        """Answers, the first refusal, and the ids of the jobs."""
        chunk_ids: list[list[str]] = []
        is_sent = self._breaker.available
        try:
            replies = self._breaker.run_as_made(self._offers(launches, chunk_ids))
        except Exception:
            if is_sent:
                self._doubt(chain.from_iterable(chunk_ids))
            raise
        answers: list[Answer] = []
        for job_ids, reply in zip(chunk_ids, replies, strict=True):
            if isinstance(reply, RedisRefused):
                answers += ["refused"] * len(job_ids)
                continue
            answers += map(text, reply)  # type: ignore[arg-type]
            for job_id in job_ids if self._in_doubt else ():
                self._in_doubt.pop(job_id, None)
        refusal = next((reply for reply in replies if isinstance(reply, RedisRefused)), None)
        return answers, refusal, list(chain.from_iterable(chunk_ids))

    def _doubt(self, job_ids: Iterable[str]) -> None:
        self._in_doubt |= dict.fromkeys(job_ids)
        while len(self._in_doubt) > _IN_DOUBT_MOST:
            del self._in_doubt[next(iter(self._in_doubt))]

    def _offers(
        self, launches: Iterable[tuple[LaunchRequest, int]], chunk_ids: list[list[str]]
    ) -> Iterator[list[ScriptCall]]:
        """What is to be sent, one after the other. Launchers are woken at the end: they would take the processor from what
        makes the other launches. Of several calls the last one does nothing else: a full Redis may refuse those that offer.

        :param chunk_ids: gets the ids of the jobs in each call.
        """
        now_s, owner, is_last = time.time(), "", True
        for chunk in chunks(launches, _CHUNK):
            owner, is_last = chunk[0][0].owner, len(chunk) < _CHUNK
            chunk_ids.append([])
            offered = [self._offered(*launch, chunk_ids[-1]) for launch in chunk]
            is_only = is_last and len(chunk_ids) == 1
            calls = [self._call(owner, now_s, offered, wake=is_only)]
            if is_last and not is_only:
                chunk_ids.append([])
                calls.append(self._call(owner, now_s, (), wake=True))
            yield calls
        if not is_last:
            chunk_ids.append([])
            yield [self._call(owner, now_s, (), wake=True)]

    def _call(self, owner: str, now_s: float, launches: Sequence[OfferedLaunch], *, wake: bool) -> ScriptCall:
        return scripts.offer(
            self._keys, cluster=self._cluster, owner=owner, now_s=now_s, ledger_ttl_s=self._ledger_ttl_s,
            launches=launches, wake=wake,
        )  # fmt: skip

    def cleanup(
        self,
        action: CleanupAction,
        launch_id: str,
        namespace: str,
        pod: str,
        uid: str,
        *,
        unless_started: bool = False,
        subject: str | None = None,
        attempt: int | None = None,
    ) -> CleanupRequest:
        """The clean-up of a pod of this cluster, with the user's `delete_option_kwargs`; for an Acknowledgement.

        :param attempt: only where a decrypted report names this pod.
        """
        return CleanupRequest(launch_id, action, namespace, pod, uid, self._cluster, dict(self._delete_options),
                              unless_started, subject, attempt)  # fmt: skip

    def acknowledge(self, items: Sequence[Acknowledgement]) -> list[float]:
        """Close launches in the ledger and queue the clean-up of their pods.

        :return: for each launch that is now over, the seconds since its result was published.
        """
        return _waits_s(self._breaker.run_many(self._acknowledgements(items)))

    def acknowledge_soon(self, items: Sequence[Acknowledgement]) -> list[float]:
        """As `acknowledge`, without waiting for Redis: the next `confirm` reads the replies. But while Redis refuses earlier
        ones it waits, so that those to be sent again do not become more.

        :return: as of `acknowledge`, where it has waited.
        """
        if self._unconfirmed:
            return self.acknowledge(items)
        self._posted.append(self._breaker.post(self._acknowledgements(items)))
        return []

    def confirm(self) -> list[float]:
        """Read the replies to what `acknowledge_soon` has sent. What failed is sent again, until Redis has run it.

        :return: as of `acknowledge`.
        """
        waits_s = []
        while self._posted:
            posted = self._posted.popleft()
            self._unconfirmed += posted.calls
            if self._breaker.has_failed:  # to wait for each of them would open the breaker each time
                self._breaker.drop(posted)
                continue
            waits_s += _waits_s(self._breaker.collect(posted))
            del self._unconfirmed[-len(posted.calls) :]
        if self._unconfirmed:
            waits_s += _waits_s(self._breaker.run_many(self._unconfirmed))
            self._unconfirmed.clear()
        return waits_s

    def _acknowledgements(self, items: Sequence[Acknowledgement]) -> list[ScriptCall]:
        now_s = time.time()
        return [
            scripts.acknowledge(
                self._keys,
                cluster=self._cluster,
                now_s=now_s,
                ledger_ttl_s=self._ledger_ttl_s,
                launches=map(self._acknowledged, chunk),
            )
            for chunk in chunks(items, _CHUNK)
        ]

    def withdraw(self, launches: Sequence[tuple[str, str]]) -> list[Withdrawn]:
        """Withdraw launches (id, subject). Where a pod exists already, its deletion is the caller's decision."""
        now_s = time.time()
        replies = self._breaker.run_many(
            scripts.withdraw(
                self._keys, launch_id=launch_id, subject=subject, now_s=now_s, ledger_ttl_s=self._ledger_ttl_s
            )
            for launch_id, subject in launches
        )
        entries = [[text(item) for item in reply] for reply in replies]
        return [Withdrawn(state, attempt, pod, namespace, uid, started == "1")
                for state, attempt, pod, namespace, uid, started in entries]  # fmt: skip

    def _offered(self, request: LaunchRequest, relaunches: int, job_ids: list[str]) -> OfferedLaunch:
        """:param job_ids: gets the id of the job."""
        job_id = identifiers.job_id(request.launch_id, request.attempt)
        job_ids.append(job_id)
        if job_id in self._in_doubt:
            request = request.replaced(repeated=True)
        return OfferedLaunch(
            launch_id=request.launch_id,
            attempt=request.attempt,
            job_id=job_id,
            subject=request.subject,
            queue=self._queues[redis_keys.priority_level(request.priority)],
            data=jobs.launch_data(request, self._cipher),
            description=request.description,
            key=encoded(request.key).decode(),
            kind=request.kind,
            namespace=request.namespace,
            relaunches=relaunches,
        )

    def _acknowledged(self, item: Acknowledgement) -> AcknowledgedLaunch:
        over = "revoked" if item.revoked else "1" if item.over else "0"
        if item.cleanup is None or not item.cleanup.pod:
            return AcknowledgedLaunch(item.launch_id, item.attempt, item.subject, over)
        job = jobs.cleanup_job(item.cleanup, item.attempt, self._cipher)
        return AcknowledgedLaunch(item.launch_id, item.attempt, item.subject, over, *job)


def _waits_s(replies: Iterable[Iterable[bytes]]) -> list[float]:
    return [max(0.0, float(waited_s)) for waits_s in replies for waited_s in waits_s]
