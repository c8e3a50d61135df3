"""Leases jobs in batches from the RQ queues of one cluster, and gives them back with what became of them.

Used by the launcher's job loops. A claim is a lease, not a removal: a job leaves Redis only together with its effect
(invariant I2, docs/architecture.md), and the jobs of a dead launcher are taken over within a lease. Redis' clock counts.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence

import redis.asyncio
from redis.exceptions import ResponseError

from podrelay.errors import QuarantineKind, RedisUnavailable
from podrelay.protocol import jobs
from podrelay.protocol.encryption import PayloadCipher
from podrelay.protocol.messages import CleanupRequest, LaunchRequest, PodReport
from podrelay.protocol.redis_keys import RedisKeys
from podrelay.protocol.redis_values import count_of, number_of, rows, text
from podrelay.protocol.retention import FINISHED_MAX
from podrelay.settings import Settings
from podrelay.store import scripts
from podrelay.store.async_scripts import AsyncScripts
from podrelay.store.connection import unavailable
from podrelay.store.outage_log import OutageLog
from podrelay.store.quarantine import Quarantined, quarantine
from podrelay.store.scripts import HeldJob, ThrottleEvent
from podrelay_workers.launcher.job_clock import JobClock
from podrelay_workers.launcher.leased_job import Claim, Disposition, Job, Kind, QuotaNotice, What
from podrelay_workers.runtime.report_publisher import Outgoing, ReportPublisher

# A job that lost this many launchers is considered their cause of death.
LOSSES_MAX = 10
# One of this many jobs comes from the lowest queue that has any: strict priority alone would starve it.
LOW_SHARE = 8
# How long a namespace's quota probe may take before another launch may try instead.
PROBE_S = 10.0
# The interval between two events about the same wait in a task's event log.
REPORT_INTERVAL_S = 60.0
# Jobs per script run: Redis serves no other client meanwhile (0.02 ms a job).
CHUNK = 64
# More tries than any job has had.
_TRIES_MOST = 1_000_000
# Expired leases per queue and script run.
_REAPED_MAX = 256


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
        outages: OutageLog | None = None,
    ) -> None:
        self._runner = AsyncScripts(client, outages)
        self._keys = RedisKeys(settings.deployment)
        self._cipher = cipher
        self._settings = settings
        self._worker = worker
        self.cluster = cluster
        self.kind: Kind = kind
        self.queues = self._keys.launch_queues(cluster) if kind == "launch" else [self._keys.cleanup_queue(cluster)]
        self._spent_data = jobs.spent_data(jobs.LAUNCH_FUNCTION if kind == "launch" else jobs.CLEANUP_FUNCTION)
        self._publisher = ReportPublisher(self._runner, self._keys, cipher, cluster, settings.results_max_length)
        self._low_credit = 0.0

    @property
    def outages(self) -> OutageLog:
        return self._runner.outages

    @property
    def last_reply_s(self) -> float:
        """Wall-clock time of Redis' last reply."""
        return self._runner.last_reply_s

    # --- claim and lease ----------------------------------------------------------------------------------------------
    async def claim(self, most: int, patience_s: float = 0.0) -> Claim:
        """Lease at most `most` jobs, the most urgent first.

        :param patience_s: a launch that has waited for quota this long since its offer is returned as overdue; 0: never.
        """
        most = min(most, CHUNK)
        self._low_credit = min(self._low_credit + most / LOW_SHARE, float(CHUNK // LOW_SHARE))
        low = int(self._low_credit) if len(self.queues) > 1 else 0
        execution, at_s = uuid.uuid4().hex, time.monotonic()
        reply = await self._runner.run(
            scripts.claim(
                self._keys,
                cluster=self.cluster,
                kind=self.kind,
                queues=self.queues,
                most=most,
                low=low,
                lease_s=self._settings.launch_lease_s,
                worker=self._worker,
                execution_id=execution,
                patience_s=patience_s,
                probe_s=PROBE_S,
                report_every_s=REPORT_INTERVAL_S,
            )
        )
        self._low_credit -= low
        wait_s, failures, due_s, more, dropped, leased, notices, now_s, suspended = reply
        redis_ahead_s = number_of(now_s) - at_s
        return Claim(
            jobs=[self._job(row, execution, at_s, redis_ahead_s) for row in rows(leased, 12)],
            wait_s=float(wait_s),
            failures=count_of(failures, _TRIES_MOST),
            due_s=float(due_s),
            more=bool(more),
            dropped=int(dropped),
            notices=tuple(QuotaNotice(text(a), int(b), text(c), text(d)) for a, b, c, d in rows(notices, 4)),
            suspended=bool(suspended),
        )

    def _job(self, row: Sequence[bytes], execution: str, at_s: float, redis_ahead_s: float) -> Job:
        job_id, queue, data, tries, offered, reported, probe, reason, message, skew, attempt_s, warm = row
        return Job(
            id=text(job_id),
            queue=text(queue),
            kind=self.kind,
            execution=execution,
            data=data,
            held_at_s=at_s,
            tries=count_of(tries, _TRIES_MOST),
            offered_at_s=number_of(offered),
            reported_at_s=number_of(reported),
            probe=probe == b"1",
            overdue=(text(reason), text(message)) if reason else None,
            clock=JobClock(redis_ahead_s, number_of(skew), number_of(attempt_s)),
            warm=text(warm),
        )

    async def renew(self, held: Sequence[Job]) -> list[int]:
        """Renew the leases and mark the jobs that are lost or unwanted.

        :return: per job 1 held, 0 lost, -1 held but unwanted.
        """
        at_s = time.monotonic()
        answers: list[int] = []
        for part in rows(held, CHUNK):
            leases = (HeldJob(job.id, job.execution, job.queue, job.kind) for job in part)
            call = scripts.renew(self._keys, lease_s=self._settings.launch_lease_s, jobs=leases)
            answers += await self._runner.run(call)
        for job, answer in zip(held, answers, strict=True):
            job.lost, job.unwanted = answer == 0, answer < 0
            if answer:
                job.held_at_s = max(job.held_at_s, at_s)
        return answers

    async def reap(self) -> tuple[int, list[Job]]:
        """Requeue the jobs of dead launchers.

        :return: how many, and the jobs that lost too many launchers: they are leased to the caller, who fails them.
        """
        execution, at_s = uuid.uuid4().hex, time.monotonic()
        requeued, crashed = await self._runner.run(
            scripts.reap(
                self._keys,
                cluster=self.cluster,
                queues=self.queues,
                worker=self._worker,
                execution_id=execution,
                lease_s=self._settings.launch_lease_s,
                losses_max=LOSSES_MAX,
                most_per_queue=_REAPED_MAX,
            )
        )
        found = [
            Job(text(job_id), text(queue), self.kind, execution, data, at_s, LOSSES_MAX, warm=text(warm))
            for job_id, queue, data, warm in rows(crashed, 4)
        ]
        return int(requeued), found

    # --- finish -------------------------------------------------------------------------------------------------------
    async def finish(self, outcomes: Sequence[Disposition]) -> list[str]:
        """Write many dispositions in one step.

        :return: per job `ok`, `lost`, `unwanted` (created, but withdrawn meanwhile: still held), `broken`, or `refused` and
            Redis' error (still held: write it again later).
        """
        items = [(item.what, item.job.id, item.job.execution, item.job.queue, *item.args) for item in outcomes]
        call = scripts.finish(
            self._keys,
            cluster=self.cluster,
            worker=self._worker,
            spent_data=self._spent_data,
            results_max=self._settings.results_max_length,
            items=items,
            finished_max=FINISHED_MAX,
        )
        return [text(answer) for answer in await self._runner.run(call)]

    def refusal(self, error: str) -> RedisUnavailable:
        """The error for the answer `refused` of `finish`."""
        return unavailable(ResponseError(error), self._runner.client)

    def with_cleanup(self, job: Job, cleanup: CleanupRequest, attempt: int, what: What = "order") -> Disposition:
        """A disposition that queues a clean-up job: together with giving up `job` (`abandon`), or on its own."""
        queue = self._keys.cleanup_queue(self.cluster)
        return Disposition(job, what, (queue, *jobs.cleanup_job(cleanup, attempt, self._cipher)))

    # --- throttle, reports, quarantine --------------------------------------------------------------------------------
    async def throttle(
        self,
        event: ThrottleEvent,
        namespace: str = "",
        x: float = 0.0,
        y: float = 0.0,
        reason: str = "",
        message: str = "",
    ) -> float:
        """Share an answer of the API server with all launchers of the cluster, and return the seconds to wait."""
        call = scripts.throttle(
            self._keys, cluster=self.cluster, event=event, namespace=namespace, x=x, y=y, reason=reason, message=message
        )
        return float(await self._runner.run(call))

    async def publish(self, result: PodReport) -> int:
        """Publish a report: to the stream and the ledger, at most once per attempt."""
        now = f"{time.time():.6f}"
        where = {"pod": result.pod, "namespace": result.namespace, "uid": result.uid, "node": result.node}
        fields = {name: value for name, value in where.items() if value} if result.pod else {}
        if result.terminal:
            fields["t_finished"] = now
        return await self._publisher.publish(Outgoing(result, now, fields))

    def sealed(self, result: PodReport) -> str:
        """The report, encrypted."""
        return self._publisher.sealed(result)

    async def quarantine(self, job: Job, kind: QuarantineKind, why: str) -> None:
        """Record a job that could not be trusted or read; never its payload."""
        await self._runner.run(quarantine(self._keys, [Quarantined("job", job.id, kind, why)]))

    def open_launch(self, job: Job) -> LaunchRequest:
        """Decrypt and verify the launch in a job.

        :raises MessageError: forged, damaged, of another cluster, or replayed under another job id.
        """
        return jobs.read_launch(job.data, job.id, self.cluster, self._cipher)

    def open_cleanup(self, job: Job) -> CleanupRequest:
        """Decrypt and verify the clean-up in a job.

        :raises MessageError: as `open_launch`, or the pod belongs to another launch or attempt.
        """
        return jobs.read_cleanup(job.data, job.id, self.cluster, self._cipher)
