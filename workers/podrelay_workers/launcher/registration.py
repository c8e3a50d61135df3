"""A launcher's registration as an RQ worker, so that rq-dashboard, `rq info` and `airflow podrelay status` list it.

RQ's own Worker object writes it, in a thread, because it blocks; that object never runs a job. The worker's list of
executions stays empty: rq-dashboard's workers page would try to unpickle the job of a busy worker. Used by the launcher.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import uuid
from collections.abc import Callable, Sequence

from redis.exceptions import OutOfMemoryError, RedisError, ResponseError
from rq import Worker, worker_registration
from rq.serializers import JSONSerializer

from podrelay.protocol import redis_keys
from podrelay.protocol.retention import REGISTRATION_TTL_S
from podrelay.protocol.snapshots import SNAPSHOT_FIELD, LauncherSnapshot, encode_snapshot
from podrelay.settings import Settings
from podrelay.store.bounded_reads import fitting
from podrelay.store.connection import connect, is_of_another_type

log = logging.getLogger(__name__)

HEARTBEAT_S = 5.0
# RQ derives its own timeouts from this one.
_WORKER_TTL_S = 16


def unique_name() -> str:
    """A name never used before: RQ refuses the name of a worker that was killed a moment earlier."""
    return f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


class Registration:
    """Birth, heartbeats and death of one RQ worker. What Redis misses while unavailable, a later heartbeat writes."""

    def __init__(
        self,
        settings: Settings,
        name: str,
        queues: Sequence[str],
        counts: Callable[[], tuple[int, int, bool]],
        snapshot: Callable[[], LauncherSnapshot],
    ) -> None:
        """:param counts: returns finished and failed jobs so far, and whether any are held.
        :param snapshot: what the launcher does, for `status`; called in the event loop.
        """
        self._settings = settings
        self._name = name
        self._queues = list(queues)
        self._counts = counts
        self._snapshot = snapshot
        self._encoded = ""
        self._reported = (0, 0)
        self._worker: Worker | None = None

    async def keep(self) -> None:
        """Register, and send a heartbeat every `HEARTBEAT_S`, also to a Redis that has lost its data."""
        while True:
            self._encoded = encode_snapshot(self._snapshot())
            await self._try(self._heartbeat)
            await asyncio.sleep(HEARTBEAT_S)

    async def end(self) -> None:
        """Unregister."""
        await self._try(self._unregister)

    async def _try(self, step: Callable[[], None]) -> None:
        try:
            await asyncio.to_thread(step)
        except (RedisError, OSError, ValueError) as error:
            log.debug("Could not write the launcher's registration; will retry: %s", error)

    def _heartbeat(self) -> None:
        if self._worker is None:
            client = connect(self._settings, timeout_s=2.0)
            self._worker = Worker(
                self._queues, name=self._name, connection=client, serializer=JSONSerializer, worker_ttl=_WORKER_TTL_S
            )
        try:
            self._register(self._worker)
        except ResponseError as error:
            if not is_of_another_type(error):
                raise
            self._remove_other_types(self._worker)
            self._register(self._worker)

    def _register(self, worker: Worker) -> None:
        self._remove_long_sets(worker)
        if not worker.connection.hexists(worker.key, "birth"):  # not registered yet, or Redis lost its data
            worker.connection.delete(worker.key)
            worker.register_birth()
        try:
            self._update(worker)
        except OutOfMemoryError:  # needs no memory: a launcher that works in a full Redis must not count as dead
            worker.connection.expire(worker.key, REGISTRATION_TTL_S)

    def _remove_long_sets(self, worker: Worker) -> None:
        """Delete what nobody reads because of its length; each launcher registers again within seconds."""
        sets = dict.fromkeys(map(redis_keys.rq_workers, self._queues), "scard")
        for key, is_small in fitting(worker.connection, sets).items():
            if not is_small:
                log.warning("Deleted %s: more members than there are launchers", key)
                worker.connection.delete(key)

    def _remove_other_types(self, worker: Worker) -> None:
        """Delete those keys of the registration that somebody has given another type, so that it can be written again."""
        sets = (redis_keys.RQ_WORKERS, *map(redis_keys.rq_workers, self._queues))
        for key, read in ((worker.key, worker.connection.hgetall), *((name, worker.connection.scard) for name in sets)):
            try:
                read(key)
            except ResponseError:
                log.warning("Deleted %s: a key of another type than RQ gives it", key)
                worker.connection.delete(key)

    def _update(self, worker: Worker) -> None:
        finished, failed, busy = self._counts()
        with worker.connection.pipeline() as pipeline:
            worker.heartbeat(REGISTRATION_TTL_S, pipeline=pipeline)
            worker_registration.register(worker, pipeline=pipeline)  # again: the sets may be lost alone
            worker.set_state("busy" if busy else "idle", pipeline=pipeline)
            pipeline.hset(worker.key, SNAPSHOT_FIELD, self._encoded)
            pipeline.hincrby(worker.key, "successful_job_count", finished - self._reported[0])
            pipeline.hincrby(worker.key, "failed_job_count", failed - self._reported[1])
            pipeline.execute()
        self._reported = (finished, failed)

    def _unregister(self) -> None:
        if self._worker is not None:
            self._worker.register_death()
            self._worker.connection.close()
