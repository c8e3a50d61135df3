"""Reads what anybody with access to Redis may have written, in bounded pieces: Redis passes over what is too long."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import redis

from podrelay.protocol.redis_keys import RedisKeys
from podrelay.protocol.redis_values import chunks, rows, text
from podrelay.protocol.sizes import RESULT_MAX
from podrelay.store.connection import unless_of_another_type
from podrelay.store.script_table import ScriptCall

# The fields of an entry beside its report are short texts.
_ENTRY_MAX = RESULT_MAX + 1000
# As in prelude.lua: what is longer was not written by podrelay.
VALUE_MAX = 16384
_HASHES_AT_ONCE = 500
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


def read_short(
    client: redis.Redis, hashes: Sequence[str], fields: Sequence[str], most: int = VALUE_MAX
) -> list[dict[str, str]]:
    """These fields of hashes, for a command that may not run scripts: without values of more than `most` bytes. Empty for a
    key of another type.

    :raises RedisError: Redis does not answer, or refuses.
    """
    return [entry for keys in chunks(hashes, _HASHES_AT_ONCE) for entry in _read_chunk(client, keys, fields, most)]


def _read_chunk(client: redis.Redis, keys: Sequence[str], fields: Sequence[str], most: int) -> Iterator[dict[str, str]]:
    lengths, values = client.pipeline(transaction=False), client.pipeline(transaction=False)
    for key in keys:
        for name in fields:
            lengths.hstrlen(key, name)
    found = rows(list(unless_of_another_type(lengths.execute(raise_on_error=False), 0)), len(fields))
    short = [[name for name, length in zip(fields, row, strict=True) if 0 < length <= most] for row in found]
    for key, names in zip(keys, short, strict=True):
        if names:
            values.hmget(key, names)
    answers = unless_of_another_type(values.execute(raise_on_error=False), ())
    for names in short:
        answer = next(answers) if names else ()
        yield {name: text(value) for name, value in zip(names, answer, strict=False) if value is not None}
