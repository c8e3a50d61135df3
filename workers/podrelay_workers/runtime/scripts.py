"""Our Lua scripts on Redis, from asyncio: one by one or many in one round trip. Used by the watcher's modules."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import redis.asyncio
from redis.exceptions import NoScriptError, RedisError

from podrelay.store.connection import unavailable

Call = tuple[str, Sequence[str], Sequence[str | int | float]]


class AsyncScripts:
    """:raises RedisUnavailable: from every call. What the scripts did is then unknown; all of ours may be repeated."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self.client = client
        self._texts: dict[str, str] = {}
        self._hashes: dict[str, str] = {}
        # Wall-clock time of Redis' last answer.
        self.last_reply_s = 0.0

    async def run(self, name: str, keys: Sequence[str], args: Sequence[str | int | float]) -> Any:
        return (await self.run_many([(name, keys, args)]))[0]

    async def run_many(self, calls: Sequence[Call]) -> list[Any]:
        """Run scripts in this order in one round trip; their answers."""
        try:
            try:
                return await self._send(calls)
            except NoScriptError:  # Redis was restarted or flushed
                for name in {call[0] for call in calls}:
                    await self.client.script_load(self._texts[name])
                return await self._send(calls)
        except (RedisError, OSError) as error:
            raise unavailable(error) from error

    async def _send(self, calls: Sequence[Call]) -> list[Any]:
        pipeline = self.client.pipeline(transaction=False)
        for name, keys, args in calls:
            pipeline.evalsha(self._hash(name), len(keys), *keys, *args)
        answers = list(await pipeline.execute())
        self.last_reply_s = time.time()
        return answers

    def _hash(self, name: str) -> str:
        if name not in self._hashes:
            self._texts[name] = files("podrelay.protocol").joinpath("lua", f"{name}.lua").read_text("utf-8")
            # Redis names a script by this hash; nothing rests on its strength.
            self._hashes[name] = hashlib.sha1(self._texts[name].encode(), usedforsecurity=False).hexdigest()
        return self._hashes[name]
