"""One Redis client for the scheduler's side, with our scripts loaded, foreign errors translated and a circuit breaker.

A Redis that hangs costs one timeout, then nothing until the next try: the scheduler's heartbeat never waits twice.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from importlib.resources import files
from typing import Any

import redis
from redis.exceptions import AuthenticationError, NoScriptError, RedisError

from podrelay.errors import RedisUnavailable
from podrelay.settings import Settings
from podrelay.store.connection import connect, unavailable

# After a failure Redis is left alone for this long, twice as long after each further one, up to the longest: a Redis that
# hangs then costs the scheduler a tenth of its time, and a hand-over comes within seconds of its return.
BREAK_S, LONGEST_BREAK_S = 1.0, 4.0


def script(name: str) -> str:
    """Text of one of our Lua scripts; each says its keys, arguments and answer at its head."""
    return files("podrelay.protocol").joinpath("lua", f"{name}.lua").read_text("utf-8")


class CircuitBreaker:
    """Runs scripts and commands on Redis.

    :raises RedisUnavailable: from every call, when Redis does not answer or the breaker is open. What a script did
        is then unknown; all of ours may be repeated.
    """

    def __init__(self, settings: Settings, client: redis.Redis | None = None) -> None:
        self._client = client or connect(settings)
        self._scripts: dict[str, Any] = {}
        self._loaded: set[str] = set()
        self._closed_until = 0.0
        self._failures = 0
        self._why = ""
        # Calls that were answered since the start, and how long the last few took, in seconds.
        self.trips = 0
        self._took_s: deque[float] = deque(maxlen=8)

    @property
    def available(self) -> bool:
        """False while the breaker is open. Costs nothing."""
        return time.monotonic() >= self._closed_until

    @property
    def trip_s(self) -> float:
        """What a round trip takes at present: the shortest of the last few, as what Redis had to do is no part of it."""
        return min(self._took_s, default=0.0)

    def load(self, *scripts: str) -> None:
        """Make these scripts known to Redis, in one round trip: their first run then needs no trip more than others."""

        def send(client: redis.Redis) -> None:
            pipeline = client.pipeline(transaction=False)
            for name in scripts:
                pipeline.script_load(self._script(name).script)
            pipeline.execute()
            self._loaded.update(scripts)

        self.call(send)

    def run(self, name: str, keys: list[str], args: Iterable[Any]) -> Any:
        return self.call(lambda client: self._script(name)(keys=keys, args=list(args), client=client))

    def run_many(self, name: str, calls: Iterable[tuple[list[str], list[Any]]]) -> list[Any]:
        """Several runs of one script in one round trip."""
        calls = list(calls)
        if not calls:
            return []
        lua = self._script(name)

        def send(client: redis.Redis) -> list[Any]:
            pipeline = client.pipeline(transaction=False)
            for keys, args in calls:
                pipeline.evalsha(lua.sha, len(keys), *keys, *args)
            return list(pipeline.execute())

        def send_loading(client: redis.Redis) -> list[Any]:
            if name not in self._loaded:
                client.script_load(lua.script)
                self._loaded.add(name)
            try:
                return send(client)
            except NoScriptError:  # a Redis that was restarted or flushed has forgotten the script
                client.script_load(lua.script)
                return send(client)

        return list(self.call(send_loading))

    def call(self, command: Callable[[redis.Redis], Any]) -> Any:
        if not self.available:
            raise RedisUnavailable(self._why, self._closed_until - time.monotonic())
        begun_s = time.monotonic()
        try:
            answer = command(self._client)
        except (RedisError, OSError) as error:
            pause_s = min(LONGEST_BREAK_S, BREAK_S * 2.0**self._failures)
            self._failures += 1
            self._closed_until, self._why = time.monotonic() + pause_s, str(unavailable(error))
            if isinstance(error, AuthenticationError):
                self._why = f"[podrelay] redis_url: Redis refuses the user or password ({error})."
            raise RedisUnavailable(self._why, pause_s) from error
        self._failures = 0
        self.trips += 1
        self._took_s.append(time.monotonic() - begun_s)
        return answer

    def close(self) -> None:
        self._client.close()

    def _script(self, name: str) -> Any:
        if name not in self._scripts:
            self._scripts[name] = self._client.register_script(script(name))
        return self._scripts[name]
