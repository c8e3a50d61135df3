"""Claim launches and clean-ups in batches, hold them by lease, and give them back with what became of them.

The only worker module that knows RQ's data model. A claim is a lease, not a removal: a job leaves Redis only with its
effect (invariant I2), and a launcher that dies is taken over within its lease. Each step is one Lua script under `lua/`,
whose head says its arguments; times are Redis's own. Called by the launcher.
"""

from __future__ import annotations

import base64
import json
import time
import uuid
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.resources import files
from typing import Any, Literal, TypeVar

import redis.asyncio
from redis.exceptions import AuthenticationError, RedisError

from podrelay.errors import MessageError, RedisUnavailable
from podrelay.protocol import identifiers, redis_keys
from podrelay.protocol.encryption import PayloadCipher
from podrelay.protocol.messages import CleanupRequest, LaunchRequest, PodReport, number_of
from podrelay.protocol.redis_keys import RedisKeys
from podrelay.settings import Settings
from podrelay.store.connection import unavailable

_Item = TypeVar("_Item")
Kind = Literal["launch", "cleanup"]
What = Literal["created", "done", "failed", "back", "wait", "abandon", "order"]
Event = Literal["pause", "stumble", "remind", "recover", "refused", "passed"]

RESULT_TTL_S = 600
FAILURE_TTL_S = 86_400
# However many pods are made within RESULT_TTL_S, rq-dashboard keeps no more of them: about 10 MB.
FINISHED_MAX = 10_000
# A job whose launcher was lost this often is taken for the cause.
LOSSES_MAX = 10
# Every so many slots one is for the lowest queue that has work: strict order alone would starve it.
LOW_SHARE = 8
# How long a namespace's quota probe may be under way before another launch may try instead.
PROBE_S = 10.0
# A task's event log hears of the same wait this often.
NEWS_S = 60.0
# Jobs in one run of a script: Redis serves nobody else meanwhile (0.02 ms a job).
CHUNK = 64
_PAYLOAD_MAX = 8 << 20  # zlib data of a forged job may unfold to anything


@dataclass
class Job:
    """A job in hand. `held_at_s` (monotonic) is when its lease was last known to begin; it only ever moves forward.

    lost: another launcher has it. unwanted: the launch was withdrawn or superseded. given: its outcome is on its way.
    """

    id: str
    queue: str
    kind: Kind
    execution: str
    data: bytes = field(repr=False)
    held_at_s: float
    tries: int = 0
    offered_at_s: float = 0.0
    told_at_s: float = 0.0
    probe: bool = False
    overdue: tuple[str, str] | None = None
    lost: bool = False
    unwanted: bool = False
    given: bool = False

    @property
    def launch_id(self) -> str:
        parsed = identifiers.parse_job_id(self.id)
        return parsed[0] if parsed else ""


@dataclass(frozen=True)
class QuotaNotice:
    """A launch that waits behind its namespace's quota, of which users have not heard for a while."""

    launch_id: str
    attempt: int
    reason: str
    message: str


@dataclass(frozen=True)
class Claim:
    """What a claim brought. `wait_s` > 0: nothing may be created before. `due_s` < 0: nothing waits for its time."""

    jobs: list[Job]
    wait_s: float = 0.0
    failures: int = 0
    due_s: float = -1.0
    more: bool = False
    dropped: int = 0
    news: tuple[QuotaNotice, ...] = ()


@dataclass(frozen=True)
class Disposition:
    """What became of a job; the texts are the arguments of `finish.lua`."""

    job: Job
    what: What
    args: tuple[str | int, ...] = ()


