"""The asyncio script runner of launchers and watchers; the scheduler's blocking one is `circuit_breaker`."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import redis.asyncio
from redis.exceptions import NoScriptError, ReadOnlyError

from podrelay.errors import RedisUnavailable
from podrelay.store.connection import redis_errors
from podrelay.store.outage_log import OutageLog
from podrelay.store.script_table import ScriptCall, evalsha, queue_calls, queue_loads

log = logging.getLogger(__name__)

_Reply = TypeVar("_Reply")


class AsyncScripts:
    """:raises RedisUnavailable: from every method. Whether a script ran is then unknown; all of ours may be repeated."""

    def __init__(self, client: redis.asyncio.Redis, outages: OutageLog | None = None) -> None:
        """:param outages: learns of each failure and success; the same for all runners of a process."""
        self.client = client
        self.outages = outages or OutageLog(log, "")
        # Wall-clock time of Redis' last reply.
        self.last_reply_s = 0.0

    async def run(self, call: ScriptCall) -> Any:
        return await self._retry_loaded([call], lambda: evalsha(self.client, call))

    async def run_many(self, calls: Sequence[ScriptCall]) -> list[Any]:
        """Run scripts in this order in one round trip; their replies, in order."""

        def send() -> Awaitable[list[Any]]:
            return queue_calls(self.client.pipeline(transaction=False), calls).execute()

        return await self._retry_loaded(calls, send)

    async def call(self, command: Callable[[redis.asyncio.Redis], Awaitable[_Reply]]) -> _Reply:
        """Any other command, or pipeline of commands."""
        with self._errors():
            return self._received(await command(self.client))

    async def _retry_loaded(self, calls: Sequence[ScriptCall], send: Callable[[], Awaitable[_Reply]]) -> _Reply:
        with self._errors():
            try:
                return self._received(await send())
            except NoScriptError:  # not cached yet, or lost in a restart or SCRIPT FLUSH
                await queue_loads(self.client.pipeline(transaction=False), {call.name for call in calls}).execute()
                return self._received(await send())
            except ReadOnlyError:  # a failover made it a replica; the address may lead to another server by now
                await self.client.connection_pool.disconnect(inuse_connections=False)
                raise

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            with redis_errors(self.client):
                yield
        except RedisUnavailable as error:
            self.outages.failed(error)
            raise
        self.outages.worked()

    def _received(self, reply: _Reply) -> _Reply:
        self.last_reply_s = time.time()
        return reply
