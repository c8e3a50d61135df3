"""Reads what anybody with access to Redis may have written, in bounded pieces: Redis passes over what is too long."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

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
# A key with more members, or more bytes with Redis' overhead, was not written by podrelay.
_MEMBERS_MOST, _KEY_MAX = 20_000, 16 << 20
# Enough for a batch of ordinary reports, and read in some milliseconds.
_TOTAL_MAX = 1 << 20


def read_stream(keys: RedisKeys, stream: str, after: str, most: int = 0, fields: Sequence[str] = ()) -> ScriptCall:
    """Read at most `most` entries of a stream after this id; "$" as id: only find the last one.

    :param fields: return only these, flat: each entry as its id and their values. That costs the reader half.
    """
    return ScriptCall("read_stream", [stream, keys.quarantine], [after, most, _ENTRY_MAX, _TOTAL_MAX, *fields])


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


def fitting(client: redis.Redis, counts: Mapping[str, str]) -> dict[str, bool]:
    """Which of these keys are small enough to be read whole, by a command that may not run scripts. Keys that are empty, or
    of another type, are missing.

    :param counts: key to the command that counts its members: hlen, scard or xlen.
    :raises RedisError: Redis does not answer, or refuses.
    """
    pipeline = client.pipeline(transaction=False)
    for key, command in counts.items():
        pipeline.execute_command(command, key)
    found = dict(zip(counts, unless_of_another_type(pipeline.execute(raise_on_error=False), 0), strict=True))
    few = [key for key, number in found.items() if 0 < number <= _MEMBERS_MOST]
    for key in few:
        pipeline.memory_usage(key, samples=0)  # of all members: a sample may miss a long one
    sizes = pipeline.execute() if few else ()
    small = {key for key, size in zip(few, sizes, strict=True) if (size or 0) <= _KEY_MAX}
    return {key: key in small for key, number in found.items() if number}
