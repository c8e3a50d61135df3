"""Reads and writes the rollups of a cluster: counts of what happened to its launches, in buckets of five minutes.

The watcher reads the next entries of the results stream (`read_steps`) and writes what it counted (`write_rollups`); its
next leader, and the page in Airflow's UI, read them all. Whatever is not a rollup of podrelay is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import redis

from podrelay.protocol.redis_keys import RedisKeys
from podrelay.protocol.redis_values import number_of, text
from podrelay.protocol.rollups import KEPT, STEPS, TEXT_MAX, ReportedStep, Rollup, bucket_starts, decode
from podrelay.store.bounded_reads import read_short
from podrelay.store.script_table import ScriptCall
from podrelay.store.scripts import Fence

CURSOR = "cursor"
_ENTRY_ID = re.compile(r"(\d{1,20})-(\d{1,20})")
_LEDGER_FIELDS = tuple(sorted({field for fields in STEPS.values() for field in fields}))


def read_steps(keys: RedisKeys, *, cluster: str, after: str, most: int) -> ScriptCall:
    """Read what the results stream says about the launches of a cluster behind this entry. Its reply goes to `steps_in`."""
    return ScriptCall(
        "read_steps", [keys.results], [after, most, keys.launch_prefix, cluster, ",".join(_LEDGER_FIELDS)]
    )


def steps_in(reply: Sequence[Any]) -> tuple[str, list[ReportedStep]]:
    """The id of the last entry that was read, and what the entries say."""
    return text(reply[0]), [_step(*map(text, row)) for row in reply[1]]


def _step(entry_id: str, outcome: str, first_run: str, failure_class: str, *values: str) -> ReportedStep:
    at_s = number_of(entry_id.partition("-")[0]) / 1000.0
    return ReportedStep(at_s, outcome, first_run == "1", failure_class, dict(zip(_LEDGER_FIELDS, values, strict=True)))


def write_rollups(
    keys: RedisKeys, *, cluster: str, fence: Fence, oldest: int, cursor: str, changed: Mapping[int, str]
) -> ScriptCall:
    """Write encoded rollups by bucket, and the entry up to which they count; remove buckets before `oldest`."""
    args: list[str | int | float] = [*fence, keys.watch(cluster), oldest, KEPT + 2, cursor]
    for bucket, encoded in changed.items():
        args += [bucket, encoded]
    return ScriptCall("roll_up", [keys.rollups(cluster)], args)


def load_rollups(keys: RedisKeys, *, cluster: str, now_s: float) -> ScriptCall:
    """Read all rollups, and the entry up to which they count. Its reply goes to `loaded`."""
    return ScriptCall("read_rollups", [keys.rollups(cluster)], [TEXT_MAX, CURSOR, *map(str, bucket_starts(now_s))])


def loaded(call: ScriptCall, reply: Sequence[Any]) -> tuple[str, dict[int, Rollup]]:
    """The cursor, empty if there is none that Redis would accept, and the rollups by bucket."""
    cursor, *values = map(text, reply)
    parts = _ENTRY_ID.fullmatch(cursor)
    valid = parts is not None and max(map(int, parts.groups())) < 1 << 64
    return cursor if valid else "", _decoded(call.args[2:], values)


def read_rollups(client: redis.Redis, keys: RedisKeys, cluster: str, now_s: float) -> dict[int, Rollup]:
    """The rollups of the last 24 hours by bucket, with commands that only read; buckets without any event are missing.

    :raises RedisError: Redis does not answer, or refuses.
    """
    (found,) = read_short(client, [keys.rollups(cluster)], list(map(str, bucket_starts(now_s))), TEXT_MAX)
    return _decoded(found, found.values())


def _decoded(buckets: Iterable[str | int | float], values: Iterable[str]) -> dict[int, Rollup]:
    return {int(bucket): decode(value) for bucket, value in zip(buckets, values, strict=True) if value}
