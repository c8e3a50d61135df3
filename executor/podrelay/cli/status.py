"""What `airflow podrelay status` shows: the overview of one cluster, and the ledger of one launch.

`status_text` renders the result for a terminal; `--json` prints it as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import redis
from airflow.configuration import conf
from redis.exceptions import RedisError

from podrelay.protocol import identifiers
from podrelay.protocol.messages import Json
from podrelay.protocol.redis_keys import RedisKeys
from podrelay.protocol.redis_values import text
from podrelay.settings import load_settings
from podrelay.store.connection import connect, is_of_another_type, unavailable
from podrelay.store.overview import read_overview

# A command may wait longer than a heartbeat of the scheduler.
_TIMEOUT_S = 5.0


def overview(team: str | None, now_s: float) -> Json:
    """The state of one cluster. Keys that end in `_s_ago` are seconds (float), None for never.

    :raises RedisUnavailable: Redis does not answer.
    """
    client, keys = _open()
    try:
        return read_overview(client, keys, team or identifiers.DEFAULT_CLUSTER, now_s)
    except RedisError as error:
        raise unavailable(error, client) from error


def describe_launch(launch_or_pod: str) -> dict[str, str]:
    """The ledger entry of one launch, without its encrypted result; empty if the ledger does not hold it.

    :param launch_or_pod: a launch id or the name of a pod.
    :raises RedisUnavailable: Redis does not answer.
    """
    client, keys = _open()
    try:
        entry = _hash(client, keys.launch(launch_or_pod))
        if not entry and (launch := identifiers.launch_of_pod(launch_or_pod)):
            entry = _hash(client, keys.launch(launch[0]))
    except RedisError as error:
        raise unavailable(error, client) from error
    entry.pop("result", None)
    return entry


def _open() -> tuple[redis.Redis, RedisKeys]:
    settings = load_settings(conf, conf.get("core", "fernet_key", fallback=""))
    return connect(settings, timeout_s=_TIMEOUT_S), RedisKeys(settings.deployment)


def _hash(client: redis.Redis, key: str) -> dict[str, str]:
    found = _unless_of_another_type(lambda: client.hgetall(key), {})
    return {text(name): text(value) for name, value in found.items()}


def _unless_of_another_type(read: Callable[[], Any], instead: Any) -> Any:
    """What stands in a key; `instead` while somebody has given it another type, until the first script deletes it."""
    try:
        return read()
    except RedisError as error:
        if is_of_another_type(error):
            return instead
        raise
