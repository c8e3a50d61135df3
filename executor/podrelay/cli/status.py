"""What `airflow podrelay status` reads from Redis: the overview of one cluster, or one launch.

`status_text` and `launch_text` render the result for a terminal.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import redis
from airflow.configuration import conf

from podrelay.cli.launch import KnownLaunch, read_launch
from podrelay.cli.status_problems import problems
from podrelay.protocol import identifiers
from podrelay.protocol.messages import Json
from podrelay.protocol.redis_keys import RedisKeys
from podrelay.settings import Settings, load_settings
from podrelay.store.connection import connect, redis_errors
from podrelay.store.overview import read_overview

# A command may wait longer than a heartbeat of the scheduler.
_TIMEOUT_S = 5.0


def overview(team: str | None, now_s: float) -> Json:
    """What `read_overview` returns, after `ok` and `problems`, a sentence for each.

    :raises RedisUnavailable: Redis does not answer, or refuses.
    """
    with _redis() as (client, keys, _):
        found = read_overview(client, keys, team or identifiers.DEFAULT_CLUSTER, now_s)
    wrong = problems(found)
    return {"ok": not wrong, "problems": wrong, **found}


def describe_launch(name: str, now_s: float) -> KnownLaunch | None:
    """What Redis knows of a launch; None if nothing.

    :param name: a launch id, the RQ job id of a launch, or the name of a pod.
    :raises RedisUnavailable: Redis does not answer, or refuses.
    """
    with _redis() as (client, keys, settings):
        return read_launch(client, keys, settings, name, now_s)


@contextmanager
def _redis() -> Iterator[tuple[redis.Redis, RedisKeys, Settings]]:
    """:raises ConfigError: an option is wrong.
    :raises RedisUnavailable: instead of any error of Redis.
    """
    settings = load_settings(conf, conf.get("core", "fernet_key", fallback=""))
    with connect(settings, timeout_s=_TIMEOUT_S) as client, redis_errors(client):
        yield client, RedisKeys(settings.deployment), settings
