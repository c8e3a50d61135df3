"""The scheduler's blocking Redis client: runs scripts, translates errors, and stops calling a Redis that fails.

A Redis that hangs costs one timeout per pause: a heartbeat never waits for it twice. Workers use `async_scripts` instead.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import redis
from redis.exceptions import NoScriptError, RedisError, ResponseError

from podrelay.errors import RedisRefused, RedisUnavailable
from podrelay.settings import Settings
from podrelay.store.connection import borrow_connection, connect, unavailable
from podrelay.store.outage_log import OutageLog
from podrelay.store.script_table import ScriptCall, packed, queue_loads

# The breaker stays open this long after a failure, twice as long after each further one, up to the maximum. A Redis that
# hangs then costs the scheduler a tenth of its time, and launches are offered within seconds of its recovery.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 4.0


class Posted(NamedTuple):
    """Scripts that were sent, and the connection on which their replies arrive; it has no other use until they are read."""

    connection: Any
    calls: Sequence[ScriptCall]
    # When the last of them was sent (monotonic).
    sent_s: float


class CircuitBreaker:
    """Runs scripts and commands on Redis.

    :raises RedisUnavailable: from every method, when Redis fails or the breaker is open. Whether a script ran is then
        unknown; all of ours may be repeated.
    :raises RedisRefused: Redis answered and refused the call. That opens nothing, and is logged here: who can do without
        the call may ignore it.
    """

    def __init__(self, settings: Settings, client: redis.Redis | None = None, outages: OutageLog | None = None) -> None:
        """:param outages: logs what Redis refuses."""
        self._outages = outages
        self._client = client or connect(settings)
        self._loaded: set[str] = set()
        self._open_until_s = 0.0
        self._failures = 0
        self._failure = RedisUnavailable("")
        # Successful round trips since the start.
        self.trips = 0
        # The present duration of a round trip, in seconds: the shortest of the latest, as they include Redis' own work.
        self.trip_s = 0.0
        self._durations_s: deque[float] = deque(maxlen=8)

    @property
    def available(self) -> bool:
        """False while the breaker is open. Makes no call."""
        return time.monotonic() >= self._open_until_s

    @property
    def has_failed(self) -> bool:
        """Has the latest call not reached Redis?"""
        return self._failures > 0

    def load(self, *names: str) -> None:
        """Load scripts in one round trip, so that their first run takes no extra one."""
        self.call(lambda client: queue_loads(client.pipeline(transaction=False), names).execute())
        self._loaded.update(names)

    def run(self, call: ScriptCall) -> Any:
        return self.run_many([call])[0]

    def run_many(self, calls: Iterable[ScriptCall]) -> list[Any]:
        """Run scripts in this order in one round trip; their replies, in order."""
        calls = list(calls)
        return self._accepted(self._replies(self.post(calls))) if calls else []

    def run_as_made(self, batches: Iterable[Sequence[ScriptCall]]) -> list[Any]:
        """As `run_many`, for calls that take time to make: Redis runs each batch of them while the next one is made.

        Whatever `batches` raises is raised; the scripts that were sent before may have run.

        :return: the replies, with a RedisRefused in place of that to a script that Redis refused.
        """
        posted: Posted | None = None
        try:
            for calls in batches:
                posted = self.post(calls, posted)
        except BaseException:
            if posted is not None:
                self.drop(posted)
            raise
        replies = self._replies(posted) if posted is not None else []
        return [self._refused(reply) if isinstance(reply, ResponseError) else reply for reply in replies]

    def call(self, command: Callable[[redis.Redis], Any]) -> Any:
        """Run any other command, or pipeline of commands."""
        if not self.available:
            raise self._waiting(self._open_until_s - time.monotonic())
        started_s = time.monotonic()
        try:
            reply = command(self._client)
        except (RedisError, OSError) as error:
            raise self._failed(error) from error
        self._note_trip(started_s)
        return reply

    def _note_trip(self, started_s: float) -> None:
        self._failures = 0
        self.trips += 1
        self._durations_s.append(time.monotonic() - started_s)
        self.trip_s = min(self._durations_s)

    def post(self, calls: Sequence[ScriptCall], behind: Posted | None = None) -> Posted:
        """Send scripts, to be run in this order, without waiting for their replies: `collect` reads them.

        :param behind: other scripts that were sent, to be run before these; what is returned replaces it. After a
            failure, they are still to be dropped.
        """
        if not self.available:
            raise self._waiting(self._open_until_s - time.monotonic())
        names = {call.name for call in calls}
        if not names <= self._loaded:  # else a large batch would be sent twice
            self._load(names)
        connection, before = (behind.connection, behind.calls) if behind is not None else (None, ())
        data, sent_s = packed(calls), time.monotonic()
        try:
            connection = connection or borrow_connection(self._client)
            # A check would take a reply that is on its way for its own.
            connection.send_packed_command([data], check_health=behind is None)
        except (RedisError, OSError) as error:
            if behind is None:
                self._give_back(connection, is_usable=False)
            raise self._failed(error) from error
        return Posted(connection, [*before, *calls], sent_s)

    def collect(self, posted: Posted) -> list[Any]:
        """The replies to scripts that were sent. Once for each; whatever happens, they may be run again."""
        return self._accepted(self._replies(posted, may_be_there=True))

    def _replies(self, posted: Posted, *, may_be_there: bool = False) -> list[Any]:
        replies = self._read(posted, may_be_there=may_be_there)
        # Redis lost its script cache in a restart or SCRIPT FLUSH.
        if any(isinstance(reply, NoScriptError) for reply in replies):
            self._loaded.clear()
            replies = self._read(self.post(posted.calls))
        return replies

    def _accepted(self, replies: list[Any]) -> list[Any]:
        """The replies, if Redis refused no script."""
        for reply in replies:
            if isinstance(reply, ResponseError):
                raise self._failed(reply) from reply
        return replies

    def _refused(self, error: ResponseError) -> RedisRefused:
        failure = self._failed(error)
        if not isinstance(failure, RedisRefused):
            raise failure from error
        return failure

    def _read(self, posted: Posted, *, may_be_there: bool = False) -> list[Any]:
        """The replies, with a ResponseError in place of that to a script that failed.

        :param may_be_there: other work was done since the scripts were sent. It is no round trip if the replies are there.
        """
        replies: list[Any] = []
        is_usable = False
        try:
            is_there = may_be_there and posted.connection.can_read(0)
            for _ in posted.calls:
                try:
                    replies.append(posted.connection.read_response())
                except ResponseError as error:
                    replies.append(error)
            is_usable = True
        except (RedisError, OSError) as error:
            raise self._failed(error) from error
        finally:
            self._give_back(posted.connection, is_usable=is_usable)
        if not any(isinstance(reply, ResponseError) for reply in replies):
            self._failures = 0
            if not is_there:
                self._note_trip(posted.sent_s)
        return replies

    def drop(self, posted: Posted) -> None:
        """In place of `collect`, after a failure: the replies are lost, or late."""
        self._give_back(posted.connection, is_usable=False)

    def _give_back(self, connection: Any, *, is_usable: bool) -> None:
        if connection is None:
            return
        if not is_usable:
            connection.disconnect()
        self._client.connection_pool.release(connection)

    def close(self) -> None:
        self._client.close()

    def _failed(self, error: Exception) -> RedisUnavailable:
        """What is to be raised: the breaker is open then, or the refusal logged."""
        failure = unavailable(error, self._client)
        if not isinstance(failure, RedisRefused):
            return self._open(failure)
        if self._outages is not None:
            self._outages.failed(failure)
        return failure

    def _open(self, failure: RedisUnavailable) -> RedisUnavailable:
        pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0**self._failures)
        self._failures += 1
        self._open_until_s, self._failure = time.monotonic() + pause_s, failure
        # A server that a failover made a replica may keep its connections, while the address leads to another one.
        self._client.connection_pool.disconnect(inuse_connections=False)
        return self._waiting(pause_s)

    def _waiting(self, seconds: float) -> RedisUnavailable:
        failure = self._failure
        return RedisUnavailable(str(failure), seconds, cause=failure.cause, answered=failure.answered)

    def _load(self, names: Iterable[str]) -> None:
        try:
            queue_loads(self._client.pipeline(transaction=False), names).execute()
        except (RedisError, OSError) as error:
            raise self._failed(error) from error
        self._loaded.update(names)
