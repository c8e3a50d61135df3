"""Reads what the pages show from Redis, in threads: the API server's event loop never waits.

A reading is kept for a moment and taken once at a time, so that the number of viewers costs Redis nothing. Where Redis or an
option fails, a reading is a sentence that says so, under `error`: a page shows it. A Redis that hangs is left alone for a
moment, so that requests do not queue up behind it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import redis
from airflow.configuration import conf

from podrelay.errors import ConfigError, RedisUnavailable
from podrelay.protocol.messages import Json
from podrelay.protocol.redis_keys import RedisKeys
from podrelay.settings import load_settings
from podrelay.store.bounded_reads import read_short
from podrelay.store.circuit_breaker import CircuitBreaker
from podrelay.store.connection import connect
from podrelay.store.overview import read_overview
from podrelay.store.rollups import read_rollups
from podrelay.ui.attempts import LEDGER_FIELDS
from podrelay.ui.series import history

# A page may wait longer than a heartbeat of the scheduler.
_TIMEOUT_S = 2.0
NOW_KEPT_S, HISTORY_KEPT_S = 2.0, 10.0
_THREADS = 2
_HINT = "The API server reads podrelay's pages from there: it needs [podrelay] redis_url as well, best of the user `status`."

Read = Callable[[redis.Redis, RedisKeys], Json]


class Reading:
    """What a coroutine function returned last. It runs once at a time, and again when its result is `kept_s` old."""

    def __init__(self, read: Callable[[], asyncio.Future[Json]], kept_s: float) -> None:
        self._read = read
        self._kept_s = kept_s
        self._running: asyncio.Future[Json] | None = None
        self._until_s = 0.0

    async def get(self) -> Json:
        """:raises Exception: what the function raised; all who wait for it get the same."""
        if self._running is None or (self._running.done() and time.monotonic() >= self._until_s):
            self._running = self._read()
            self._running.add_done_callback(lambda _: self._keep())
        return await asyncio.shield(self._running)  # a viewer who leaves does not end it for the others

    def _keep(self) -> None:
        self._until_s = time.monotonic() + self._kept_s


class Readings:
    """The readings of one API server process, per cluster. Use it from one event loop."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="podrelay-page")
        self._kept: dict[tuple[str, str], Reading] = {}
        self._source: tuple[CircuitBreaker, RedisKeys] | None = None
        # `[podrelay] dashboard_url`, once the options have been read: a command or a secrets backend may provide some.
        self.dashboard_url = ""

    async def now(self, cluster: str) -> Json:
        """The overview of a cluster."""
        return await self._reading("now", cluster, _read_now, NOW_KEPT_S)

    async def history(self, cluster: str) -> Json:
        """Its last 24 hours."""
        return await self._reading("history", cluster, _read_history, HISTORY_KEPT_S)

    async def entries(self, launch_ids: Sequence[str]) -> Json:
        """The ledger entries of these launches by id; empty for a launch that the ledger does not hold."""
        return await self._run(partial(_read_entries, launch_ids))

    async def _reading(self, name: str, cluster: str, read: Callable[..., Json], kept_s: float) -> Json:
        """Only ask for clusters that exist: each is remembered."""
        if (name, cluster) not in self._kept:
            self._kept[name, cluster] = Reading(lambda: self._run(partial(read, cluster)), kept_s)
        return await self._kept[name, cluster].get()

    def _run(self, read: Read) -> asyncio.Future[Json]:
        return asyncio.get_running_loop().run_in_executor(self._threads, self._safely, read)

    def _safely(self, read: Read) -> Json:
        try:
            breaker, keys = self._source = self._source or self._connected()
            found: Json = breaker.call(lambda client: read(client, keys))
        except ConfigError as error:
            return {"error": str(error)}
        except RedisUnavailable as error:
            return {"error": f"{error} {_HINT}"}
        return found

    def _connected(self) -> tuple[CircuitBreaker, RedisKeys]:
        """:raises ConfigError: an option is wrong."""
        settings = load_settings(conf)
        self.dashboard_url = settings.dashboard_url
        return CircuitBreaker(settings, connect(settings, timeout_s=_TIMEOUT_S)), RedisKeys(settings.deployment)


def _read_now(cluster: str, client: redis.Redis, keys: RedisKeys) -> Json:
    now_s = time.time()
    overview = read_overview(client, keys, cluster, now_s)
    examples = sorted({wait["example"] for wait in overview["waits"]} - {""})
    found = read_short(client, [keys.launch(launch_id) for launch_id in examples], ("kind", "key"))
    return {"read_at_s": now_s, "overview": overview, "examples": dict(zip(examples, found, strict=True))}


def _read_history(cluster: str, client: redis.Redis, keys: RedisKeys) -> Json:
    now_s = time.time()
    return {"read_at_s": now_s, "history": history(read_rollups(client, keys, cluster, now_s), now_s)}


def _read_entries(launch_ids: Sequence[str], client: redis.Redis, keys: RedisKeys) -> Json:
    found = read_short(client, [keys.launch(launch_id) for launch_id in launch_ids], LEDGER_FIELDS)
    return {"read_at_s": time.time(), "entries": dict(zip(launch_ids, found, strict=True))}
