"""Reads what anybody with access to Redis may have written, in bounded pieces: Redis passes over what is too long."""

from __future__ import annotations

from collections.abc import Iterable

from podrelay.protocol.redis_keys import RedisKeys
from podrelay.protocol.sizes import RESULT_MAX
from podrelay.store.script_table import ScriptCall

# The fields of an entry beside its report are short texts.
_ENTRY_MAX = RESULT_MAX + 1000
# Enough for a batch of ordinary reports, and read in some milliseconds.
_TOTAL_MAX = 1 << 20


def read_stream(keys: RedisKeys, stream: str, after: str, most: int = 0) -> ScriptCall:
    """Read at most `most` entries of a stream after this id; "$" as id: only find the last one."""
    return ScriptCall("read_stream", [stream, keys.quarantine], [after, most, _ENTRY_MAX, _TOTAL_MAX])


def read_entries(keys: RedisKeys, launch_ids: Iterable[str]) -> ScriptCall:
    """Read the ledger entries of these launches."""
    return ScriptCall("read_entries", [keys.quarantine], [keys.launch_prefix, *launch_ids])


def read_launches(
    keys: RedisKeys, key: str, *, before: float, most: int, cursor: str = "", left_out: int = 0
) -> ScriptCall:
    """Read launch ids with a score below `before` from a sorted set.

    :param cursor: scan the set from here; empty: the lowest scores first, without the first `left_out`.
    """
    return ScriptCall("read_launches", [keys.quarantine], [key, f"{before:.6f}", most, cursor, left_out])
