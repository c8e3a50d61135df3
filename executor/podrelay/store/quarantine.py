"""The quarantine stream: entries that could not be trusted or read, each with its reason and never with its payload.

Everyone appends, operators read. Lua scripts append by the same rules, see prelude.lua. A full Redis takes these entries too:
a forged job must not come back again and again because its quarantine is refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

from podrelay.errors import QuarantineKind
from podrelay.protocol.redis_keys import RedisKeys
from podrelay.protocol.retention import QUARANTINE_MAX
from podrelay.store.script_table import ScriptCall

Source = Literal["job", "launch", "stream_entry", "key"]


class Quarantined(NamedTuple):
    """One entry. `source` is what `name` identifies; it becomes the entry's field."""

    source: Source
    name: str
    kind: QuarantineKind
    reason: str


def quarantine(keys: RedisKeys, entries: Iterable[Quarantined]) -> ScriptCall:
    """Append these entries; for either script runner."""
    args: list[str | int | float] = [QUARANTINE_MAX]
    for entry in entries:
        args += entry
    return ScriptCall("quarantine", [keys.quarantine], args)
