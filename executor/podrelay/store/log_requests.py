"""Requests of executors for the last lines of logs, taken by the leading watcher: encrypted reports about the pods.

Whatever is lost here costs the log lines in one entry of an event log and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence

from podrelay.protocol.redis_keys import RedisKeys
from podrelay.protocol.retention import LOG_REQUESTS_MAX, LOG_REQUESTS_TTL_S
from podrelay.store.script_table import ScriptCall


def request_logs(keys: RedisKeys, *, cluster: str, requests: Sequence[str]) -> ScriptCall:
    """Add these requests, or the last of them."""
    return ScriptCall(
        "log_requests",
        [keys.log_requests(cluster)],
        [0, LOG_REQUESTS_MAX, LOG_REQUESTS_TTL_S, *requests[-LOG_REQUESTS_MAX:]],
    )


def take_log_requests(keys: RedisKeys, *, cluster: str, most: int) -> ScriptCall:
    """Take the oldest requests."""
    return ScriptCall("log_requests", [keys.log_requests(cluster)], [most, LOG_REQUESTS_MAX, LOG_REQUESTS_TTL_S])
