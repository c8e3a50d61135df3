"""The scheduler's hand on the RQ queues: offer and withdraw many launches, order clean-ups. The only file of this side
that knows RQ's data model; the jobs are RQ's own (JSON serializer), so rq-dashboard shows them and its buttons work.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import islice
from typing import Any, Literal, TypeVar

from podrelay.protocol import identifiers, redis_keys
from podrelay.protocol.encryption import PayloadCipher
from podrelay.protocol.messages import CleanupAction, CleanupRequest, LaunchRequest
from podrelay.protocol.redis_keys import RedisKeys
from podrelay.store.circuit_breaker import CircuitBreaker

_Item = TypeVar("_Item")
Answer = Literal["offered", "known", "finished", "withdrawn"]

# How long rq-dashboard shows a job that is done, and one that failed. RQ's own default for failures is a year.
RESULT_TTL_S = 600
FAILURE_TTL_S = 86_400
# A stock clean-up (`rq info` runs one) fails a job whose lease ended, unless it may be retried; then it queues it again.
RETRIES_LEFT = 1000
# LaunchRegistry in one run of the script: keeps Redis responsive to others. All chunks of a heartbeat share one round trip.
_CHUNK = 128


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """What to write when a result was taken, or a launch was taken back (`revoked`).

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
    """What the ledger knew of a launch when it was withdrawn; empty text where it knew nothing."""

    state: str
    attempt: str
    pod: str
    namespace: str
    uid: str
    started: bool


class LaunchQueue:
    """:raises RedisUnavailable: from every method. All of them may be repeated: the scripts recognise what is done."""

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
        self._ledger_ttl_s = ledger_ttl_s
        self._delete_options = delete_options or {}

    def offer(self, launches: Iterable[tuple[LaunchRequest, int]]) -> list[Answer]:
        """Hand launches over, each with how often it was launched again before, in one round trip. They are of one owner.

        One answer per launch, in order. `known` means that an earlier call did it.
        """
        now = time.time()
        fair_queues = self._keys.fair_queues(self._cluster)
        keys = [self._keys.current, redis_keys.RQ_QUEUES, self._keys.unacknowledged, fair_queues]
        head = [self._keys.launch_prefix, redis_keys.RQ_JOB_PREFIX, redis_keys.rq_queue(""), self._keys.wake(self._cluster),
                f"{now:.3f}", _rq_time(now), RESULT_TTL_S, FAILURE_TTL_S, RETRIES_LEFT, self._cluster]  # fmt: skip
        calls = []
        for chunk in _chunks(launches, _CHUNK):
            owner = chunk[0][0].owner
            args = [
                *head,
                owner,
                int(self._ledger_ttl_s),
                redis_keys.rq_scheduled(""),
                redis_keys.fair_queue_mark(owner),
            ]
            for request, relaunches in chunk:
                args += (
                    request.launch_id, request.attempt, identifiers.job_id(request.launch_id, request.attempt),
                    request.subject, self._keys.launch_queue(self._cluster, redis_keys.priority_level(request.priority)),
                    self._data(identifiers.LAUNCH_FUNCTION, request.encode()), request.description,
                    json.dumps(request.key), request.kind, request.namespace, relaunches,
                )  # fmt: skip
            calls.append((keys, args))
        answers = self._breaker.run_many("offer", calls)
        return [_text(answer) for chunk in answers for answer in chunk]  # type: ignore[misc]

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
    ) -> CleanupRequest:
        """What to do with a pod of this cluster, with the user's `delete_option_kwargs`; for an Acknowledgement."""
        return CleanupRequest(launch_id, action, namespace, pod, uid, self._cluster, dict(self._delete_options),
                              unless_started, subject)  # fmt: skip

    def acknowledge(self, items: Sequence[Acknowledgement]) -> list[float]:
        """Close launches in the ledger and order the clean-up of their pods.

        :return: for each that is over by this, the seconds since its result was reported.
        """
        now = time.time()
        keys = [self._keys.current, redis_keys.RQ_QUEUES, self._keys.unacknowledged]
        head = [self._keys.launch_prefix, redis_keys.RQ_JOB_PREFIX, redis_keys.rq_queue(""), self._keys.wake(self._cluster),
                f"{now:.3f}", _rq_time(now), RESULT_TTL_S, FAILURE_TTL_S, RETRIES_LEFT,
                self._keys.cleanup_queue(self._cluster), int(self._ledger_ttl_s)]  # fmt: skip
        calls = []
        for chunk in _chunks(items, _CHUNK):
            args = list(head)
            for item in chunk:
                args += (item.launch_id, item.attempt, item.subject, "revoked" if item.revoked else int(item.over))
                if item.cleanup is None or not item.cleanup.pod:
                    args += ("", "", "")
                    continue
                args += (
                    identifiers.cleanup_job_id(
                        item.launch_id, item.attempt, item.cleanup.action, item.cleanup.unless_started
                    ),
                    self._data(identifiers.CLEANUP_FUNCTION, item.cleanup.encode()),
                    f"{item.cleanup.action} pod {item.cleanup.namespace}/{item.cleanup.pod}",
                )
            calls.append((keys, args))
        answers = self._breaker.run_many("acknowledge", calls)
        return [max(0.0, float(waited)) for chunk in answers for waited in chunk]

    def withdraw(self, launches: Sequence[tuple[str, str]]) -> list[Withdrawn]:
        """Take launches (id, subject) back. What is already a pod is told; deleting it is the caller's decision."""
        now = f"{time.time():.3f}"
        answers = self._breaker.run_many(
            "withdraw",
            [
                (
                    [self._keys.launch(launch_id), self._keys.current, self._keys.unacknowledged],
                    [
                        launch_id,
                        subject,
                        redis_keys.RQ_JOB_PREFIX,
                        redis_keys.rq_scheduled(""),
                        now,
                        int(self._ledger_ttl_s),
                    ],
                )
                for launch_id, subject in launches
            ],
        )
        told = [[_text(item) for item in answer] for answer in answers]
        return [Withdrawn(state, attempt, pod, namespace, uid, started == "1")
                for state, attempt, pod, namespace, uid, started in told]  # fmt: skip

    def _data(self, function: str, payload: bytes) -> str:
        return json.dumps([function, None, [self._cipher.encrypt(payload)], {}])


def _rq_time(now: float) -> str:
    return datetime.fromtimestamp(now, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _chunks(items: Iterable[_Item], size: int) -> Iterator[list[_Item]]:
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk


def _text(value: bytes | str) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
