"""The pod's side of its mailbox: shows that the pod is alive, and waits for the workload. Plain commands only, as the pod's
user of Redis (role ``task`` in `podrelay.protocol.access`) may run no script.

Moving the workload from the list `in` to the list `taken` is the delivery: whoever sees it in `taken` knows that this pod has
it, even where the answer to the move was lost. So the pod looks there before each move.
"""

from __future__ import annotations

import contextlib
import logging
import time

import redis

from podrelay.errors import MessageError, PodrelayError, RedisUnavailable
from podrelay.protocol.mailbox import ALIVE_EVERY_S, ALIVE_TTL_S, MAILBOX_TTL_S, Delivery, MailboxKey
from podrelay.protocol.redis_keys import RedisKeys
from podrelay.settings import Settings
from podrelay.store.connection import close, connect, is_of_another_type, redis_errors
from podrelay.store.outage_log import OutageLog
from podrelay_workers.runtime.backoff import Backoff

# A pod that is away for longer than this lets its sign of life expire, and loses its place in the pool.
_RETRY_MOST_S = 1.5

log = logging.getLogger("podrelay_workers.warm_pod")


class DataLost(PodrelayError):
    """Redis has lost its data, and with it the pool: no launcher knows this pod."""


class Inbox:
    """The mailbox of this pod. No socket is open before `wait`, and none after `close`.

    :raises ConfigError: the address of Redis is invalid.
    """

    def __init__(self, settings: Settings, deployment: str, key: MailboxKey) -> None:
        self._client: redis.Redis = connect(settings, settings.redis_timeout_s + ALIVE_EVERY_S)
        keys = RedisKeys(deployment)
        self._alive, self._waiting = keys.mailbox_alive(key.name), keys.mailbox_waiting(key.name)
        self._in, self._taken = keys.mailbox_in(key.name), keys.mailbox_taken(key.name)
        self._key = key
        self._known = False
        self._outages = OutageLog(log, "This warm pod tries again until its idle time is over.")
        self._backoff = Backoff(first_s=0.1, most_s=_RETRY_MOST_S)

    def wait(self, limit_s: float) -> Delivery | None:
        """The workload, or None after `limit_s`. A Redis that fails is tried again meanwhile.

        :raises DataLost: as soon as that is certain.
        """
        end_s = time.monotonic() + limit_s
        while (left_s := end_s - time.monotonic()) > 0:
            pause_s = 0.0
            try:
                with redis_errors(self._client):
                    sealed = self._next(min(left_s, ALIVE_EVERY_S))
                    self._outages.worked()
                    if sealed is None:
                        self._backoff.worked()
                    elif (delivery := self._opened(sealed)) is not None:
                        return delivery
                    else:
                        pause_s = self._backoff.failed()
            except RedisUnavailable as error:
                self._outages.failed(error)
                pause_s = self._backoff.failed()
                close(self._client)  # a failover may have made it a replica, and the address leads to another server
            time.sleep(max(0.0, min(pause_s, end_s - time.monotonic())))
        return None

    def resign(self) -> None:
        """Show that the pod waits no longer, as far as Redis can be reached."""
        with contextlib.suppress(RedisUnavailable), redis_errors(self._client):
            self._client.delete(self._alive, self._waiting)

    def close(self) -> None:
        """Close every connection: the task must not inherit one."""
        close(self._client)

    def _next(self, limit_s: float) -> bytes | None:
        """What is taken, or is taken within `limit_s`.

        :raises DataLost: as `wait`.
        """
        try:
            taken = self._look()
            return taken or self._client.blmove(self._in, self._taken, limit_s, "LEFT", "RIGHT")
        except redis.ResponseError as error:
            if not is_of_another_type(error):
                raise
            self._client.delete(self._in, self._taken)
            return None

    def _look(self) -> bytes | None:
        """Renew the sign of life, and look for an item that was taken already.

        :raises DataLost: what this pod has written is gone. Its sign of life alone says nothing: that expires in an outage.
        """
        pipeline = self._client.pipeline(transaction=False)
        pipeline.set(self._waiting, "1", ex=MAILBOX_TTL_S, xx=self._known)
        pipeline.set(self._alive, "1", ex=int(ALIVE_TTL_S)).lindex(self._taken, -1)
        is_known, _, taken = pipeline.execute()
        if taken is None and not is_known:
            self._client.delete(self._alive)
            raise DataLost("Redis has lost its data: no launcher knows this warm pod any more.")
        self._known = True
        return taken

    def _opened(self, sealed: bytes) -> Delivery | None:
        """The delivery; None for an item that no launcher has sealed for this pod, which is dropped."""
        try:
            delivery = self._key.open(sealed)
        except MessageError as error:
            log.warning("Dropped an item of the mailbox: %s. This warm pod waits on.", error)
            self._client.delete(self._taken)
            return None
        for _ in range(2):  # the second time with a new connection
            with contextlib.suppress(redis.RedisError, OSError):
                self._client.expire(self._taken, MAILBOX_TTL_S)
                self._client.delete(self._waiting)
                break
        return delivery
