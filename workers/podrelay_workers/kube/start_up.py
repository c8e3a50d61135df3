"""The start of a worker process: a client of the API server and one of Redis, both usable. Used by both workers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import redis.asyncio

from podrelay.settings import Settings
from podrelay_workers.kube.client import PodClient
from podrelay_workers.kube.loader_process import LoaderProcess
from podrelay_workers.runtime import process
from podrelay_workers.runtime.process import REDIS_TIMEOUT_S, Role
from podrelay_workers.runtime.readiness import Readiness
from podrelay_workers.runtime.shutdown import Shutdown


@asynccontextmanager
async def clients(
    role: Role,
    settings: Settings,
    team: str | None,
    shutdown: Shutdown,
    readiness: Readiness,
    *,
    connections: int,
    redis_timeout_s: float = REDIS_TIMEOUT_S,
    first_load: LoaderProcess | None = None,
) -> AsyncIterator[tuple[PodClient, redis.asyncio.Redis]]:
    """Both clients, once the credentials are loaded and Redis has answered. Enter it last (`process.redis_client`).

    :param connections: the most to the API server at once.
    :param first_load: a process that loads the credentials already.
    :raises ShutdownRequested: before the credentials were loaded.
    :raises ConfigError: an option is wrong; the message names it.
    """
    connecting = PodClient.connect(team, connections, role, readiness.waits, first_load)
    async with (
        await shutdown.race(connecting) as pods,
        process.redis_client(role, settings, team, shutdown, readiness, redis_timeout_s) as client,
    ):
        yield pods, client
