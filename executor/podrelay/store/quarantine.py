"""The quarantine stream: entries that could not be trusted or read, each with its reason and never with its payload.

Everyone appends, operators read. Lua scripts append by the same rules, see prelude.lua.
"""

from __future__ import annotations

from typing import Any, Literal

from podrelay.protocol.redis_keys import RedisKeys
from podrelay.protocol.retention import QUARANTINE_MAX

Source = Literal["job", "launch", "stream_entry"]


def quarantine(target: Any, keys: RedisKeys, source: Source, name: str, reason: str) -> Any:
    """Append an entry through a client, or queue it on a pipeline. An asyncio client returns an awaitable.

    :param source: what `name` identifies; it becomes the entry's field.
    """
    return target.xadd(keys.quarantine, {source: name, "why": reason}, maxlen=QUARANTINE_MAX, approximate=True)
