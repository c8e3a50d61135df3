"""The Lua scripts as Redis knows them: text and SHA, read once per process. Used by `scripts` and by both script runners."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import hiredis

# A script with this line in its header calls functions of prelude.lua, which then precedes it.
_RUNS_BEHIND_PRELUDE = "\n-- Runs behind prelude.lua.\n"


@dataclass(frozen=True, slots=True)
class Script:
    """One Lua script. `sha` is the name under which Redis caches it."""

    text: str
    sha: str


@dataclass(frozen=True, slots=True)
class ScriptCall:
    """One execution of a script, with KEYS and ARGV in the script's order. Only `podrelay.store` builds it: `scripts`,
    `quarantine` and `key_rings`.
    """

    name: str
    keys: Sequence[str]
    args: Sequence[str | int | float]


@cache
def script(name: str) -> Script:
    """The script of this name; its header documents KEYS, ARGV and the reply."""
    text = _read(name)
    if _RUNS_BEHIND_PRELUDE in text:
        text = _read("prelude") + text
    # Redis prescribes SHA-1 here; nothing depends on its strength.
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


def evalsha(target: Any, call: ScriptCall) -> Any:
    """Send the call to a client, or queue it on a pipeline. An asyncio client returns an awaitable."""
    return target.evalsha(script(call.name).sha, len(call.keys), *call.keys, *call.args)


def packed(calls: Iterable[ScriptCall]) -> bytes:
    """The calls as a connection sends them. redis-py would check each argument in Python first, which takes longer."""
    return b"".join(map(_packed, calls))


def _packed(call: ScriptCall) -> bytes:
    words: Any = ("EVALSHA", script(call.name).sha, len(call.keys), *call.keys, *call.args)
    return hiredis.pack_command(words)


def queue_calls(pipeline: Any, calls: Iterable[ScriptCall]) -> Any:
    """The pipeline, with the calls queued on it."""
    for call in calls:
        evalsha(pipeline, call)
    return pipeline


def queue_loads(pipeline: Any, names: Iterable[str]) -> Any:
    """The pipeline, with the loading of these scripts queued on it."""
    for name in names:
        pipeline.script_load(script(name).text)
    return pipeline


def _read(name: str) -> str:
    return files("podrelay.protocol").joinpath("lua", f"{name}.lua").read_text("utf-8")
