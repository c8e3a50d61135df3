"""What `airflow podrelay status` shows: the overview of one cluster, and the ledger of one launch.

`status_text` renders the result for a terminal; `--json` prints it as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import redis
from airflow.configuration import conf
from redis.exceptions import RedisError

from podrelay.cli.status_problems import problems
from podrelay.protocol import identifiers
from podrelay.protocol.messages import Json
from podrelay.protocol.redis_keys import RedisKeys
from podrelay.protocol.redis_values import text
from podrelay.settings import load_settings
from podrelay.store.connection import connect, is_of_another_type, redis_errors
from podrelay.store.overview import read_overview

# A command may wait longer than a heartbeat of the scheduler.
_TIMEOUT_S = 5.0


def overview(team: str | None, now_s: float) -> Json:
    """What `read_overview` returns, after `ok` and `problems`, a sentence for each.

    :raises RedisUnavailable: Redis does not answer, or refuses.
    """
    with _redis() as (client, keys):
        found = read_overview(client, keys, team or identifiers.DEFAULT_CLUSTER, now_s)
    wrong = problems(found)
    return {"ok": not wrong, "problems": wrong, **found}


def describe_launch(launch_or_pod: str) -> dict[str, str]:
    """The ledger entry of one launch, without its encrypted result; empty if the ledger does not hold it.

    :param launch_or_pod: a launch id or the name of a pod.
    :raises RedisUnavailable: Redis does not answer.
    """
    with _redis() as (client, keys):
        entry = _hash(client, keys.launch(launch_or_pod))
        if not entry and (launch := identifiers.launch_of_pod(launch_or_pod)):
            entry = _hash(client, keys.launch(launch[0]))
    entry.pop("result", None)
    return entry


@contextmanager
def _redis() -> Iterator[tuple[redis.Redis, RedisKeys]]:
    """:raises ConfigError: an option is wrong.
    :raises RedisUnavailable: instead of any error of Redis.
    """
    settings = load_settings(conf, conf.get("core", "fernet_key", fallback=""))
    with connect(settings, timeout_s=_TIMEOUT_S) as client, redis_errors(client):
        yield client, RedisKeys(settings.deployment)


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