class JobQueue:
    """The queues of one kind in one cluster.

    :raises RedisUnavailable: from every method. What the last call did is then unknown; each may be repeated.
    """

    def __init__(
        self,
        client: redis.asyncio.Redis,
        settings: Settings,
        cipher: PayloadCipher,
        kind: Kind,
        worker: str,
        cluster: str,
    ) -> None:
        self._client = client
        self._keys = RedisKeys(settings.deployment)
        self._cipher = cipher
        self._settings = settings
        self._worker = worker
        self.cluster = cluster
        self.kind: Kind = kind
        self.queues = self._keys.launch_queues(cluster) if kind == "launch" else [self._keys.cleanup_queue(cluster)]
        self._scripts: dict[str, Any] = {}
        self._low_credit = 0.0
        # Wall-clock time of Redis' last answer.
        self.last_reply_s = 0.0

    # --- claim and lease ----------------------------------------------------------------------------------------------
    async def claim(self, most: int, patience_s: float = 0.0) -> Claim:
        """Take at most `most` jobs, the most urgent first.

        :param patience_s: after so long since its offer a launch that waits for quota is handed out to be failed.
        """
        most = min(most, CHUNK)
        self._low_credit = min(self._low_credit + most / LOW_SHARE, float(CHUNK // LOW_SHARE))
        low = int(self._low_credit) if len(self.queues) > 1 else 0
        execution, at_s = uuid.uuid4().hex, time.monotonic()
        answer = await self._run(
            "claim",
            [self._keys.throttle(self.cluster), self._keys.current, redis_keys.RQ_SUSPENDED, self._keys.quarantine,
             self._keys.fair_queues(self.cluster), redis_keys.RQ_QUEUES],
            [most, low, self._settings.launch_lease_s, self._worker, execution, rq_time(), self.kind,
             self._keys.launch_prefix, redis_keys.RQ_JOB_PREFIX, redis_keys.rq_queue(""), redis_keys.rq_started(""),
             redis_keys.rq_scheduled(""), patience_s, PROBE_S, NEWS_S, *self.queues],
        )  # fmt: skip
        self._low_credit -= low
        wait_s, failures, due_s, more, dropped, jobs, news = answer
        return Claim(
            jobs=[self._job(row, execution, at_s) for row in _rows(jobs, 9)],
            wait_s=float(wait_s),
            failures=int(failures),
            due_s=float(due_s),
            more=bool(more),
            dropped=int(dropped),
            news=tuple(QuotaNotice(text(a), int(b), text(c), text(d)) for a, b, c, d in _rows(news, 4)),
        )

    def _job(self, row: Sequence[bytes], execution: str, at_s: float) -> Job:
        job_id, queue, data, tries, offered, told, probe, reason, message = row
        return Job(
            id=text(job_id),
            queue=text(queue),
            kind=self.kind,
            execution=execution,
            data=data,
            held_at_s=at_s,
            tries=int(number_of(tries)),
            offered_at_s=number_of(offered),
            told_at_s=number_of(told),
            probe=probe == b"1",
            overdue=(text(reason), text(message)) if reason else None,
        )

    async def renew(self, jobs: Sequence[Job]) -> list[int]:
        """Prolong the leases: per job 1 held, 0 lost, -1 held but not wanted any more. Marks what is lost."""
        at_s = time.monotonic()
        answers: list[int] = []
        for part in _rows(jobs, CHUNK):
            args: list[Any] = [self._settings.launch_lease_s, self._keys.launch_prefix, redis_keys.rq_started("")]
            for job in part:
                args += (job.id, job.execution, job.queue, job.kind)
            answers += await self._run("renew", [self._keys.current], args)
        for job, answer in zip(jobs, answers, strict=True):
            job.lost, job.unwanted = answer == 0, answer < 0
            if answer:
                job.held_at_s = max(job.held_at_s, at_s)
        return answers

    async def reap(self) -> tuple[int, list[Job]]:
        """Put the jobs of dead launchers back: how many, and those to be failed because each launcher dies of them."""
        execution, at_s = uuid.uuid4().hex, time.monotonic()
        back, crashed = await self._run(
            "reap",
            [self._keys.quarantine, redis_keys.RQ_QUEUES, self._keys.fair_queues(self.cluster)],
            [self._worker, execution, self._settings.launch_lease_s, LOSSES_MAX, 256, self._keys.launch_prefix,
             redis_keys.RQ_JOB_PREFIX, redis_keys.rq_queue(""), redis_keys.rq_started(""), self._keys.wake(self.cluster),
             redis_keys.FAIR_QUEUE_MARK, *self.queues],
        )  # fmt: skip
        jobs = [Job(text(a), text(b), self.kind, execution, data, at_s) for a, b, data in _rows(crashed, 3)]
        return int(back), jobs

    # --- finish -------------------------------------------------------------------------------------------------------
    async def finish(self, outcomes: Sequence[Disposition]) -> list[str]:
        """Write outcomes down, many in one step: per job `ok`, `lost` or `unwanted`."""
        # One argument for all: redis-py packs each argument by itself, which would cost as much as the script.
        items = [[item.what, item.job.id, item.job.execution, item.job.queue, *item.args] for item in outcomes]
        args = [
            self._worker, rq_time(), self._keys.launch_prefix, redis_keys.RQ_JOB_PREFIX, redis_keys.rq_queue(""),
            redis_keys.rq_started(""), redis_keys.rq_scheduled(""), redis_keys.rq_finished(""), redis_keys.rq_failed(""), redis_keys.RQ_RESULTS_PREFIX,
            RESULT_TTL_S, FAILURE_TTL_S, FINISHED_MAX, self._stub, self._settings.results_max_length,
            self._keys.wake(self.cluster), json.dumps(items),
        ]  # fmt: skip
        answers = await self._run(
            "finish", [self._keys.results, redis_keys.RQ_QUEUES, self._keys.live(self.cluster)], args
        )
        return [text(answer) for answer in answers]

    @property
    def _stub(self) -> str:
        """Replaces a finished job's payload, so that no token outlives its use in Redis."""
        return json.dumps(
            [identifiers.LAUNCH_FUNCTION if self.kind == "launch" else identifiers.CLEANUP_FUNCTION, None, [], {}]
        )

    def order(self, job: Job, cleanup: CleanupRequest, attempt: int, what: What = "order") -> Disposition:
        """A clean-up job, made together with giving up `job` (`abandon`) or by itself."""
        data = json.dumps([identifiers.CLEANUP_FUNCTION, None, [self._cipher.encrypt(cleanup.encode())], {}])
        name = identifiers.cleanup_job_id(cleanup.launch_id, attempt, cleanup.action, cleanup.unless_started)
        told = f"{cleanup.action} pod {cleanup.namespace}/{cleanup.pod}"
        return Disposition(job, what, (self._keys.cleanup_queue(self.cluster), name, data, told))

    # --- throttle, results, quarantine --------------------------------------------------------------------------------
    async def throttle(
        self, event: Event, namespace: str = "", x: float = 0.0, y: float = 0.0, reason: str = "", message: str = ""
    ) -> float:
        """Tell every launcher of the cluster what the API server said; the seconds to wait."""
        args = [self._keys.wake(self.cluster), event, namespace, x, y, reason, message]
        return float(await self._run("throttle", [self._keys.throttle(self.cluster)], args))

    async def publish(self, result: PodReport) -> int:
        """Append an outcome to the stream and write it to the ledger, at most once per attempt."""
        keys = [self._keys.launch(result.launch_id), self._keys.results, self._keys.unacknowledged,
                self._keys.watch(self.cluster)]  # fmt: skip
        now = f"{time.time():.6f}"
        args = ["", "", result.launch_id, result.attempt, result.outcome, self.sealed(result), now,
                self._settings.results_max_length, "reason", result.reason, "message", result.message]  # fmt: skip
        if result.terminal:
            args += ("t_finished", now)
        return int(await self._run("publish", keys, args))

    def sealed(self, result: PodReport) -> str:
        return self._cipher.encrypt(result.encode())

    async def quarantine(self, job: Job, why: str) -> None:
        """Note what could not be trusted or read; never its payload."""
        entry: Any = {"job": job.id, "why": why}
        await self._call(self._client.xadd(self._keys.quarantine, entry, maxlen=10_000, approximate=True))

    def open_launch(self, job: Job) -> LaunchRequest:
        """:raises MessageError: not one of our launches, or not this one: forged, damaged, replayed under another id."""
        request = LaunchRequest.decode(self._open(job, identifiers.LAUNCH_FUNCTION))
        if identifiers.job_id(request.launch_id, request.attempt) != job.id or request.cluster != self.cluster:
            raise MessageError("the payload belongs to another job")
        return request

    def open_cleanup(self, job: Job) -> CleanupRequest:
        """:raises MessageError: not one of our clean-ups, not this one, or its pod is of another launch or attempt."""
        request = CleanupRequest.decode(self._open(job, identifiers.CLEANUP_FUNCTION))
        # An executor may have the pod from the ledger, which is not sealed.
        attempt = identifiers.attempt_of_pod(request.pod, request.launch_id)
        if attempt is None:
            raise MessageError("its pod is not of that launch, by the pod's name")
        made = identifiers.cleanup_job_id(request.launch_id, attempt, request.action, request.unless_started)
        if made != job.id or request.cluster != self.cluster:
            raise MessageError("the payload belongs to another job, or its pod to another attempt")
        return request

    def _open(self, job: Job, function: str) -> bytes:
        document = _json(job.data)
        if not isinstance(document, list) or len(document) != 4 or document[0] != function:
            raise MessageError("the job calls a function that is not ours")
        arguments = document[2]
        if not isinstance(arguments, list) or len(arguments) != 1 or not isinstance(arguments[0], str):
            raise MessageError("the job's arguments are not a sealed payload")
        return self._cipher.decrypt(arguments[0])

    # --- Redis --------------------------------------------------------------------------------------------------------
    async def _run(self, name: str, keys: list[str], args: Iterable[Any]) -> Any:
        script = self._scripts.get(name)
        if script is None:
            body = files("podrelay.protocol").joinpath("lua", f"{name}.lua").read_text("utf-8")
            script = self._scripts[name] = self._client.register_script(body)
        return await self._call(script(keys=keys, args=list(args)))

    async def _call(self, command: Any) -> Any:
        try:
            answer = await command
            self.last_reply_s = time.time()
            return answer
        except AuthenticationError as error:
            raise RedisUnavailable(f"[podrelay] redis_url: Redis refuses the user or password ({error}).") from error
        except (RedisError, OSError) as error:
            raise unavailable(error) from error


def created(job: Job, pod: str, namespace: str, uid: str) -> Disposition:
    return Disposition(job, "created", (pod, namespace, uid, f"{time.time():.6f}"))


def done(job: Job) -> Disposition:
    return Disposition(job, "done")


def failed(job: Job, why: str) -> Disposition:
    return Disposition(job, "failed", (base64.b64encode(zlib.compress(why.encode())).decode("ascii"),))


def back(job: Job) -> Disposition:
    """Nothing was tried: to the front of the queue."""
    return Disposition(job, "back")


def wait(job: Job, seconds: float, reason: str, message: str, news: str = "", tried: bool = True) -> Disposition:
    """:param news: a sealed pending result, where users should hear of it."""
    return Disposition(job, "wait", (f"{seconds:.3f}", reason, message, news, int(tried)))


def rq_time() -> str:
    """Now, as RQ writes it."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def text(value: bytes | str) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _json(data: bytes) -> Any:
    """RQ's own data, as we wrote it or compressed by RQ (after a requeue from rq-dashboard)."""
    try:
        if data[:1] == b"\x78":
            unfolding = zlib.decompressobj()
            data = unfolding.decompress(data, _PAYLOAD_MAX)
        return json.loads(data)
    except (ValueError, zlib.error, RecursionError) as error:
        raise MessageError("the job's data is not JSON") from error


def _rows(flat: Sequence[_Item], width: int) -> list[Sequence[_Item]]:
    return [flat[start : start + width] for start in range(0, len(flat), width)]
