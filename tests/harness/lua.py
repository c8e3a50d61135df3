"""Runs a Lua script of podrelay once, as another process of the deployment would."""

from __future__ import annotations

from typing import Any

from podrelay.store.script_table import ScriptCall, script


def evaluate(client: Any, call: ScriptCall) -> Any:
    """The reply."""
    return client.eval(script(call.name).text, len(call.keys), *call.keys, *call.args)
