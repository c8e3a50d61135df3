"""The start-up of Redis that launcher and watcher share. `launcher.process` and `watcher.process` hold what differs."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

import redis.asyncio

from podrelay.errors import RedisUnavailable
from podrelay.protocol.identifiers import DEFAULT_CLUSTER
from podrelay.settings import Settings
from podrelay.store.connection import check, connect, connect_async
from podrelay.store.outage_log import OutageLog
from podrelay.store.permissions import require_rights
from podrelay_workers.runtime.backoff import Backoff
from podrelay_workers.runtime.readiness import Readiness
from podrelay_workers.runtime.shutdown import Shutdown

log = logging.getLogger(__name__)

Role = Literal["launcher", "watcher"]

# A worker may wait longer for Redis than a scheduler's heartbeat may: no task waits for its round trips.
REDIS_TIMEOUT_S = 2.0


@asynccontextmanager
async def redis_client(
    role: Role,
    settings: Settings,
    team: str | None,
    shutdown: Shutdown,
    readiness: Readiness,
    timeout_s: float = REDIS_TIMEOUT_S,
) -> AsyncIterator[redis.asyncio.Redis]:
    """A client, once Redis has answered and allows what this process needs, or shutdown was requested. Enter it last: it also
    freezes the garbage collector.

    :raises ConfigError: Redis can never work like this: wrong password, a Redis Cluster, too old.
    """
    await _wait_for_redis(role, settings, team, shutdown, readiness)
    client = connect_async(settings, timeout_s=timeout_s)
    # Imported modules live as long as the process: excluding them makes each collection cheaper.
    gc.collect()
    gc.freeze()
    # Most objects need no collection to die. After every 700 new ones, as Python has it, it took 3 % of a launcher's time.
    gc.set_threshold(10_000)
    try:
        yield client
    finally:
        await client.aclose()


async def _wait_for_redis(
    role: Role, settings: Settings, team: str | None, shutdown: Shutdown, readiness: Readiness
) -> None:
    backoff, outages = Backoff(0.2, 2.0), OutageLog(log, "Waiting for Redis.")
    while not shutdown.requested:
        try:
            for warning in await asyncio.to_thread(_check_redis, role, settings, team or DEFAULT_CLUSTER):
                log.warning("%s", warning)
            outages.worked()
            return
        except RedisUnavailable as error:
            outages.failed(error)
            readiness.waits()
            await shutdown.wait(backoff.failed())


def _check_redis(role: Role, settings: Settings, cluster: str) -> list[str]:
    with connect(settings, timeout_s=REDIS_TIMEOUT_S) as client:
        warnings = check(client)
        require_rights(client, role, settings.deployment, cluster)
        return warnings
