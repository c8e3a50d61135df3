"""Follows the orders of `airflow podrelay drain`: take nothing more, and then exit, or wait for the order to go on.

Used by the launcher. Redis only carries an order; once it was read, it holds for the life of this process, whatever becomes
of Redis' data. A forged order does what an operator can do: launches wait for another launcher, or for the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

import redis.asyncio

from podrelay.errors import RedisUnavailable
from podrelay.protocol.orders import EXIT, GO_ON, HOLD, ORDER_MAX
from podrelay.protocol.redis_values import text
from podrelay.store.async_scripts import AsyncScripts
from podrelay.store.connection import unless_of_another_type
from podrelay_workers.runtime.shutdown import Shutdown

log = logging.getLogger(__name__)

# An order is also announced on the wake-up channel; this finds it if the message was lost.
POLL_S = 5.0


class Drain:
    """One launcher's orders. `held`: it takes nothing until an order to go on."""

    def __init__(self, runner: AsyncScripts, key: str, shutdown: Shutdown) -> None:
        """:param key: `RedisKeys.drain` of this launcher."""
        self._runner = runner
        self._key = key
        self._shutdown = shutdown
        self._announced = asyncio.Event()
        self.held = False

    def announce(self) -> None:
        """Some launcher of the cluster has got an order."""
        self._announced.set()

    async def follow(self, changed: Callable[[], None]) -> None:
        """Read and obey orders, until cancelled.

        :param changed: called after `held` has changed.
        """
        while True:
            with contextlib.suppress(RedisUnavailable):
                if self._obey(text(await self._runner.call(self._read))):
                    changed()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._announced.wait(), POLL_S)
            self._announced.clear()

    async def _read(self, client: redis.asyncio.Redis) -> bytes | None:
        """The order, or the beginning of whatever somebody else has written there."""
        pipeline = client.pipeline(transaction=False).getrange(self._key, 0, ORDER_MAX)
        order: bytes | None
        (order,) = unless_of_another_type(await pipeline.execute(raise_on_error=False), None)
        return order

    def _obey(self, order: str) -> bool:
        """Whether `held` has changed. What is no order, or none that is new, changes nothing."""
        if order == EXIT and not self._shutdown.requested:
            log.info("Draining: finishing what is in hand, then exiting")
            self._shutdown.request()
        held = order == HOLD if order in (HOLD, GO_ON) else self.held
        if held == self.held:
            return False
        log.info(
            "Draining: finishing what is in hand, taking nothing more" if held else "Drain ended; taking jobs again"
        )
        self.held = held
        return True
